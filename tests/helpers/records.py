"""Records in blocks, the form in which a store gets them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from app.session.notes import Notes
from app.session.rows import Rows, header_type, pack
from app.stores import Block, NamesQuery, Record, Store


def blocks(records: Iterable[Record]) -> list[Block]:
    """These records, in one block for each model."""
    by_model: dict[str, list[Record]] = {}
    for record in records:
        by_model.setdefault(record.fingerprint, []).append(record)
    return [_block(model, model_records) for model, model_records in by_model.items()]


def _block(model: str, model_records: Iterable[Record]) -> Block:
    columns = zip(
        *((record.session, record.position, record.deadline, record.body) for record in model_records),
        strict=True,
    )
    return Block(model, *columns)


def labelled(session: str, *labels: str, fingerprint: str = "f" * 64) -> Record:
    """A record of a session with these labels."""
    rows = Rows(np.zeros(1, header_type(1, 1)), np.zeros((1, 2), np.float32))
    if labels:
        rows.notes[0] = Notes(labels)
    return Record(session, fingerprint, float("inf"), pack(rows)[0], 1)


def list_sessions(store: Store, *query: Any, **options: Any) -> list[tuple[str, str]]:
    """(name, fingerprint) of the sessions of a page, which a `NamesQuery` of these arguments describes."""
    return list(store.names(NamesQuery(*query, **options)).found)
