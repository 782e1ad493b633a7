"""Any bytes give an inference or an error, never a crash. Statistics count batches correctly."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codec.limits import Limits
from app.errors import CarryoverError
from app.open_inference.decode import decode_request, decompress
from app.open_inference.grpc import conversion
from app.open_inference.grpc.messages import message
from app.open_inference.inference import Inference
from app.open_inference.statistics import RequestTimer, Statistics
from models.forecaster import Forecaster

LIMITS = Limits(observations=3, steps=10, inputs=3)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    VALUES, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part)
)
FIELDS = {
    "name": st.just("observations") | JSON,
    "datatype": st.just("FP32") | JSON,
    "shape": st.just([1, 2, 3]) | st.lists(st.integers(-1, 4), max_size=4) | JSON,
    "data": st.lists(st.floats(width=32) | st.none(), max_size=8) | JSON,
    "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 30)}) | JSON,
}
TENSOR = st.fixed_dictionaries({}, optional=FIELDS)
BODIES = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=2) | JSON},
    optional={"parameters": JSON, "outputs": JSON, "id": JSON},
)
LENGTHS = st.sampled_from(["", "0", "x", "-1", "9" * 30]) | st.integers(0, 300).map(str)


@pytest.fixture(scope="module")
def pair(artifacts) -> Forecaster:
    return Forecaster(artifacts["pair"])


def decoded(function, *arguments):
    """The inference that `function` returns, checked against the model; None if it raises."""
    try:
        inference = function(*arguments)
    except CarryoverError:
        return None
    assert isinstance(inference, Inference)
    assert inference.observations.ndim == 2
    assert 0 < len(inference.observations) <= LIMITS.observations
    assert inference.observations.shape[1] == 3
    assert not np.isinf(inference.observations).any()
    return inference


@given(body=st.binary(max_size=300), length=LENGTHS)
def test_any_bytes_are_read_or_refused(pair, body, length):
    decoded(decode_request, body, length, {}, "pair", pair, LIMITS)


@given(body=BODIES, tail=st.binary(max_size=30), with_length=st.booleans())
def test_any_json_is_read_or_refused(pair, body, tail, with_length):
    text = json.dumps(body).encode()
    inference = decoded(
        decode_request, text + tail, str(len(text)) if with_length else "", {}, "pair", pair, LIMITS
    )
    if inference is not None and not inference.parameters.gaps:
        assert np.isfinite(inference.observations).all()


@given(
    query=st.dictionaries(st.sampled_from(["at", "sequence_id", "horizon", "gaps", "x"]), st.text(max_size=6))
)
def test_any_query_of_a_raw_body_is_read_or_refused(pair, query):
    decoded(decode_request, bytes(24), "0", query, "pair", pair, LIMITS)


@given(body=st.binary(max_size=200), encoding=st.sampled_from(["gzip", "deflate", "br", "identity", ""]))
def test_any_bytes_are_decompressed_or_refused(body, encoding):
    try:
        plain = decompress(body, encoding, 1000)
    except CarryoverError:
        return
    assert len(plain) <= 1000


@given(
    shape=st.lists(st.integers(-2, 4), max_size=4) | st.just([1, 2, 3]),
    numbers=st.lists(st.floats(width=32), max_size=8),
    raw=st.lists(st.binary(max_size=30), max_size=2),
    parameter=st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5) | st.booleans(),
    name=st.sampled_from(["sequence_id", "at", "horizon", "gaps", "level"]),
)
def test_any_message_is_read_or_refused(pair, shape, numbers, raw, parameter, name):
    made = message("ModelInferRequest")(model_name="pair", raw_input_contents=raw)
    setattr(made.parameters[name], conversion.KINDS[type(parameter)], parameter)
    tensor = made.inputs.add(name="observations", datatype="FP32", shape=shape)
    tensor.contents.fp32_contents.extend(numbers)
    decoded(conversion.decode_request, made, pair, LIMITS)


def batches(statistics):
    report = statistics.as_dict("m", "1")
    sizes = {entry["batch_size"]: entry["compute_infer"]["count"] for entry in report["batch_stats"]}
    return report["inference_count"], report["execution_count"], sizes


def test_requests_of_one_tick_count_as_one_execution():
    statistics = Statistics()
    for tick, size in ((1, 3), (2, 1), (5, 3), (6, 64)):
        for _ in range(size):
            statistics.record_success(RequestTimer(), tick, 1e-3)
    assert batches(statistics) == (71, 4, {1: 1, 3: 2, 64: 1})


def test_sizes_of_large_batches_are_reported_as_powers_of_two():
    statistics = Statistics()
    for tick, size in ((1, 65), (2, 100), (3, 129)):
        for _ in range(size):
            statistics.record_success(RequestTimer(), tick, 1e-3)
    assert batches(statistics) == (294, 3, {128: 2, 256: 1})


def test_the_times_of_the_phases_add_up_to_the_time_of_the_request():
    statistics = Statistics()
    timer = RequestTimer()
    timer.mark_submitted()
    timer.mark_answered()
    statistics.record_success(timer, 1, 60.0)  # a pass cannot have taken longer than the request waited
    report = statistics.as_dict("m", "1")["inference_stats"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert sum(report[part]["ns"] for part in parts) == report["success"]["ns"] > 0
    assert report["queue"]["ns"] == 0
