import httpx
import pytest

from app import main
from app.errors import ConfigError
from app.observability import tracing
from tests.helpers.locked import Keys

export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
pytestmark = pytest.mark.anyio

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
CHUNK = {"observations": [[0.123456]]}


@pytest.fixture
def store():
    return "memory"


@pytest.fixture
def spans(monkeypatch):
    """Where the spans go; they are there once the server has stopped."""
    exporter = export.InMemorySpanExporter()
    monkeypatch.setattr(main, "create_tracing", lambda where, version: tracing.Tracing(exporter, version))
    return exporter


@pytest.mark.parametrize("hot", [True, False])
async def test_a_request_is_one_span_in_the_clients_trace_and_linked_to_its_batch(start_hot, spans, hot):
    async with start_hot(hot_route=hot) as service:
        response = await service.http.post("/sessions/secret/observations", json=CHUNK, headers=PARENT)
        assert response.headers["x-request-id"] == TRACE
    found = {span.name: span for span in spans.get_finished_spans()}
    request, batch = found["Advance"], found["batch"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == SPAN
    assert [link.context.span_id for link in request.links] == [batch.context.span_id]
    assert batch.attributes["carryover.sessions"] == 1
    everything = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "secret" not in everything
    assert "0.123456" not in everything


async def test_a_refusal_is_named_in_its_span_and_a_request_without_a_trace_begins_one(
    start_hot, spans, tmp_path
):
    keys = Keys(tmp_path)
    keys.add("slow", observations_per_second=1)
    async with start_hot(api_keys_file=keys.path) as service:
        for at in (0, 7):
            await service.http.post(
                "/sessions/a/observations",
                json={"observations": [[0.1]] * 7, "at": at},
                headers=keys.headers("slow"),
            )
        await service.http.get("/sessions/none", headers=keys.headers("slow") | PARENT)
        async with httpx.AsyncClient(base_url=service.http.base_url, timeout=30) as other:
            await other.get("/sessions/none", headers=keys.headers("slow"))
    spans = [span for span in spans.get_finished_spans() if span.name != "batch"]
    response = [(span.name, span.status.description) for span in spans]
    assert response == [
        ("Advance", None),
        ("Advance", "over-limit"),
        ("Inspect", "unknown-session"),
        ("Inspect", "unknown-session"),
    ]
    assert [span.parent is not None for span in spans] == [False, False, True, False]


def test_tracing_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None
    )
    with pytest.raises(ConfigError, match=r"traces need their extra: .*\[traces\]"):
        tracing.create_tracing("otlp", "1")
    assert tracing.create_tracing("off", "1") is None
