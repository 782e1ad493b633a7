"""A text is the same however it is cut, whatever is written beside it, and wherever it goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine import step, texts
from app.jobs.text import TextRequest
from models.artifact.files import save
from models.artifact.graph_artifact import GraphArtifact, GraphText
from models.generation.sampling import TokenSampler
from tests.helpers import graphs, zoo
from tests.helpers.faults import held, queued, until
from tests.helpers.locked import Keys
from tests.helpers.text import LETTERS, text_model
from tests.protocols.test_watch_socket import receive_events, watch

pytestmark = pytest.mark.anyio
over_each_store = pytest.mark.parametrize("store", ["memory", "sqlite", "redis"], indirect=True)
on_disk = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
shared = pytest.mark.parametrize("store", ["redis"], indirect=True)
in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)

ASK = {"prompt": "the sea ", "steps": 200, "temperature": 0.9, "top_k": 20, "seed": 7}
SLICE = 16  # tokens of a text that are written in one batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    save(text_model(), folder / "letters")
    save(zoo.artifacts()["sine"], folder / "sine")
    save(graph_of_text(), folder / "graph")
    return folder


def graph_of_text() -> GraphArtifact:
    """A graph of ONNX over the letters, which answers the likeliest token, too, ahead of the logits."""
    graph = graphs.characters(name="graph", vocabulary=len(LETTERS))
    logits, best, likely = graph.signature.outputs
    signature = replace(graph.signature, outputs=(best, likely, logits))
    return replace(graph, signature=signature, feedback=None, writing=GraphText("logits", tuple(LETTERS)))


@pytest.fixture
def start_text(start_http, small_slices, folder):
    """Starts a service whose batches take few tokens of a text."""
    return lambda **changes: start_http(models=(folder,), default_model="letters", **changes)


@pytest.fixture
def start_text_hot(start_hot, small_slices, folder):
    """The same, behind a real connection."""
    return lambda **changes: start_hot(models=(folder,), default_model="letters", **changes)


@pytest.fixture
def small_slices(store, request, monkeypatch) -> None:
    if store == "redis":
        request.getfixturevalue("redis_url")
    monkeypatch.setattr(step, "BATCH_SECONDS", 10.0)
    monkeypatch.setattr(texts, "MAX_SLICE", SLICE)


async def generate(service: Any, session: str, **fields: Any) -> dict[str, Any]:
    answer = await service.http.post(f"/sessions/{session}/generate", json=ASK | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@asynccontextmanager
async def streamed(
    service: Any, session: str, last: str = "", **fields: Any
) -> AsyncIterator[httpx.Response]:
    headers = {"accept": "text/event-stream"} | ({"last-event-id": last} if last else {})
    address = f"/sessions/{session}/generate"
    async with service.http.stream("POST", address, json=ASK | fields, headers=headers) as response:
        yield response


async def events(service: Any, session: str, last: str = "", **fields: Any) -> list[dict[str, Any]]:
    async with streamed(service, session, last, **fields) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(parsed((await response.aread()).decode()))


def parsed(text: str) -> Iterator[dict[str, Any]]:
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        yield fields | {"data": json.loads(fields["data"])}


async def position(service: Any, session: str) -> int:
    return (await service.http.get(f"/sessions/{session}")).json()["position"]


# --- what is written


@over_each_store
async def test_a_text_is_the_same_whole_cut_alone_and_beside_others(start_text, monkeypatch) -> None:
    async with start_text() as service:
        alone = [await generate(service, f"alone-{i}", seed=i) for i in range(6)]
        together = await asyncio.gather(*(generate(service, f"beside-{i}", seed=i) for i in range(6)))
        monkeypatch.setattr(texts, "MAX_SLICE", 1000)  # all in one batch
        whole = [await generate(service, f"whole-{i}", seed=i) for i in range(6)]
        for one, beside, long in zip(alone, together, whole, strict=True):
            assert one["tokens"] == beside["tokens"] == long["tokens"]
            assert one["text"] == "".join(LETTERS[token] for token in one["tokens"])
            assert (one["position"], one["finish"]) == (8 + 200, "length")
        assert len({answer["text"] for answer in alone}) == 6
        # Cut by the client, too: what the session has consumed is what the next request goes on from.
        parts = [await generate(service, "cut", steps=40, seed=0)]
        parts += [await generate(service, "cut", steps=40, seed=0, prompt="", at=8 + 40 * i) for i in (1, 2)]
        assert "".join(part["text"] for part in parts) == alone[0]["text"][:120]


@over_each_store
async def test_a_retry_is_answered_again_and_moves_nothing(start_text) -> None:
    async with start_text() as service:
        first = await generate(service, "a", at=0, steps=50)
        again = await generate(service, "a", at=0, steps=50)
        assert (first["replayed"], again["replayed"]) == (False, True)
        assert first | {"replayed": True} == again
        assert await position(service, "a") == 58
        other = await service.http.post("/sessions/a/generate", json=ASK | {"at": 0, "steps": 51})
        assert other.status_code == 409
        assert other.json()["position"] == 58
        chunk = {"observations": [[3]], "at": 58}
        assert (await service.http.post("/sessions/a/observations", json=chunk)).status_code == 200
        assert (await generate(service, "a", at=0, steps=50))["replayed"]


@over_each_store
async def test_a_stream_is_resumed_behind_every_token(start_text) -> None:
    async with start_text() as service:
        whole = await events(service, "a")
        tokens, end = whole[:-1], whole[-1]
        assert [event["data"]["position"] for event in tokens] == list(range(9, 209))
        assert end["event"] == "done"
        assert end["data"] == {"position": 208, "finish": "length"}
        epoch = tokens[0]["id"].partition(".")[0]
        for i, event in enumerate(tokens):
            assert event["id"] == f"{epoch}.{event['data']['position']}"
            assert await events(service, "a", last=event["id"]) == whole[i + 1 :]
        assert await events(service, "a", last=f"{epoch}.8", at=0) == whole
        assert await position(service, "a") == 208


@over_each_store
async def test_a_closed_stream_stops_at_a_slice_and_goes_on_where_it_stopped(start_text_hot, monkeypatch):
    async with start_text_hot() as service:
        whole = await generate(service, "whole")
        commit, commits, closed = service.engine._commit.commit, [], asyncio.Event()

        async def held_after_three(batch: Any) -> None:
            commits.append(batch)
            if len(commits) > 3:
                await closed.wait()
            await commit(batch)

        monkeypatch.setattr(service.engine._commit, "commit", held_after_three)
        seen = ""
        async with streamed(service, "a") as response:
            async for text in response.aiter_text():
                seen += text
                if seen.count("id: ") == 3 * SLICE:
                    break
        await until(lambda: not service.server.server_state.connections)
        closed.set()
        await until(lambda: not service.engine.queue_length)
        assert await position(service, "a") == 8 + 4 * SLICE, "the slice under way is the last"
        found = list(parsed(seen))
        rest = await events(service, "a", last=found[-1]["id"])
        assert whole_text([*found, *rest]) == whole["text"]


@on_disk
async def test_a_text_goes_on_after_a_restart_behind_any_slice(start_text, monkeypatch) -> None:
    async with start_text() as service:
        whole = await events(service, "whole", steps=100)
    written, last = "", ""
    while True:
        async with start_text() as service:
            commit, commits = service.engine._commit.commit, []

            async def failing(batch: Any, commit: Any = commit, commits: list[Any] = commits) -> None:
                commits.append(batch)
                if len(commits) > 2:
                    raise RuntimeError("the server is gone")
                await commit(batch)

            monkeypatch.setattr(service.engine._commit, "commit", failing)
            got = await events(service, "a", last, steps=100, **({} if last else {"at": 0}))
        written += "".join(event["data"]["text"] for event in got if "event" not in event)
        last = [event["id"] for event in got if "id" in event][-1]
        if got[-1]["event"] == "done":
            break
        assert got[-1]["event"] == "error"
    assert written == "".join(event["data"]["text"] for event in whole[:-1])


@shared
async def test_a_text_goes_on_on_another_replica(start_text) -> None:
    async with start_text() as one, start_text() as other:
        whole = await events(one, "whole")
        first = await generate(one, "a", at=0)
        assert first["text"] == "".join(event["data"]["text"] for event in whole[:-1])
        epoch = first["epoch"]
        for at in (8, 60, 207, 208):
            rest = await events(other, "a", last=f"{epoch}.{at}", at=0)
            assert [event["data"] for event in rest] == [event["data"] for event in whole[at - 8 :]]
        again = await generate(other, "a", at=0)
        assert again["replayed"]
        # Both at once: each slice is committed once, by whichever replica is first.
        both = await asyncio.gather(*(generate(at, "b", at=0, steps=120) for at in (one, other, one)))
        assert {answer["text"] for answer in both} == {whole_text(whole)[:120]}
        assert await position(one, "b") == await position(other, "b") == 128


def whole_text(found: list[dict[str, Any]]) -> str:
    return "".join(event["data"].get("text", "") for event in found)


# --- graphs, tenants and quotas


@on_disk
async def test_a_graph_of_text_writes_what_it_writes_alone_in_every_way(start_text, store) -> None:
    async with start_text() as service:
        graph = {"model": "graph", "steps": 60}
        whole, beside = await asyncio.gather(
            generate(service, "a", **graph, at=0), generate(service, "b", **graph, seed=8)
        )
        assert whole["text"] != beside["text"]
        assert await generate(service, "c", **graph) | {"session": "", "epoch": ""} == whole | {
            "session": "",
            "epoch": "",
        }
        parts = [await generate(service, "d", model="graph", steps=30)]
        parts.append(await generate(service, "d", prompt="", steps=30))
        assert "".join(part["text"] for part in parts) == whole["text"]
        completion = await complete(service, model="graph", max_tokens=60, top_k=20)
        assert completion["choices"][0]["text"] == whole["text"]
        described = (await service.http.get("/models/graph")).json()
        assert described["vocabulary"] == len(LETTERS)
        assert (await service.http.get("/sessions/a/forecast?steps=3")).status_code == 422
    async with start_text() as service:
        assert await generate(service, "a", **graph, at=0) == whole | {"replayed": True}
        resumed = await events(service, "a", last=f"{whole['epoch']}.40", at=0, **graph)
        assert whole_text(resumed) == whole["text"][40 - 8 :]


@shared
async def test_tenants_write_on_two_replicas_without_seeing_each_other(start_text, tmp_path) -> None:
    keys = Keys(tmp_path)
    keys.add("acme")
    keys.add("other")
    async with start_text(api_keys_file=keys.path) as one, start_text(api_keys_file=keys.path) as another:

        async def ask(service: Any, key: str, last: str = "", **fields: Any) -> Any:
            headers = keys.headers(key) | ({"last-event-id": last} if last else {})
            headers |= {"accept": "text/event-stream"} if last else {}
            address = "/sessions/a/generate"
            return await service.http.post(address, json=ASK | fields, headers=headers)

        ours = (await ask(one, "acme", at=0)).json()
        theirs = (await ask(another, "other", at=0, seed=8)).json()
        assert ours["text"] != theirs["text"]
        # Each tenant's retry and resumption find its own text, at either replica.
        for service in (one, another):
            assert (await ask(service, "acme", at=0)).json() == ours | {"replayed": True}
            rest = await ask(service, "other", last=f"{theirs['epoch']}.100", at=0, seed=8)
            assert whole_text(list(parsed(rest.text))) == theirs["text"][100 - 8 :]
            stolen = await ask(service, "acme", last=f"{theirs['epoch']}.100", at=0, seed=8)
            assert stolen.status_code == 409
            assert theirs["text"][:20] not in stolen.text


@in_memory
async def test_the_tokens_of_a_text_count_in_the_quota_of_its_key_alone(start_text, store, tmp_path) -> None:
    keys = Keys(tmp_path)
    # So slow that nothing comes back while the test runs, and a text of 100 tokens is granted on credit.
    keys.add("slow", observations_per_second=0.01)
    keys.add("short", chunk_observations=10)
    keys.add("few", sessions=1)
    keys.add("free")
    async with start_text(api_keys_file=keys.path) as service:

        async def ask(key: str, session: str = "a", **fields: Any) -> httpx.Response:
            address = f"/sessions/{session}/generate"
            return await service.http.post(address, json=ASK | fields, headers=keys.headers(key))

        first = await ask("slow", at=0, steps=100)
        assert (first.status_code, len(first.json()["text"])) == (200, 100), (
            "all its slices are granted at once"
        )
        for session, fields in (("a", {"prompt": ""}), ("b", {}), ("a", {"keep": False, "steps": 1})):
            over = await ask("slow", session, **fields)
            assert (over.status_code, over.json()["quota"]) == (429, "observations_per_second")
            assert int(over.headers["retry-after"]) > 0
        body, headers = COMPLETE | {"max_tokens": 5}, keys.headers("slow")
        completion = await service.http.post("/v1/completions", json=body, headers=headers)
        assert completion.status_code == 429
        assert set(completion.json()["error"]) == {"message", "type", "param", "code"}
        position = await service.http.get("/sessions/a", headers=headers)
        assert position.json()["position"] == 108

        assert (await ask("short")).status_code == 200, "a quota of chunks bounds the prompt, not the text"
        long = await ask("short", prompt="the sea the sea ")
        assert (long.status_code, long.json()["quota"]) == (413, "chunk_observations")

        assert (await ask("few")).status_code == 200
        full = await ask("few", "b")
        assert (full.status_code, full.json()["quota"]) == (429, "sessions")
        assert (await ask("few", keep=False)).status_code == 200, "a copy is no session"
        keyless = await service.http.post("/v1/completions", json=COMPLETE, headers=keys.headers("few"))
        assert keyless.status_code == 200, "without a user nothing is kept"
        assert (await ask("free")).status_code == 200


# --- what is asked for


@in_memory
async def test_a_copy_leaves_the_session_where_it_is(start_text, store) -> None:
    async with start_text() as service:
        await service.http.post("/sessions/a/observations", json={"observations": [[1], [2], [3]]})
        before = (await service.http.get("/sessions/a")).json()
        copy = await generate(service, "a", keep=False)
        stream = await events(service, "a", keep=False, at=3)
        assert whole_text(stream) == copy["text"]
        resumed = await events(service, "a", last=stream[99]["id"], keep=False, at=3)
        assert resumed == stream[100:]
        assert (await service.http.get("/sessions/a")).json() == before
        kept = await generate(service, "a")
        assert (kept["text"], kept["position"]) == (copy["text"], copy["position"])
        gone = await service.http.post("/sessions/nobody/generate", json=ASK | {"keep": False})
        assert gone.status_code == 404


@in_memory
async def test_what_was_read_and_written_is_in_the_history_and_a_watcher_sees_it(
    start_text_hot, store, monkeypatch
) -> None:
    async with start_text_hot() as service, watch(service, "a") as (socket, hello):
        assert hello["position"] is None
        whole = await generate(service, "a")
        await generate(service, "a", keep=False)  # a copy: the session observes nothing
        await generate(service, "a", at=0)  # a retry
        more = await generate(service, "a", prompt="", steps=5)
        seen = []
        while not seen or seen[-1]["position"] < more["position"]:
            seen += await receive_events(socket, 1)
    assert {event["event"] for event in seen} == {"text"}
    assert len(seen) > 10, "the events come with the slices"
    pieces = [piece for event in seen for piece in event["pieces"]]
    assert "".join(pieces) == ASK["prompt"] + whole["text"] + more["text"]
    assert sum(event["prompt"] for event in seen) == len(ASK["prompt"])
    assert [event["finish"] for event in seen if event["finish"]] == ["length", "length"]
    async with start_text_hot() as service:
        await generate(service, "a")
        read = (await service.http.get("/sessions/a/history")).json()
        assert (read["from"], read["position"]) == (0, whole["position"])
        assert "".join(read["pieces"]) == ASK["prompt"] + whole["text"]
        assert [token for [token] in read["observations"]][len(ASK["prompt"]) :] == whole["tokens"]
        assert "predictions" not in read
        chunk = {"observations": read["observations"][:20]}
        await service.http.post("/sessions/b/observations", json=chunk)
        part = (await service.http.get("/sessions/b/history", params={"last": 12})).json()
        assert part["pieces"] == read["pieces"][8:20]


@in_memory
async def test_a_long_prompt_is_observed_in_slices_and_is_what_a_chunk_would_be(start_text, store) -> None:
    prompt = "the quick brown fox jumps over the lazy dog. " * 4
    async with start_text() as service:
        got = await generate(service, "a", prompt=prompt, steps=30)
        rows = [[LETTERS.index(letter)] for letter in prompt]
        await service.http.post("/sessions/b/observations", json={"observations": rows})
        assert (await generate(service, "b", prompt="", steps=30))["tokens"] == got["tokens"]
        tokens = await generate(service, "c", prompt=[row[0] for row in rows], steps=30)
        assert tokens["tokens"] == got["tokens"]
        assert got["position"] == len(prompt) + 30


@in_memory
async def test_without_a_seed_each_session_has_its_own_text(start_text, store) -> None:
    async with start_text() as service:
        found = [await generate(service, name, seed=None) for name in "abc"]
        assert len({answer["text"] for answer in found}) == 3
        assert (await generate(service, "a", seed=None, at=0))["replayed"]


@in_memory
async def test_a_stop_is_the_end_of_a_text(start_text, store) -> None:
    async with start_text() as service:
        whole = await generate(service, "whole")
        token = whole["tokens"][100]
        end = whole["tokens"].index(token) + 1
        by_token = await generate(service, "a", stop=[token])
        assert (by_token["text"], by_token["finish"]) == (whole["text"][:end], "stop")
        assert by_token["position"] == 8 + end
        phrase = whole["text"][50:54]
        by_text = await generate(service, "b", stop=["nothing of it", phrase])
        found = whole["text"].index(phrase) + 4
        assert (by_text["text"], by_text["finish"]) == (whole["text"][:found], "stop")
        assert (await generate(service, "b", stop=["nothing of it", phrase], at=0))["replayed"]


@in_memory
async def test_a_repetition_penalty_counts_the_prompt_and_earlier_slices(
    start_text, store, monkeypatch
) -> None:
    greedy = {"temperature": 0, "top_k": None}
    async with start_text() as service:
        cut = await generate(service, "a", **greedy, steps=60, repetition_penalty=1.5)
        monkeypatch.setattr(texts, "MAX_SLICE", 1000)
        whole = await generate(service, "b", **greedy, steps=60, repetition_penalty=1.5)
        assert cut["text"] == whole["text"]
        likeliest = (await generate(service, "c", **greedy, steps=1))["text"]
        prompt = likeliest + "the sea "
        again = (await generate(service, "d", **greedy, steps=1, prompt=prompt))["text"]
        prompt = prompt if again in prompt else again + prompt
        penalised = await generate(service, "e", **greedy, steps=1, prompt=prompt, repetition_penalty=99)
        assert penalised["text"] not in prompt


@in_memory
async def test_a_text_that_fails_is_refused_alone(start_text, store, monkeypatch) -> None:
    draw, cursed = TokenSampler.draw, 5
    ask = {"prompt": "q"}  # one letter: after many, a network may forget what it read before them

    def raising(sampler: TokenSampler, logits: Any, positions: Any) -> Any:
        if (sampler._top_k == cursed).any() and positions.max() > SLICE // 2:  # in the middle of a slice
            raise RuntimeError("cursed")
        return draw(sampler, logits, positions)

    async with start_text() as service:
        first = await generate(service, "first", **ask, seed=0)
        # The stop comes up in the part of the slice that is written twice.
        asked = [{"seed": 0, "stop": [first["text"][2:4]]}, {"seed": 1}, {"seed": 2, "keep": False}]
        for session in ("alone-2", "beside-2"):  # a copy is made of a session that is there
            await service.http.post("/sessions", json={"id": session})
        alone = [await generate(service, f"alone-{i}", **ask, **fields) for i, fields in enumerate(asked)]
        monkeypatch.setattr(TokenSampler, "draw", raising)
        async with held(service.engine) as release:
            asks = [
                service.http.post(f"/sessions/beside-{i}/generate", json=ASK | ask | fields)
                for i, fields in enumerate([*asked, {"top_k": cursed}])
            ]
            answers = [asyncio.ensure_future(ask) for ask in asks]
            await queued(service.engine, [f"beside-{i}" for i in range(len(asks))])
            release.set()
            *beside, refused = await asyncio.gather(*answers)
        assert (refused.status_code, "cursed" in refused.json()["detail"]) == (500, True)
        assert (await service.http.get(f"/sessions/beside-{len(asked)}")).status_code == 404
        assert [answer.status_code for answer in beside] == [200] * len(asked)
        for one, other in zip(alone, beside, strict=True):
            for field in ("tokens", "position", "finish"):
                assert other.json()[field] == one[field]
        assert alone[0]["finish"] == "stop"
        moved = [await position(service, f"beside-{i}") for i in range(3)]
        assert moved == [alone[0]["position"], alone[1]["position"], 0]


@in_memory
async def test_a_request_without_a_digest_fails_alone(start_text, store, monkeypatch) -> None:
    digest = TextRequest.digest.fget

    def raising(request: TextRequest) -> int:
        if request.steps == 99:
            raise OverflowError("cursed")
        return digest(request)

    monkeypatch.setattr(TextRequest, "digest", property(raising))
    async with start_text() as service:
        chunk = {"model": "sine", "observations": [[0.5]]}
        async with held(service.engine) as release:
            asks = [
                service.http.post("/sessions/cursed/generate", json=ASK | {"steps": 99}),
                service.http.post("/sessions/text/generate", json=ASK),
                service.http.post("/sessions/chunk/observations", json=chunk),
            ]
            answers = [asyncio.ensure_future(ask) for ask in asks]
            await queued(service.engine, ["cursed", "text", "chunk"])
            release.set()
            statuses = [answer.status_code for answer in await asyncio.gather(*answers)]
        assert statuses == [500, 200, 200]
        assert (await service.http.get("/sessions/cursed")).status_code == 404


@in_memory
async def test_another_request_between_two_slices_ends_a_text(start_text, store, monkeypatch) -> None:
    async with start_text() as service:
        commit, commits = service.engine._commit.commit, []

        async def failing_after_two(batch: Any) -> None:
            commits.append(batch)
            if len(commits) > 2:
                raise RuntimeError("the disk is gone")
            await commit(batch)

        with monkeypatch.context() as patch:
            patch.setattr(service.engine._commit, "commit", failing_after_two)
            assert (await events(service, "a", at=0))[-1]["event"] == "error"
        there = 8 + 2 * SLICE
        await service.http.post("/sessions/a/observations", json={"observations": [[3]], "at": there})
        answer = await service.http.post("/sessions/a/generate", json=ASK | {"at": 0})
        assert answer.status_code == 409
        assert answer.json()["position"] == there + 1
        assert "not complete" in answer.json()["detail"]


@in_memory
async def test_a_text_takes_the_place_of_one_chunk_among_those_remembered(start_text, store) -> None:
    chunk = {"observations": [[1], [2]], "at": 0}
    async with start_text() as service:
        await service.http.post("/sessions/a/observations", json=chunk)
        first = await generate(service, "a", at=2)
        await generate(service, "a", at=210, prompt="")
        assert (await service.http.post("/sessions/a/observations", json=chunk)).json()["replayed"]
        assert await generate(service, "a", at=2) == first | {"replayed": True}


@in_memory
async def test_a_key_that_only_reads_writes_on_copies_of_its_tenant_s_sessions(start_text, store, tmp_path):
    keys = Keys(tmp_path)
    keys.add("acme")
    keys.add("other")
    keys.add("reader", "read", tenant="acme")
    async with start_text(api_keys_file=keys.path) as service:

        async def status(key: str, **fields: Any) -> tuple[int, str]:
            headers = {"authorization": f"Bearer {keys.token[key]}"}
            answer = await service.http.post("/sessions/a/generate", json=ASK | fields, headers=headers)
            return answer.status_code, answer.json().get("text", "")

        first = await status("acme")
        assert first == await status("other"), "each tenant has a session of this id"
        assert await status("acme", at=0) == first
        assert (await status("reader"))[0] == 403
        copy = await status("reader", keep=False)
        assert copy[0] == 200
        assert await status("acme") == copy


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"steps": 0}, 422, "steps"),
    ({"steps": 10**6}, 413, "tokens"),
    ({"prompt": "é"}, 422, "prompt"),
    ({"prompt": [29]}, 422, "prompt"),
    ({"prompt": [-1]}, 422, "prompt"),
    ({"prompt": "a" * 10**6}, 413, "prompt"),
    ({"prompt": ""}, 409, "observed nothing"),
    ({"temperature": -1}, 422, "temperature"),
    ({"top_p": 0}, 422, "top_p"),
    ({"seed": 2**64}, 422, "seed"),
    ({"stop": [""]}, 422, "stop"),
    ({"model": "sine"}, 422, "GET /v1/models lists"),
    ({"model": "nobody"}, 404, "nobody"),
    ({"at": 5}, 404, "no session"),
    ({"epoch": "0000000000000003"}, 404, "no session"),
    ({"nonsense": 1}, 422, "nonsense"),
]


@in_memory
async def test_what_cannot_be_written_is_refused_and_creates_nothing(start_text, store) -> None:
    async with start_text() as service:
        for fields, status, text in REFUSED:
            for headers in ({}, {"accept": "text/event-stream"}):
                answer = await service.http.post("/sessions/a/generate", json=ASK | fields, headers=headers)
                assert answer.status_code == status, (fields, answer.text)
                assert answer.headers["content-type"] == "application/problem+json"
                assert text in answer.text, fields
        assert (await service.http.get("/sessions/a")).status_code == 404
        for wrong in ("x", "0011.", "0011.-3", "0011.99999999999999999999"):
            async with streamed(service, "a", wrong) as response:
                assert response.status_code == 422
        async with streamed(service, "a", "0000000000000011.4") as response:
            assert response.status_code == 404


@in_memory
async def test_a_model_of_text_takes_chunks_and_gives_no_forecast(start_text, store) -> None:
    async with start_text() as service:
        answer = await service.http.post("/sessions/a/observations", json={"observations": [[1], [2]]})
        assert list(map(len, answer.json()["predictions"])) == [len(LETTERS)] * 2
        forecast = await service.http.get("/sessions/a/forecast?steps=3")
        assert forecast.status_code == 422
        described = (await service.http.get("/models/letters")).json()
        assert described["vocabulary"] == len(LETTERS)
        text = await generate(service, "a", prompt="", steps=20)
        file = (await service.http.get("/sessions/a/state")).content
        assert (await service.http.put("/sessions/b/state", content=file)).status_code == 200
        ahead = {"prompt": "", "steps": 20, "keep": False}
        assert (await generate(service, "b", **ahead))["text"] == (await generate(service, "a", **ahead))[
            "text"
        ]
        assert text["position"] == 22


@in_memory
async def test_the_examples_of_the_document_work_as_they_are(start_text, store) -> None:
    async with start_text() as service:
        paths = service.app.openapi()["paths"]
        for path in ("/sessions/{id}/generate", "/v1/completions"):
            content = paths[path]["post"]["requestBody"]["content"]["application/json"]
            for example in content["examples"].values():
                answer = await service.http.post(path.replace("{id}", "a"), json=example["value"])
                assert answer.status_code == 200, answer.text


# --- OpenAI's completions

COMPLETE = {"prompt": "the sea ", "max_tokens": 60, "temperature": 0.9, "seed": 7}


async def complete(service: Any, **fields: Any) -> dict[str, Any]:
    answer = await service.http.post("/v1/completions", json=COMPLETE | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def completion_chunks(service: Any, **fields: Any) -> list[dict[str, Any]]:
    answer = await service.http.post("/v1/completions", json=COMPLETE | {"stream": True} | fields)
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n")[:-1]]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@in_memory
async def test_a_completion_is_a_text_on_a_fresh_copy(start_text, store) -> None:
    async with start_text() as service:
        answer = await complete(service, model="letters")
        text = await generate(service, "a", steps=60, top_k=None)
        choice = answer["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text["text"], "length")
        assert answer["object"] == "text_completion"
        assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": 60, "total_tokens": 68}
        assert (await service.http.get("/sessions")).json()["total"] == 1
        chunks = await completion_chunks(service, stream_options={"include_usage": True})
        assert len(chunks) > 3
        assert "".join(part["choices"][0]["text"] for part in chunks[:-1]) == text["text"]
        assert chunks[-1]["usage"] == answer["usage"]
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        assert (await complete(service, seed=None))["choices"] != (await complete(service, seed=None))[
            "choices"
        ]


@in_memory
async def test_the_stop_of_a_completion_is_not_part_of_it(start_text, store) -> None:
    async with start_text() as service:
        whole = (await complete(service))["choices"][0]["text"]
        stop = whole[14:19]  # goes over the end of a slice
        cut = await complete(service, stop=stop)
        assert cut["choices"][0] == {
            "text": whole[: whole.index(stop)], "index": 0, "logprobs": None, "finish_reason": "stop",
        }  # fmt: skip
        chunks = await completion_chunks(service, stop=[stop, "xyxyxy"])
        assert "".join(part["choices"][0]["text"] for part in chunks) == whole[: whole.index(stop)]


@in_memory
async def test_a_user_is_a_session_that_goes_on(start_text, store) -> None:
    async with start_text() as service:
        await complete(service, user="poet")
        assert await position(service, "poet") == 68
        await complete(service, user="poet", prompt="", max_tokens=3)
        assert await position(service, "poet") == 71


@in_memory
async def test_a_refused_completion_is_an_error_as_its_clients_know_it(start_text, store) -> None:
    async with start_text() as service:
        for fields, status in (({"n": 2}, 422), ({"prompt": "é"}, 422), ({"model": "nobody"}, 404)):
            for stream in (False, True):
                answer = await service.http.post(
                    "/v1/completions", json=COMPLETE | fields | {"stream": stream}
                )
                assert answer.status_code == status
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@in_memory
async def test_a_list_of_one_prompt_is_that_prompt_and_a_longer_one_is_refused(start_text, store) -> None:
    async with start_text() as service:
        plain = (await complete(service))["choices"]
        tokens = [LETTERS.index(letter) for letter in COMPLETE["prompt"]]
        for prompt in ([COMPLETE["prompt"]], [tokens], tokens):
            assert (await complete(service, prompt=prompt))["choices"] == plain
        for nothing in ({"prompt": ""}, {"prompt": []}, {"prompt": None}):
            assert (await refused_completion(service, **nothing))["param"] == "prompt"
        for prompt in (["a", "b"], [[1], [2]]):
            error = await refused_completion(service, prompt=prompt)
            assert (error["param"], error["message"]) == (
                "prompt",
                "prompt: 2 prompts; a request has one: send a request for each",
            )


@in_memory
async def test_what_is_not_supported_is_refused_by_name_and_may_be_sent_as_its_default(start_text, store):
    defaults = {"n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": "", "presence_penalty": 0}
    defaults |= {"logit_bias": {}}
    others = {"n": 2, "best_of": 3, "echo": True, "logprobs": 0, "suffix": "end", "frequency_penalty": 0.5}
    others |= {"logit_bias": {"1": -100}}
    async with start_text() as service:
        plain = (await complete(service))["choices"]
        assert (await complete(service, **defaults))["choices"] == plain
        assert (await complete(service, **dict.fromkeys(others)))["choices"] == plain
        for name, value in others.items():
            error = await refused_completion(service, **{name: value})
            assert error["param"] == name
            assert error["message"].startswith(f"{name}: not supported here: leave it out, or send ")


async def refused_completion(service: Any, **fields: Any) -> dict[str, Any]:
    answer = await service.http.post("/v1/completions", json=COMPLETE | fields)
    assert answer.status_code == 422, answer.text
    return answer.json()["error"]


@in_memory
async def test_the_models_of_text_are_listed_as_openais_clients_read_them(
    start_text, store, folder, tmp_path
) -> None:
    keys = Keys(tmp_path)
    keys.add("reader", role="read")
    headers = keys.headers("reader")
    written_at = {name: int((folder / name / "model.json").stat().st_mtime) for name in ("graph", "letters")}
    models = [
        {"id": name, "object": "model", "created": seconds, "owned_by": "carryover"}
        for name, seconds in written_at.items()
    ]
    async with start_text(api_keys_file=keys.path) as service:
        listed = await service.http.get("/v1/models", headers=headers)
        assert listed.json() == {"object": "list", "data": models}
        for model in models:
            assert (await service.http.get(f"/v1/models/{model['id']}", headers=headers)).json() == model
        for path, key, status, param in (
            ("/v1/models", {}, 401, None),
            ("/v1/models/sine", headers, 404, "model"),  # writes no text
            ("/v1/models/nobody", headers, 404, "model"),
            ("/v1/chat/completions", headers, 404, None),
        ):
            answer = await service.http.get(path, headers=key)
            assert answer.status_code == status
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert answer.json()["error"]["param"] == param
