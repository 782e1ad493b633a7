"""Redis Streams: every entry is applied exactly once, whatever ends when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import redis
from carryover import Carryover, TooLarge, Unreachable
from redis.crc import key_slot

from app.connectors.source import ConnectorError
from tests.helpers.bridges import SESSIONS, Fuse, RedisBroker, assert_applied_once, bridge_of, drive
from tests.helpers.redis_server import RedisServer, needs_redis

pytestmark = needs_redis

LENGTH = 3


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[RedisBroker]:
    folder = tmp_path_factory.mktemp("redis")
    with RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield RedisBroker(server)


def run(broker: RedisBroker, service: Carryover, stream: str, at: int = 0, **options: Any) -> Fuse:
    fuse = Fuse(at)
    options = {"session": "{key}", "publish": f"{stream}:out"} | options
    drive(bridge_of(broker.source(stream), service, fuse, **options), lambda: broker.is_done(stream))
    return fuse


def test_a_bridge_killed_at_any_of_its_steps_applies_every_entry_once(broker, service, artifacts):
    for at in count(1):
        stream = f"kill:{at}"
        broker.fill(stream, f"{at}-", LENGTH)
        killed = run(broker, service, stream, at).blown
        run(broker, service, stream)
        published = broker.published(f"{stream}:out")
        assert len(published) == len(SESSIONS), at
        assert_applied_once(artifacts, published, LENGTH)
        if not killed:
            break
    assert at > 15  # receive, prepare, advance and commit of several batches


def test_a_bridge_killed_again_and_again_applies_every_entry_once(broker, service, artifacts):
    broker.fill("often", "often-", 30)
    for at in range(1, 25):
        run(broker, service, "often", at)
    run(broker, service, "often")
    assert_applied_once(artifacts, broker.published("often:out"), 30)


def test_an_answer_that_is_lost_is_asked_for_again(broker, service, artifacts, monkeypatch):
    broker.fill("lost", "lost-", LENGTH)
    bridge = bridge_of(broker.source("lost"), service, session="{key}", publish="lost:out")
    lose, advance = iter([False, True, True, False, True] + 50 * [False]), service.advance

    def losing(*arguments: Any, **options: Any) -> Any:
        answers = advance(*arguments, **options)
        if next(lose):
            raise Unreachable("lost")
        return answers

    monkeypatch.setattr(service, "advance", losing)
    drive(bridge, lambda: broker.is_done("lost"))
    assert_applied_once(artifacts, broker.published("lost:out"), LENGTH)
    assert bridge.counts.replayed > 0


def test_a_transaction_whose_reply_is_lost_is_not_run_twice(broker, service, artifacts, monkeypatch):
    broker.fill("reply", "reply-", LENGTH)
    lose, execute = iter([True, False] * 50), redis.client.Pipeline.execute

    def losing(self: Any, *arguments: Any) -> Any:
        result = execute(self, *arguments)
        if next(lose):
            raise redis.ConnectionError("lost")
        return result

    source = broker.source("reply")
    bridge = bridge_of(source, service, session="{key}", publish="reply:out")
    monkeypatch.setattr(redis.client.Pipeline, "execute", losing)
    drive(bridge, lambda: broker.is_done("reply"))
    assert_applied_once(artifacts, broker.published("reply:out"), LENGTH)


def test_a_session_that_exists_already_goes_on(broker, service):
    service.session("old", "sine").advance([0.1, 0.2, 0.3])
    broker.redis.xadd("old:in", {"key": "old", "value": "0.4"})
    run(broker, service, "old:in")
    assert [position for position, _ in broker.published("old:in:out")["old"]] == [4]


def test_a_session_that_the_server_has_lost_begins_anew_and_is_exact_again(broker, service, artifacts):
    broker.fill("gone", "gone-", LENGTH)
    run(broker, service, "gone")
    for name in SESSIONS:
        service.session(f"gone-{name}").delete()
    broker.redis.delete("gone:out")
    broker.fill("gone", "gone-", LENGTH)
    for at in range(1, 20):
        run(broker, service, "gone", at)
    run(broker, service, "gone")
    assert_applied_once(artifacts, broker.published("gone:out"), LENGTH)


def test_another_writer_of_a_session_makes_it_neither_lose_nor_repeat_an_entry(broker, service):
    source = broker.source("two")
    bridge = bridge_of(source, service, session="{key}", publish="two:out")
    source.connect()
    for value in ("0.1", "0.2"):
        broker.redis.xadd("two", {"key": "two", "value": value})
        bridge.process(source.receive(10, 0.1))
        service.session("two").refresh()
        service.session("two").advance([9.0])
    source.close()
    assert [position for position, _ in broker.published("two:out")["two"]] == [1, 3]
    assert bridge.counts.rejected == 0


def test_an_entry_of_which_nobody_can_say_whether_it_was_applied_is_a_dead_letter(broker, service):
    broker.redis.xadd("doubt", {"key": "doubt", "value": "0.1"})
    # Killed behind the chunk; then another client moves the session further.
    drive(bridge_of(broker.source("doubt"), service, session="{key}"), lambda: broker.is_done("doubt"))
    broker.redis.xadd("doubt", {"key": "doubt", "value": "0.2"})
    run(broker, service, "doubt", 9)
    service.session("doubt").refresh()
    service.session("doubt").advance([0.3, 0.4])
    position = service.session("doubt").refresh().position
    run(broker, service, "doubt", dead_letter="doubt:dead")
    (_, letter), *more = broker.redis.xrange("doubt:dead")
    assert not more
    assert letter["source"].startswith("doubt ")
    assert "moved from 1 to" in letter["reason"]
    assert json.loads(letter["payload"]) == {"key": "doubt", "value": "0.2"}
    assert service.session("doubt").refresh().position == position


def test_bad_entries_are_dead_letters_and_their_neighbours_are_applied(broker, service, caplog):
    values = ["0.1", "warm", "1e39", "0.2", "NaN", "null", "true"]
    for value in values:
        broker.redis.xadd("bad", {"key": "bad", "value": value})
    broker.redis.xadd("bad", {"key": "no id", "value": "1"})
    broker.redis.xadd("bad", {"value": "1"})
    run(broker, service, "bad", dead_letter="bad:dead", in_flight=100, chunk=100)
    reasons = [fields["reason"] for _, fields in broker.redis.xrange("bad:dead")]
    assert len(reasons) == 6
    for part in ("neither a number nor JSON", "1e+39", "not a finite number", "not a session id", "'key'"):
        assert any(part in reason for reason in reasons), part
    assert [position for position, _ in broker.published("bad:out")["bad"]] == [1, 2, 3]  # null: not observed
    assert caplog.text.count("rejected") == 6


def test_bytes_that_are_no_text_are_a_dead_letter_and_the_bridge_goes_on(broker, service):
    for value in ("0.1", b"\xff\xfe", b'{"deep": "\xff"}', "0.2"):
        broker.redis.xadd("bytes", {"key": "bytes", "value": value})
    run(broker, service, "bytes", dead_letter="bytes:dead", in_flight=100)
    reasons = [fields["reason"] for _, fields in broker.redis.xrange("bytes:dead")]
    assert ["neither a number nor JSON" in reason for reason in reasons] == [True, True]
    assert [position for position, _ in broker.published("bytes:out")["bytes"]] == [1, 2]


def test_a_batch_over_the_limit_of_a_body_is_sent_in_parts(broker, service, artifacts, monkeypatch):
    advance, refused = service.advance, 0

    def limited(rows, *arguments, **options):
        nonlocal refused
        if sum(map(len, rows.values())) > 1 or [7.5] in rows.values():
            refused += 1
            raise TooLarge("a body has at most 30 bytes", 413, "urn:carryover:too-large")
        return advance(rows, *arguments, **options)

    monkeypatch.setattr(service, "advance", limited)
    broker.redis.xadd("large", {"key": "too-large", "value": "7.5"})
    broker.fill("large", "large-", LENGTH)
    try:
        run(broker, service, "large", in_flight=100, dead_letter="large:dead")
    except TooLarge:
        refused = -1
    assert refused > 0
    reasons = [fields["reason"] for _, fields in broker.redis.xrange("large:dead")]
    assert reasons == ["a body has at most 30 bytes"]
    assert_applied_once(artifacts, broker.published("large:out"), LENGTH)


def test_a_field_called_id_names_sessions(broker, service):
    for value in ("0.1", "0.2"):
        broker.redis.xadd("devices", {"id": "boiler-7", "value": value})
    run(broker, service, "devices", session="{id}")
    assert {name: len(found) for name, found in broker.published("devices:out").items()} == {"boiler-7": 2}


def test_a_session_of_another_model_is_not_fed_by_the_names_of_the_default_model(broker, service):
    service.session("other", model="tokens").advance([1])
    broker.redis.xadd("other", {"key": "other", "value": "2"})
    run(broker, service, "other", model=None, dead_letter="other:dead")
    reasons = [fields["reason"] for _, fields in broker.redis.xrange("other:dead")]
    assert ["runs model 'tokens', not 'sine'" in reason for reason in reasons] == [True]
    assert service.session("other").refresh().position == 1


def test_several_inputs_are_read_by_their_names(broker, service):
    inputs = service.models()
    (pair,) = [model for model in inputs if model.name == "pair"]
    first, second, third = pair.inputs
    broker.redis.xadd("pair", {"key": "p1", third: "3", first: "1", "deep": json.dumps({"second": 2})})
    broker.redis.xadd("pair", {"key": "p1", third: "3", first: "1"})
    options = {"fields": [f"{second}=deep.second"], "model": "pair", "dead_letter": "pair:dead"}
    run(broker, service, "pair", **options)
    expected = service.session("by-hand", "pair").advance([[1, 2, 3]]).predictions[0]
    ((_, fields),) = broker.redis.xrange("pair:out")
    assert json.loads(fields["prediction"]) == pytest.approx(dict(zip(pair.targets, expected, strict=True)))
    ((_, letter),) = broker.redis.xrange("pair:dead")
    assert "no field 'deep.second'" in letter["reason"]


def test_a_newer_bridge_takes_the_group_over_and_the_older_commits_nothing(broker, service, artifacts):
    broker.fill("owner", "owner-", LENGTH)
    old = bridge_of(broker.source("owner"), service, session="{key}", publish="owner:out")
    old.source.connect()
    messages = old.source.receive(4, 0.1)
    run(broker, service, "owner")
    with pytest.raises(ConnectorError, match="taken over"):
        old.process(messages)
    old.source.close()
    assert_applied_once(artifacts, broker.published("owner:out"), LENGTH)


def test_an_entry_that_an_older_bridge_receives_after_all_is_the_newer_ones(broker, service):
    """The older bridge waits for entries while it is replaced, so that Redis gives it the next one."""
    broker.redis.xadd("late", {"key": "late", "value": "0.1"})
    old = bridge_of(broker.source("late"), service, session="{key}", publish="late:out")
    drive(old, lambda: broker.is_done("late"))
    old = bridge_of(broker.source("late"), service, session="{key}", publish="late:out")
    old.source.connect()
    old.source.locate({"late": []})
    new = bridge_of(broker.source("late"), service, session="{key}", publish="late:out")
    new.source.connect()
    broker.redis.xadd("late", {"key": "other", "value": "0.1"})
    new.process(new.source.receive(4, 0.01))
    broker.redis.xadd("late", {"key": "late", "value": "0.2"})
    received = old.source._target._read(">", 4, 10)
    with pytest.raises(ConnectorError, match="taken over"):
        old.process(received)
    assert service.session("late").refresh().position == 1  # nothing was sent
    broker.redis.xadd("late", {"key": "late", "value": "0.3"})
    with pytest.raises(ConnectorError, match="taken over"):
        old.source.receive(4, 0.01)
    while messages := new.source.receive(4, 0.01):
        new.process(messages)
    assert broker.is_done("late")
    assert service.session("late").refresh().position == 3
    sources = [fields["source"] for _, fields in broker.redis.xrange("late:out")]
    assert sources == sorted(sources)
    old.source.close()
    new.source.close()


def test_an_entry_without_a_field_that_the_target_needs_is_rejected_and_not_applied(broker, service):
    for fields in ({"site": "a"}, {}, {"site": "a"}):
        broker.redis.xadd("target", {"key": "target", "value": "0.1"} | fields)
    run(broker, service, "target", publish="target:{site}", dead_letter="target:rejected")
    assert [position for position, _ in broker.published("target:a")["target"]] == [1, 2]
    ((_, letter),) = broker.redis.xrange("target:rejected")
    assert letter["reason"] == "it has no 'site', which 'target:{site}' needs"


@pytest.mark.parametrize("stream", ["plant", "{plant}:in", "in:{plant}"])
def test_what_a_bridge_notes_lies_with_its_stream_in_a_cluster(broker, stream):
    key = broker.source(stream).places_key
    assert key_slot(key.encode()) == key_slot(stream.encode())


def test_alarms_are_published_beside_the_predictions(broker, service):
    stream, values = "alarm", [0.1, 0.1] * 30 + [50.0]
    for value in values:
        broker.redis.xadd(stream, {"key": "alarm", "a": str(value), "b": "0.5"})
    options = {"alarms": "alarm:raised", "alarm_above": 0.99, "score": True, "model": "adaptive"}
    run(broker, service, stream, **options, in_flight=100, chunk=100)
    raised = [json.loads(fields["position"]) for _, fields in broker.redis.xrange("alarm:raised")]
    assert len(values) in raised
    flags = [json.loads(fields["alarm"]) for _, fields in broker.redis.xrange("alarm:out")]
    assert [i + 1 for i, flag in enumerate(flags) if flag] == raised
