"""Records as a store is told of them: in blocks."""

from __future__ import annotations

from collections.abc import Iterable

from app.stores import Block, Record


def blocks(records: Iterable[Record]) -> list[Block]:
    """These records, a block a model."""
    by_model: dict[str, list[Record]] = {}
    for one in records:
        by_model.setdefault(one.fingerprint, []).append(one)
    return [_block(model, some) for model, some in by_model.items()]


def _block(model: str, some: Iterable[Record]) -> Block:
    columns = zip(*((one.session, one.position, one.deadline, one.body) for one in some), strict=True)
    return Block(model, *columns)
