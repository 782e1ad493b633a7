"""A session as a file, which `GET /sessions/{id}/state` returns and `PUT` accepts.

The file describes itself and can be read with any safetensors library: the carry, the position, the
fingerprint that the carry belongs to, and the answers that replays need. A client sends it, so everything in
it is checked before it is used.

    __metadata__        format, version, session, model, fingerprint, position, since_reset,
                        created, updated (seconds since 1970), ttl_seconds (inf: never),
                        labels and alert, where it has any (JSON objects)
                        checksum (SHA-256 over the other metadata and every tensor)
    carry               f32 [carry_size]: the network's state, such as (h, c) as [2, layers, hidden], then
                        the last prediction, scaled, then what the session has learned, then the last
                        observations, where the server keeps them; the fingerprint names the kind of learning
                        where the session chose it. The words of a graph may hold other types than f32
    recent.steps        i64 [chunks]: lengths of the last chunks, newest first
    recent.digests      u64 [chunks]
    recent.{i}.{name}   f32 [steps, ...]: their answers: predictions, forecast, intervals, scores; f64
                        where the model's outputs are whole numbers; of samples the outputs of their frames,
                        and f64 [1, 2] covers and [n, 2] events (`SampleNet.answer`)
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from app.errors import Unprocessable
from app.session import recent_answers
from app.session.notes import (
    NO_NOTES,
    Alert,
    Labels,
    Notes,
    labels_by_name,
    parse_alert,
    parse_labels,
    shared_notes,
)
from app.session.rows import Answer, Rows, header_type
from models.arrays import AnyArray, Floats
from models.forecaster import COVERS, EVENTS, Forecaster

MAX_HEADER_BYTES = 2**20  # about 10,000 tensors; reading 150,000 takes over a second
FORMAT, VERSION = "carryover-session", "1"
MAX_CHUNKS = 4096
MAX_POSITION = 2**62  # so that chunks can still advance the position within an int64
MAX_TTL_SECONDS = 1e9  # the same limit as for `POST /sessions`; infinity means never
WHOLE_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
NAMES = (
    "predictions|lower|upper|residuals|scores|observed|forecast|forecast_lower|forecast_upper|covers|events"
)
NOT_EACH_STEP = "a remembered chunk does not have one prediction for each step"
QUANTILES = r"(?:forecast_)?quantile [0-9.e-]{1,16}"
MAY_BE_NAN = {"residuals", "scores"}
ANSWER = re.compile(rf"recent\.([0-9]{{1,4}})\.({NAMES}|{QUANTILES})", re.ASCII)


@dataclass(frozen=True, slots=True)
class SessionState:
    """Everything that a session remembers, and which session of which model it was.

    carry : [carry_size]; answers : newest first, (steps, digest, answer)
    created, updated : seconds since 1970; ttl_seconds : infinity is never
    labels : `name:value` of each; alert : its own
    """

    session: str
    model: str
    fingerprint: str
    position: int
    since_reset: int
    created: float
    updated: float
    ttl_seconds: float
    carry: Floats
    answers: tuple[tuple[int, int, Answer], ...]
    labels: Labels = ()
    alert: Alert | None = None


def state_of(session: str, model: str, fingerprint: str, rows: Rows) -> SessionState:
    """The first session of `rows`."""
    header, notes = rows.headers[0], rows.notes.get(0, NO_NOTES)
    steps = [steps for steps in header["chunk_lengths"].tolist() if steps]
    kept = [dict(recent_answers.answer(rows, 0, chunk)) for chunk in range(len(steps))]
    return SessionState(
        session=session,
        model=model,
        fingerprint=fingerprint,
        position=int(header["position"]),
        since_reset=int(header["since_reset"]),
        created=float(header["created"]),
        updated=float(header["seen"]),
        ttl_seconds=float(header["ttl"]),
        carry=rows.carries[0].copy(),
        answers=tuple(
            (length, recent_answers.digest(rows, 0, chunk), answer)
            for chunk, (length, answer) in enumerate(zip(steps, kept, strict=True))
            if all("predictions" in newer for newer in kept[: chunk + 1])  # no text, nor what is before one
        ),
        labels=notes.labels,
        alert=notes.alert,
    )


def rows_of(state: SessionState, recent_chunks: int, forecaster: Forecaster) -> Rows:
    """The session as a row of a slab of this layout; the caller sets its epoch and deadline.

    Raises
    ------
    Unprocessable : its shape is not that of the fingerprint's model
    """
    outputs, kept = forecaster.output_size, forecaster.short_answer_size
    try:
        carry = forecaster.layout.resize_tail(state.carry)
        forecaster.check(carry)
    except ValueError as error:
        raise Unprocessable(str(error), field="carry") from None
    if any(answer["predictions"].shape[1] != outputs for _, _, answer in state.answers):
        raise Unprocessable(f"an answer's predictions do not have {outputs} numbers each", field="recent")
    rows = Rows(np.zeros(1, header_type(recent_chunks, kept)), carry[None].copy())
    header = rows.headers
    for name in ("position", "since_reset", "created"):
        header[name] = getattr(state, name)
    header["seen"], header["ttl"] = state.updated, state.ttl_seconds
    long: list[Answer | None] = []
    for chunk, (length, digest, answer) in enumerate(state.answers[:recent_chunks]):
        header["chunk_lengths"][0, chunk], header["digest"][0, chunk] = length, digest
        _check_steps(answer, length, forecaster)
        if kept:
            header["answer"][0, chunk] = answer["predictions"][-1, :kept]
        long.append(answer if length > 1 or len(answer) > 1 or kept < outputs else None)
    if any(long):
        rows.long_answers[0] = tuple(long)
        header["long_answer_count"] = len(long)
    if notes := Notes(tuple(state.labels), state.alert):
        rows.notes[0] = shared_notes(notes)
    return rows


def _check_steps(answer: Answer, length: int, forecaster: Forecaster) -> None:
    """Refuse a remembered answer without a prediction for each step, or without what samples have instead.

    Raises
    ------
    Unprocessable
    """
    if forecaster.samples is None:
        if len(answer["predictions"]) != length or COVERS in answer:
            raise Unprocessable(NOT_EACH_STEP, field="recent")
        return
    shapes = [(COVERS, (1, 2))]
    if EVENTS in answer:
        shapes.append((EVENTS, (len(answer[EVENTS]), 2)))
    if any(name not in answer or answer[name].shape != shape for name, shape in shapes):
        raise Unprocessable("a remembered chunk does not say which samples it covers", field="recent")


def encode(state: SessionState) -> bytes:
    """The file."""
    tensors: dict[str, AnyArray] = {
        "carry": state.carry,
        "recent.steps": np.array([steps for steps, _, _ in state.answers], np.int64),
        "recent.digests": np.array([digest for _, digest, _ in state.answers], np.uint64),
    }
    for chunk, (_, _, answer) in enumerate(state.answers):
        for name, numbers in answer.items():
            tensors[f"recent.{chunk}.{name}"] = np.ascontiguousarray(numbers)
    metadata = {"format": FORMAT, "version": VERSION} | {name: str(getattr(state, name)) for name in _FIELDS}
    if state.labels:
        metadata["labels"] = json.dumps(labels_by_name(state.labels))
    if state.alert is not None:
        metadata["alert"] = json.dumps(msgspec.structs.asdict(state.alert))
    return safetensors.numpy.save(tensors, metadata | {"checksum": _checksum(metadata, tensors)})


def decode(data: bytes) -> SessionState:
    """The session in a file.

    Raises
    ------
    Unprocessable : the file is damaged or malformed, or of another format or version
    """
    if len(data) >= 8 and struct.unpack_from("<Q", data)[0] > MAX_HEADER_BYTES:
        raise Unprocessable(f"the header of a state file has at most {MAX_HEADER_BYTES} bytes")
    try:
        tensors = safetensors.numpy.load(data)
        metadata = _metadata(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unprocessable(f"the body is not a safetensors file: {str(error)[:200]}") from None
    _check_identity(metadata)
    if metadata.pop("checksum", "") != _checksum(metadata, tensors):
        raise Unprocessable("the checksum does not match the contents: the file is damaged", field="checksum")
    position, since_reset = _whole(metadata, "position"), _whole(metadata, "since_reset")
    if since_reset > position:
        raise Unprocessable("since_reset is beyond the position", field="since_reset")
    ttl_seconds = _time(metadata, "ttl_seconds")
    if not (0 < ttl_seconds <= MAX_TTL_SECONDS or ttl_seconds == math.inf):
        raise Unprocessable(
            f"ttl_seconds must be more than 0 and at most {MAX_TTL_SECONDS:.0f}, or inf for never",
            field="ttl_seconds",
        )
    return SessionState(
        session=metadata["session"],
        model=metadata["model"],
        fingerprint=metadata["fingerprint"],
        position=position,
        since_reset=since_reset,
        created=_time(metadata, "created"),
        updated=_time(metadata, "updated"),
        ttl_seconds=ttl_seconds,
        carry=_tensor(tensors, "carry", (np.float32,), 1, any_bits=True),
        answers=_answers(tensors, position),
        labels=_labels(metadata),
        alert=_alert(metadata),
    )


_IDENTITY = ("session", "model", "fingerprint")
_FIELDS = (*_IDENTITY, "position", "since_reset", "created", "updated", "ttl_seconds")


def _metadata(data: bytes) -> dict[str, str]:
    (length,) = struct.unpack_from("<Q", data)
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def _checksum(metadata: dict[str, str], tensors: dict[str, AnyArray]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _check_identity(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise Unprocessable(f"the file is not a {FORMAT} file", field="format")
    if metadata.get("version") != VERSION:
        raise Unprocessable(
            f"the file has version {str(metadata.get('version'))[:20]!r}, this server reads {VERSION!r}",
            field="version",
        )
    for name in _IDENTITY:
        if not 1 <= len(metadata.get(name, "")) <= 256:
            raise Unprocessable(f"{name} is missing, or too long", field=name)


def _labels(metadata: dict[str, str]) -> Labels:
    try:
        given = msgspec.json.decode(metadata.get("labels", "{}"), type=dict[str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unprocessable(f"labels is not an object of texts: {str(error)[:200]}", field="labels") from None
    return parse_labels(given)


def _alert(metadata: dict[str, str]) -> Alert | None:
    if "alert" not in metadata:
        return None
    try:
        given = msgspec.json.decode(metadata["alert"], type=dict[str, Any])
        return parse_alert(msgspec.convert(list(map(given.get, Alert.__struct_fields__)), Alert))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unprocessable(f"alert is not valid: {str(error)[:200]}", field="alert") from None


def _whole(metadata: dict[str, str], name: str) -> int:
    text = metadata.get(name, "")
    if WHOLE_NUMBER.fullmatch(text) is None or int(text) > MAX_POSITION:
        raise Unprocessable(f"{name} is not a whole number from 0 to {MAX_POSITION}", field=name)
    return int(text)


def _time(metadata: dict[str, str], name: str) -> float:
    try:
        seconds = float(metadata[name])
    except (KeyError, ValueError):
        raise Unprocessable(f"{name} is not a number", field=name) from None
    if math.isnan(seconds) or (name != "ttl_seconds" and not 0 <= seconds < 1e11):
        raise Unprocessable(f"{name} is out of range", field=name)
    return seconds


def _tensor(
    tensors: dict[str, AnyArray],
    name: str,
    kinds: Sequence[Any],
    dimensions: int,
    *,
    nan: bool = False,
    any_bits: bool = False,
) -> AnyArray:
    """The tensor of this name. Its floats are finite, or NaN where `nan`, unless they may be `any_bits`."""
    found = tensors.get(name)
    if found is None or found.dtype not in kinds or found.ndim != dimensions:
        raise Unprocessable(
            f"{name} is missing, or not a tensor of {dimensions} dimensions of "
            f"{' or '.join(np.dtype(kind).name for kind in kinds)}",
            field=name,
        )
    floats = found.dtype.kind == "f" and not any_bits
    if floats and (np.isinf(found).any() or (not nan and np.isnan(found).any())):
        raise Unprocessable(f"{name} has NaN or infinity", field=name)
    return found


def _answers(tensors: dict[str, AnyArray], position: int) -> tuple[tuple[int, int, Answer], ...]:
    steps = _tensor(tensors, "recent.steps", (np.int64,), 1).tolist()
    digests = _tensor(tensors, "recent.digests", (np.uint64,), 1).tolist()
    if len(steps) != len(digests) or len(steps) > MAX_CHUNKS:
        raise Unprocessable("recent.steps and recent.digests do not match", field="recent")
    if any(length < 1 for length in steps) or sum(steps) > position:
        raise Unprocessable("the remembered chunks do not fit the position", field="recent.steps")
    answers: list[Answer] = [{} for _ in steps]
    for name in tensors.keys() - {"carry", "recent.steps", "recent.digests"}:
        match = ANSWER.fullmatch(name)
        if match is None or int(match[1]) >= len(steps):
            raise Unprocessable(f"unexpected tensor {name[:80]!r}", field="recent")
        nan = match[2] in MAY_BE_NAN
        answers[int(match[1])][match[2]] = _tensor(tensors, name, (np.float32, np.float64), 2, nan=nan)
    for length, answer in zip(steps, answers, strict=True):
        # Of samples there are fewer, which only the model can check.
        expected = (0, length) if COVERS in answer else (length, length)
        if "predictions" not in answer or not expected[0] <= len(answer["predictions"]) <= expected[1]:
            raise Unprocessable(NOT_EACH_STEP, field="recent")
    return tuple(zip(steps, digests, answers, strict=True))
