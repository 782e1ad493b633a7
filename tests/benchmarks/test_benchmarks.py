"""The harness' pure parts: a benchmark that counts errors as requests is a defect."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.codec import frames
from app.codec.limits import Limits
from app.config import Settings
from app.jobs.answers import ChunkAnswer
from benchmarks.binary_layout import decode_message, encode_message
from benchmarks.dialects import SessionInBody, SessionInPath, Triton
from benchmarks.fairness import WITHOUT_METRICS
from benchmarks.figures import Figure, medians_of, promised_figures, spread
from benchmarks.frames import BadFrame, http_answers, masked_frame, websocket_answers
from benchmarks.load import BadRun, percentile
from benchmarks.measure import Judge, Sample, Scenario
from benchmarks.memory import Crowd
from benchmarks.processes import parse_stat_cpu
from benchmarks.reference import Reference, write_artifact, write_seeded_weights
from benchmarks.report import Conditions, figures_table, markdown
from benchmarks.run import scenarios_of
from benchmarks.servers import known_servers
from benchmarks.socket_load import Conversation, Plan
from benchmarks.streams import CYCLE, Stream
from benchmarks.ways import ORDERS, WAYS, first_predictions, plan_of
from benchmarks.wrk import encode_plan, parse_wrk
from models.artifact.files import load
from tests.helpers.paths import ROOT

RESULT = (
    'RESULT {"requests": %d, "seconds": 2.0, "bad": %d, "connect": 0, "read": %d, "write": 0, "status": 0, '
    '"timeout": %d, "p50_us": 400, "p99_us": 900}\n'
)
SAMPLE = Sample(100.0, 100.0, 10.0, 50.0, 5.0, 30.0, 0.5, 0.0)
OURS = Scenario("carryover", "http", 64, 1)
PEER = Scenario("fastapi", "http", 64, 1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    write_seeded_weights(path)
    return Reference(load_file(path))


def test_a_percentile_is_the_nearest_rank_in_any_order():
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.50) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0], 1.0) == 2.0


def test_a_run_without_answers_has_no_percentile():
    with pytest.raises(BadRun):
        percentile([], 0.5)


def test_wrk_output_is_read():
    load = parse_wrk("Running 2s test\n" + RESULT % (200, 0, 0, 0), 0.4)
    assert (load.requests / load.seconds, load.p50_us, load.p99_us) == (100.0, 400, 900)
    assert not load.generator_bound


@pytest.mark.parametrize("counts", [(200, 1, 0, 0), (200, 0, 3, 0), (200, 0, 0, 1), (0, 0, 0, 0)])
def test_any_error_spoils_a_run(counts):
    with pytest.raises(BadRun):
        parse_wrk(RESULT % counts)


def test_no_result_at_all_is_an_error():
    with pytest.raises(BadRun, match="no result"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_plan_for_wrk_tells_sizes_so_that_bodies_may_hold_anything():
    assert encode_plan({"a": [b"x\ny", b""]}) == b"1 2\na\n3\nx\ny\n0\n\n"


def test_http_answers_are_cut_wherever_the_bytes_were():
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" * 2
    for cut in range(len(whole)):
        answers, rest = http_answers(whole[:cut])
        more, rest = http_answers(rest + whole[cut:])
        assert answers + more == [b"{}", b"{}"]
        assert rest == b""


def test_an_answer_that_is_no_200_is_never_counted():
    with pytest.raises(BadFrame):
        http_answers(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}")


def test_websocket_answers_of_every_size_are_cut_wherever_the_bytes_were():
    small, medium, large = b"a" * 5, b"b" * 300, b"c" * 70_000
    whole = b"\x81\x05" + small + b"\x89\x00" + b"\x82\x7e" + (300).to_bytes(2, "big") + medium
    whole += b"\x82\x7f" + (70_000).to_bytes(8, "big") + large
    for cut in (0, 1, 3, 8, 9, 11, 200, 315, 400, len(whole)):
        answers, rest = websocket_answers(whole[:cut])
        more, rest = websocket_answers(rest + whole[cut:])
        assert answers + more == [small, medium, large]
        assert rest == b""


def test_a_socket_that_closes_is_an_error():
    with pytest.raises(BadFrame):
        websocket_answers(b"\x88\x02\x03\xe9")


@pytest.mark.parametrize("size", [5, 125, 126, 65_535, 65_536])
def test_frames_are_masked_and_carry_their_length(size):
    frame = masked_frame(b"x" * size, text=True)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    assert frame.endswith(bytes(4) + b"x" * size)


def test_cpu_is_read_past_a_name_with_spaces_and_brackets():
    stat = "7 (a) b (c) S " + " ".join(str(field) for field in range(1, 40))
    assert parse_stat_cpu(stat) == (11 + 12) / os.sysconf("SC_CLK_TCK")


def test_a_stream_repeats_its_cycle_and_is_its_own():
    stream, other = Stream("a", 3), Stream("b", 3)
    assert np.array_equal(stream.chunk(1), stream.chunk(1 + CYCLE))
    assert not np.array_equal(stream.chunk(0), other.chunk(0))
    chunks = [stream.chunk(index) for index in range(10)]
    assert np.array_equal(stream.consumed(29), np.concatenate(chunks)[:29])


def test_the_reference_is_the_network_stepped_one_observation_at_a_time(reference):
    lstm, fc = reference.modules()
    stream = Stream("a", 5).consumed(12)
    carry, stepped = None, []
    for value in stream:
        hidden, carry = lstm(torch.tensor([[[value]]]), carry)
        stepped.append(float(fc(hidden).detach()))
    assert np.allclose(reference.predictions(stream), stepped, atol=1e-12)


def test_ours_is_given_the_same_network_as_its_peers(tmp_path, reference):
    write_seeded_weights(tmp_path / "weights.safetensors")
    write_artifact(tmp_path / "weights.safetensors", tmp_path / "artifact")
    served = load(tmp_path / "artifact").network().double()
    stream = Stream("a", 4).consumed(40)
    with torch.no_grad():
        outputs, _ = served(torch.from_numpy(stream).view(1, -1, 1), None)
    assert np.allclose(outputs.view(-1).numpy(), reference.predictions(stream), atol=1e-12)


class Service:
    """A connection to a small server in this process, which can be made to answer wrongly."""

    def __init__(self, reference: Reference, forgets: bool = False) -> None:
        self.reference, self.forgets = reference, forgets
        self.sent: dict[str, list[float]] = {}

    def send(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        session = head.split(b"/")[2].decode()
        chunk = [value for (value,) in json.loads(body)["observations"]]
        history = [] if self.forgets else self.sent.get(session, [])
        self.sent[session] = self.sent.get(session, []) + chunk
        predictions = self.reference.predictions(np.array(history + chunk))[-len(chunk) :]
        answer = {"position": len(self.sent[session]), "predictions": predictions.reshape(-1, 1).tolist()}
        return json.dumps(answer).encode()


def run_against(service: Service, reference: Reference, counted: int) -> None:
    streams = [Stream(f"s{number}", 2) for number in range(3)]
    judge = Judge(SessionInPath(), reference)
    for stream in streams:
        judge.open(stream, service)  # type: ignore[arg-type]
    for index in range(1, 6):
        for stream in streams:
            service.send(SessionInPath().request(stream.session, stream.chunk(index), "middle"))
    judge.close(streams, service)  # type: ignore[arg-type]
    judge.account(counted, in_flight=3)


def test_an_honest_server_passes(reference):
    run_against(Service(reference), reference, counted=15)


def test_a_server_that_forgets_its_sessions_is_found_out(reference):
    with pytest.raises(BadRun, match="is off by"):
        run_against(Service(reference, forgets=True), reference, counted=15)


@pytest.mark.parametrize("counted", [16, 11])
def test_answers_that_the_positions_do_not_account_for_are_found_out(reference, counted):
    with pytest.raises(BadRun, match="were counted"):
        run_against(Service(reference), reference, counted)


@pytest.mark.parametrize("dialect", [SessionInPath(), SessionInBody(), Triton()])
def test_every_request_tells_the_size_of_its_body(dialect):
    head, _, body = dialect.request("a", Stream("a", 50).chunk(0), "first").partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head


@pytest.mark.parametrize("way", [way for way in WAYS if way.endswith("json")])
def test_a_plan_sends_every_session_every_turn(way):
    streams = [Stream(f"s{number}", 1) for number in range(2 * WAYS[way].sessions)]
    plan = plan_of(way, 8000, streams, 1.0)
    assert isinstance(plan, Plan)
    assert len(plan.conversations) == 2
    talk: Conversation = plan.conversations[0]
    share = WAYS[way].sessions
    times = {"shared": share, "mixed": ORDERS}.get(way.partition("-")[0], 1)
    assert len(talk.messages) == CYCLE * times
    assert plan.must == b'"predictions"'


def test_the_lists_of_a_mixed_plan_differ_and_hold_the_same_sessions():
    streams = [Stream(f"s{number:04d}", 1) for number in range(WAYS["mixed-json"].sessions)]
    (talk,) = plan_of("mixed-json", 8000, streams, 1.0).conversations
    bodies = [json.loads(message.partition(b"\r\n\r\n")[2]) for message in talk.messages]
    lists = {tuple(body["sessions"]) for body in bodies}
    assert len(lists) == len(bodies)
    assert {frozenset(names) for names in lists} == {frozenset(stream.session for stream in streams)}
    first, second = bodies[0], bodies[1]
    assert first["sessions"] == [stream.session for stream in streams]
    by_session = dict(zip(second["sessions"], second["observations"], strict=True))
    assert by_session == {stream.session: pytest.approx(float(stream.chunk(2)[0])) for stream in streams}


def test_medians_and_spread_are_over_the_rounds():
    rounds = [replace(SAMPLE, requests=rate) for rate in (90.0, 300.0, 100.0)]
    assert medians_of({OURS: rounds, PEER: []}) == {OURS: SAMPLE}
    assert spread(rounds) == pytest.approx(2.1)


def test_a_figure_is_the_ratio_of_two_rows_and_judged_on_its_own_side():
    medians = {OURS: replace(SAMPLE, requests=900.0, p99_us=10.0), PEER: SAMPLE}
    rate = Figure("rate", OURS, PEER, "requests", 8, 20)
    time = Figure("time", OURS, PEER, "p99_us", 0.5, 0.2)
    assert rate.measured(medians) == 9.0
    assert rate.reaches(8, 9.0)
    assert not rate.reaches(20, 9.0)
    assert time.reaches(0.2, 0.2)
    assert not time.reaches(0.2, 0.3)
    table = figures_table([rate, time], medians)
    assert "| rate | 8x | 20x | 9.0x | requirement met |" in table
    assert "| time | at most 0.5 | at most 0.2 | 0.20 | target met |" in table


def test_a_missed_figure_says_so():
    rate = Figure("rate", OURS, PEER, "requests", 8, 20)
    assert "| 1.0x | missed |" in figures_table([rate], {OURS: SAMPLE, PEER: SAMPLE})


def test_a_row_that_was_left_out_is_told_with_its_reason():
    conditions = Conditions("bench", "2026-01-01", ["a machine"], 3, 2, {"mosec": "not installed"}, 0.01)
    page = markdown({OURS: [SAMPLE]}, {OURS: SAMPLE}, promised_figures(), conditions)
    assert "- mosec: not installed" in page
    assert "| carryover | http | 64 | 1 | 100 | 0% | 100 |" in page


def test_a_row_bound_by_the_generator_is_marked():
    full = replace(SAMPLE, generator_share=0.99)
    conditions = Conditions("bench", "2026-01-01", [], 3, 2, {}, 0.0)
    assert "| 100 * |" in markdown({OURS: [full]}, {OURS: full}, [], conditions)


@pytest.mark.parametrize("session", [None, "pump-7"])
def test_a_binary_message_is_what_the_service_reads_and_its_answer_what_it_writes(session):
    chunk = Stream("a", 3).chunk(0)
    path_session = "pump-7" if session is None else None
    limits = Limits(observations=100, steps=100, inputs=1)
    message = frames.decode_binary(encode_message(session, chunk), path_session, limits)
    assert message.session == "pump-7"
    assert message.chunk is not None
    assert np.allclose(message.chunk.observations[:, 0], chunk)
    outcome = ChunkAnswer("pump-7", "sine", 3, 1, False, {"predictions": message.chunk.observations})
    name, predictions = decode_message(frames.encode_answer(outcome, message))
    assert name == (session or "")
    assert np.allclose(predictions, chunk)


def test_the_first_answers_of_a_run_are_found_by_session():
    answers = [[b'{"session":"b","predictions":[[2.0]]}', b'{"session":"a","predictions":[[1.0]]}']]
    found = first_predictions("shared-json", answers, [Stream("a", 1), Stream("b", 1)])
    assert {name: value.tolist() for name, value in found.items()} == {"b": [2.0], "a": [1.0]}


@pytest.mark.parametrize("crowd", [Crowd(1_000, 1_000), Crowd(1_000_000, 1_000_000), Crowd(200_000, 20_000)])
def test_our_servers_are_started_with_settings_that_exist(crowd):
    ours = [server for server in known_servers() if server.name.startswith("carryover")]
    hot = []
    for server in ours:
        environment = {name: value.replace("{port}", "8000") for name, value in server.environment.items()}
        settings = Settings.from_env(environment | crowd.settings())
        assert settings.max_sessions > crowd.sessions
        assert settings.resident_sessions > crowd.resident
        hot.append(settings.hot_route)
    assert hot == [False, True]


def test_every_promised_figure_is_a_row_of_the_matrix():
    options = argparse.Namespace(quick=False, only=None)
    rows = {row for server in known_servers() for row in scenarios_of(server, options)}
    for figure in promised_figures():
        assert {figure.ours, figure.beside} <= rows, figure.title


def test_options_narrow_the_matrix():
    (ours,) = (server for server in known_servers() if server.name == "carryover")
    quick = list(scenarios_of(ours, argparse.Namespace(quick=True, only=["http"])))
    assert quick == [Scenario("carryover", "http", 1, 1), Scenario("carryover", "http", 64, 1)]


def test_the_program_that_leaves_out_metrics_finds_everything_that_it_replaces():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_METRICS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
