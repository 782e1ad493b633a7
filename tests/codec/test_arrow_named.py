"""Networks of several inputs and outputs in bulk: by name in Arrow, and in rows in the binary form."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from app.codec.bulk import arrow, arrow_named
from app.codec.bulk.request import BulkLimits
from app.codec.limits import Limits
from app.errors import CarryoverError, TooLarge, Unprocessable
from models.artifact.files import save
from models.artifact.graph_artifact import GraphArtifact
from tests.helpers import binary, graphs

pytestmark = pytest.mark.anyio

ARROW = {"content-type": arrow.CONTENT_TYPE}
LIMITS = BulkLimits(10_000, Limits(100, 100, 100))
FRAMES = graphs.observations("frames", 12)  # [12, 5]: a frame of 4 samples, and the gain
WANTED = graphs.reference("frames", FRAMES)


@pytest.fixture
def store() -> str:
    return "memory"


def hiding(name: str, **names: str) -> GraphArtifact:
    """`frames`, with inputs that have the names of other columns of a request."""
    made = graphs.frames(name)
    inputs = tuple(replace(port, name=names[port.name]) for port in made.signature.inputs)
    return replace(made, signature=replace(made.signature, inputs=inputs))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("graphs")
    for artifact in (
        graphs.frames(),
        graphs.characters(),
        graphs.counter(),
        graphs.counter("float16", "half"),
        hiding("hiding", audio="observations", gain="at"),
        hiding("nested", audio="inputs.session", gain="epoch"),
    ):
        save(artifact, made / artifact.name)
    return made


@pytest.fixture
def serve(start_http, folder):
    return lambda: start_http(models=(folder,), default_model="frames", chunk_observations=100)


def stream(table: Any, model: str | None = None) -> bytes:
    table = table if model is None else table.replace_schema_metadata({"model": model})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


async def ask(service: Any, table: Any, model: str | None = None, **headers: str) -> Any:
    """The answer to a table, as a table."""
    response = await service.http.post("/observations", content=stream(table, model), headers=ARROW | headers)
    assert response.status_code == 200, response.text
    return pa.ipc.open_stream(response.content).read_all()


def frames_table(chunks: dict[str, np.ndarray], **more: Any) -> Any:
    """A chunk of `frames`, [steps, 5], for each session."""
    audio = pa.array([rows[:, :4].tolist() for rows in chunks.values()], pa.list_(pa.list_(pa.float32(), 4)))
    gain = pa.array([rows[:, 4].tolist() for rows in chunks.values()], pa.list_(pa.float32()))
    return pa.table({"session": list(chunks), "gain": gain, "audio": audio, **more})


def problem_of(row: dict[str, Any]) -> str:
    detail: str = json.loads(row["error"])["detail"]
    return detail


def joined(answer: dict[str, Any]) -> np.ndarray:
    """[steps, outputs] of one row of an answer of `frames`."""
    return np.concatenate([np.array(answer[name], float) for name in ("energy", "peak", "loud")], axis=1)


async def test_chunks_by_name_equal_the_network_alone_and_are_applied_once(serve):
    cuts = {"a": [0, 1, 6, 12], "b": [0, 4, 8, 12]}
    got: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    async with serve() as service:
        for i in range(3):
            chunks = {name: FRAMES[ends[i] : ends[i + 1]] for name, ends in cuts.items()}
            table = frames_table(chunks, at=[cuts["a"][i], cuts["b"][i]])
            answer, again = await ask(service, table), await ask(service, table)
            assert answer["position"].to_pylist() == [cuts["a"][i + 1], cuts["b"][i + 1]]
            assert answer["replayed"].to_pylist() == [False, False]
            assert again["replayed"].to_pylist() == [True, True]
            assert again.drop(["replayed"]) == answer.drop(["replayed"])
            for name, row in zip(cuts, answer.to_pylist(), strict=True):
                got[name].append(joined(row))
        late = (await ask(service, frames_table({"a": FRAMES[:1]}, at=[3]))).to_pylist()
        assert json.loads(late[0]["error"])["status"] == 409
    assert answer.column_names == ["position", "epoch", "energy", "peak", "loud", "replayed", "error"]
    for parts in got.values():
        assert_allclose(np.concatenate(parts), WANTED, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "audio", "gain"),
    [
        ("hiding", "inputs.observations", "inputs.at"),
        ("nested", "inputs.inputs.session", "inputs.epoch"),
    ],
)
async def test_an_input_that_is_called_as_another_column_has_one_of_its_own(serve, model, audio, gain):
    async with serve() as service:
        for at, stop in ((0, 5), (5, 12)):
            table = frames_table({"a": FRAMES[at:stop]}, at=[at]).rename_columns(
                ["session", gain, audio, "at"]
            )
            for replayed in (False, True):
                (row,) = (await ask(service, table, model)).to_pylist()
                assert (row["position"], row["replayed"], row["error"]) == (stop, replayed, None)
                assert_allclose(joined(row), WANTED[at:stop], rtol=1e-5)
        plain = frames_table({"a": FRAMES[:1]}).rename_columns(["session", "gain", "inputs.audio"])
        (refused,) = (await ask(service, plain, model)).to_pylist()
        assert "inputs.audio" in problem_of(refused), "of another name nothing is taken away"


async def test_outputs_have_the_types_and_shapes_of_the_network(serve):
    tokens = graphs.observations("characters", 3).astype(np.int64)[:, 0]
    want = graphs.reference("characters", tokens[:, None])
    async with serve() as service:
        frames = await ask(service, frames_table({"a": FRAMES[:2]}))
        characters = await ask(service, pa.table({"session": ["t"], "token": [tokens]}), "characters")
        half = pa.table({"session": ["h"], "step": pa.array([np.float16(0.5)])})
        half = await ask(service, half, "half")
    pair = lambda kind: pa.list_(pa.list_(kind, 1))  # noqa: E731
    assert [frames.schema.field(name).type for name in ("energy", "peak", "loud")] == [
        pair(pa.float32()),
        pair(pa.float16()),
        pair(pa.uint8()),
    ]
    assert characters.schema.field("logits").type == pa.list_(pa.list_(pa.float32(), 30))
    assert characters.schema.field("best").type == pa.list_(pa.int64())
    assert characters.schema.field("likely").type == pa.list_(pa.bool_())
    row = characters.to_pylist()[0]
    assert_allclose(row["logits"], want[:, :30], atol=1e-6)
    assert row["best"] == want[:, 30].tolist()
    assert row["likely"] == want[:, 31].astype(bool).tolist()
    assert half.schema.field("sum").type == pair(pa.float16())
    assert half["sum"].to_pylist() == [[[-2.5]]]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()], ids=str)
async def test_whole_numbers_stay_exact(serve, kind):
    numbers = [2**40 + 1, -(2**24) - 1, 7]
    async with serve() as service:
        table = pa.table({"session": ["a", "a", "a"], "step": pa.array(numbers, kind), "at": [0, 1, 2]})
        answer = await ask(service, table, "counter")
    assert answer["sum"].to_pylist() == [[[int(total)]] for total in np.cumsum(numbers) - 3]
    assert answer.schema.field("sum").type.value_type.value_type == pa.int64()


async def test_missing_and_unknown_columns_are_refused_with_both_lists_of_names(serve):
    table = frames_table({"a": FRAMES[:1]})
    async with serve() as service:
        (missing,) = (await ask(service, table.drop(["gain"]))).to_pylist()
        (unknown,) = (await ask(service, table.append_column("pitch", [[1.0]]))).to_pylist()
        assert (await service.http.get("/sessions/a")).status_code == 404
    takes = "model 'frames' takes audio, gain, the chunk has"
    assert problem_of(missing) == f"the input 'gain' is missing; {takes} audio"
    assert problem_of(unknown) == f"there is no input 'pitch'; {takes} gain, audio, pitch"


def refusal(table: Any) -> CarryoverError:
    with pytest.raises(CarryoverError) as caught:
        arrow.decode(stream(table), LIMITS)
    return caught.value


def test_a_column_given_twice_refuses_the_request():
    table = frames_table({"a": FRAMES[:1]})
    error = refusal(table.append_column("gain", table["gain"]))
    assert isinstance(error, Unprocessable)
    assert error.detail == "the column 'gain' is given 2 times; the request has gain, audio, gain"


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x"]),
        pa.nulls(1),
        pa.array([0.5]).dictionary_encode(),
        pa.array([[0.5]], pa.list_view(pa.float32())),
    ],
    ids=["text", "nulls", "dictionary", "view"],
)
def test_an_input_that_has_no_numbers_is_refused_by_its_name(column):
    error = refusal(pa.table({"session": ["a"], "gain": column}))
    assert isinstance(error, Unprocessable)
    assert "the column 'gain' cannot be of type" in error.detail


def test_a_request_has_a_bound_of_entries_and_numbers(monkeypatch):
    wide = pa.table({"session": ["a"] * 50, **{f"x{i}": np.zeros(50, bool) for i in range(40)}})
    monkeypatch.setattr(arrow_named, "MAX_ENTRIES", 2_000)
    assert arrow.decode(stream(wide), LIMITS).named
    monkeypatch.setattr(arrow_named, "MAX_ENTRIES", 1_999)
    assert refusal(wide).detail == "a request has at most 1999 entries of inputs"
    long = {name: pa.FixedSizeListArray.from_arrays(np.zeros(1_000, bool), 500) for name in "xy"}
    monkeypatch.setattr(arrow, "MAX_NUMBERS", 1_999)
    error = refusal(pa.table({"session": ["a", "b"], **long}))
    assert isinstance(error, TooLarge)
    assert "numbers" in error.detail


WRONG = {
    "inputs.gain has 2 observations, inputs.audio has 1": ([[1, 2, 3, 4]], [1, 1]),
    "inputs.audio has rows that differ in shape": ([[1, 2, 3, 4], [1]], [1, 1]),
    "input 'audio' has the shape [4], not [3]": ([[1, 2, 3]], [1]),
    "inputs.audio has a value that is missing or not a finite float32": ([[1, None, 3, 4]], [1]),
    "inputs.gain has a value that is missing or not a finite float32": ([[1, 2, 3, 4]], [float("inf")]),
    "inputs.gain has 0 observations, inputs.audio has 1": ([[1, 2, 3, 4]], None),
    "the chunk is empty": ([], []),
    "a chunk has at most 100 observations": ([[1, 2, 3, 4]] * 101, [1] * 101),
}


async def test_a_wrong_row_fails_alone(serve):
    audio, gain = (list(column) for column in zip(*WRONG.values(), ([[1, 2, 3, 4]], [1]), strict=True))
    names = [f"s{i}" for i in range(len(audio))]
    table = pa.table({"session": names, "audio": audio, "gain": pa.array(gain, pa.list_(pa.float64()))})
    async with serve() as service:
        rows = (await ask(service, table)).to_pylist()
    for row, problem in zip(rows, WRONG, strict=False):
        assert problem in problem_of(row)
        assert row["energy"] is row["position"] is row["epoch"] is None
    assert (rows[-1]["position"], rows[-1]["error"]) == (1, None)


async def test_predictions_stay_in_rows_where_no_outputs_can_be_named(serve):
    """In rows if the request is; if the sessions' networks differ; and if no chunk was applied."""
    rows = pa.table({"session": ["r"], "observations": [FRAMES[:2].tolist()], "other": ["not read"]})
    async with serve() as service:
        in_rows = (await ask(service, rows)).to_pylist()
        await service.advance("c", np.array([[1]]), model="counter")
        await service.advance("h", np.array([[1]]), model="half")
        mixed = (await ask(service, pa.table({"session": ["c", "h"], "step": [1, 1]}))).to_pylist()
        other = (await ask(service, pa.table({"session": ["c", "r"], "step": [1, 1]}))).to_pylist()
        refused = await ask(service, pa.table({"session": ["new"], "step": [1]}))
    assert_allclose(in_rows[0]["predictions"], WANTED[:2], rtol=1e-5)
    assert [row["predictions"] for row in mixed] == [[[-1]], [[-1]]]
    assert other[0]["sum"] == [[0]]
    assert "the input 'audio' is missing" in problem_of(other[1])
    assert refused.column_names == ["position", "epoch", "predictions", "replayed", "error"]


async def test_a_chunk_is_the_same_by_name_in_rows_and_in_bytes(serve):
    """The binary form has the inputs of a step one after the other, in the order of the signature."""
    async with serve() as service:
        for at, stop in ((0, 5), (5, 12)):
            body = binary.encode(["a"], [FRAMES[at:stop]], [at])
            for replayed in (0, 1):
                response = await service.http.post(
                    "/observations", content=body, headers={"content-type": "application/octet-stream"}
                )
                answer = binary.decode(response.content)
                assert (answer.positions, answer.replayed) == ([stop], [replayed])
                assert_allclose(answer.predictions[0], WANTED[at:stop], rtol=1e-5)
            (named,) = (await ask(service, frames_table({"a": FRAMES[at:stop]}, at=[at]))).to_pylist()
            assert named["replayed"]
            assert_array_equal(joined(named).astype(np.float32), answer.predictions[0])


async def test_json_and_arrow_by_name_answer_in_each_others_form(serve):
    chunk = FRAMES[:3]
    inputs = {"audio": [chunk[:, :4].tolist()], "gain": [chunk[:, 4].tolist()]}
    async with serve() as service:
        response = await service.http.post(
            "/observations",
            json={"sessions": ["a"], "inputs": inputs},
            headers={"accept": arrow.CONTENT_TYPE},
        )
        (row,) = pa.ipc.open_stream(response.content).read_all().to_pylist()
        response = await service.http.post(
            "/observations",
            content=stream(frames_table({"a": chunk}, at=[0])),
            headers=ARROW | {"accept": "application/json"},
        )
    answer = response.json()
    assert answer["replayed"] == [0]
    assert_allclose(joined({name: column[0] for name, column in answer["outputs"].items()}), joined(row))


async def test_a_large_request_is_decoded_with_pauses(serve):
    """Chunk by chunk: more of them than lie between two pauses."""
    chunks = {f"s{i}": FRAMES[: 1 + i % 3] for i in range(3 * arrow.SLICE_CHUNKS)}
    async with serve() as service:
        answer = (await ask(service, frames_table(chunks))).to_pylist()
    assert len(list(arrow.decode_in_slices(stream(frames_table(chunks)), LIMITS))) == 3
    for chunk, row in zip(chunks.values(), answer, strict=True):
        assert_allclose(joined(row), WANTED[: len(chunk)], rtol=1e-5)


GOOD = stream(frames_table({"a": FRAMES[:1], "b": FRAMES[:2]}, at=[0, 1]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_stream_changed_anywhere_is_refused_or_valid_and_never_crashes(changes):
    body = bytearray(GOOD)
    for place, value in changes:
        body[place] = value
    try:
        request = arrow.decode(bytes(body), LIMITS)
    except CarryoverError:
        return
    for indexes, job in request.jobs:
        assert len(indexes) == len(job.sessions) == len(job.lengths)
        if job.options is not None and job.options.inputs is not None:
            for numbers in job.options.inputs.values():
                assert len(numbers) == job.lengths.sum()
                assert np.isfinite(numbers).all()
