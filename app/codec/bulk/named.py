"""The inputs of a JSON bulk request by name, and the outputs of its answer.

    "inputs": {"audio": [[[1, 2, 3, 4]], ...], "gain": [[0.5], ...]}

By input there is a list of steps for each session. The answer has `outputs` of the same form where the
sessions' network has several outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from app.codec import answers, chunks
from app.codec.bulk.request import BulkLimits, check_column_length, check_session_count
from app.codec.limits import DECODE_ERRORS
from app.errors import Unprocessable
from app.jobs.answers import BulkAnswer
from models.arrays import AnyArray, Numbers
from models.forecaster import COVERS

_decode_inputs = msgspec.json.Decoder(dict[str, Any]).decode


def chunk_texts(inputs: Mapping[str, Sequence[msgspec.Raw]], count: int, limits: BulkLimits) -> list[bytes]:
    """For each of `count` sessions the JSON object of its inputs.

    Raises
    ------
    Unprocessable, TooLarge : the whole request is refused
    """
    check_session_count(count, limits)
    if not inputs:
        raise Unprocessable("inputs is empty: it needs the numbers of each input", field="inputs")
    keys = [msgspec.json.encode(name) for name in inputs]
    for name, column in inputs.items():
        check_column_length(f"inputs.{name[:80]}", len(column), count)
    return [
        b"{%b}" % b",".join(b"%b:%b" % (key, bytes(item)) for key, item in zip(keys, items, strict=True))
        for items in zip(*inputs.values(), strict=True)
    ]


def decode_chunk(text: bytes, limits: BulkLimits) -> dict[str, Numbers]:
    """[steps, ...] of each input of one session.

    Raises
    ------
    Unprocessable : names the input
    TooLarge : more observations than the limit
    """
    try:
        inputs = _decode_inputs(text)
    except DECODE_ERRORS as error:
        raise Unprocessable(f"the inputs are not numbers: {error}", field="inputs") from None
    for name, steps in inputs.items():
        if not isinstance(steps, list):
            raise Unprocessable(f"inputs.{name[:80]} needs a list of steps for each session", field="inputs")
    return chunks.parse_inputs(inputs, limits.chunk)


def outputs(answer: BulkAnswer, depths: int | Sequence[int]) -> dict[str, Any]:
    """By output, an entry for each session: [steps, *shape], or [*shape] where a chunk was one row or number.

    Parameters
    ----------
    depths : as in `BulkRequest`
    """
    width = sum(port.size for port in answer.ports)
    arrays = answers.by_port(answer.predictions.reshape(-1, width), answer.ports)
    return {name: _by_session(array, answer, depths) for name, array in arrays.items()}


def _by_session(rows: AnyArray, answer: BulkAnswer, depths: int | Sequence[int]) -> Any:
    steps = answer.steps
    if COVERS in answer.extra_outputs:
        depths = 3
    elif isinstance(depths, int) and not answer.errors and (steps == steps[0]).all():
        return rows.reshape(-1, int(steps[0]), *rows.shape[1:]) if depths == 3 else rows
    each = np.split(rows, np.cumsum(steps)[:-1])
    nested = [depths] * len(each) if isinstance(depths, int) else depths
    return [
        None if i in answer.errors else part if depth == 3 else part[0]
        for i, (part, depth) in enumerate(zip(each, nested, strict=True))
    ]
