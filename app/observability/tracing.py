"""OpenTelemetry spans, where the settings ask for them: one a request, linked to that of its wave.

A request's span begins when its job is handed over and ends with its answer; `traceparent` (W3C Trace
Context) makes it a child of the client's. A wave steps many requests at once, so it is no request's child:
each of theirs links to it. No span holds an observation, a key, or a session's name.

Where they go is said by OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from app.errors import CarryoverError, ConfigError, slug

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from app.jobs.jobs import Job

TRACEPARENT: ContextVar[str] = ContextVar("traceparent", default="")


class Tracing:
    """Makes spans, and sends them on.

    Parameters
    ----------
    exporter : where to

    Raises
    ------
    ConfigError : the extra `traces` is not installed
    """

    def __init__(self, exporter: SpanExporter, version: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        told = Resource.create({"service.name": "carryover", "service.version": version})
        self._provider = TracerProvider(resource=told, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("carryover", version)
        self._parents = TraceContextTextMapPropagator()
        self._batch: Span | None = None

    def trace(self, job: Job) -> Callable[[Any], None]:
        """Begin the span of a job. Its `reply` ends it, or what is returned, for one that is not queued."""
        parent = TRACEPARENT.get()
        context = self._parents.extract({"traceparent": parent}) if parent else None
        span = self._tracer.start_span(type(job).__name__, context)
        span.set_attribute("carryover.sessions", len(job.sessions))
        reply = job.reply

        def ended(outcome: Any) -> None:
            self._end(span, outcome)

        def answered(outcome: Any) -> None:
            ended(outcome)
            reply(outcome)

        job.reply = answered
        return ended

    def begin_batch(self, sessions: int) -> None:
        """A tick has taken so many sessions."""
        self._batch = self._tracer.start_span("batch", None)
        self._batch.set_attribute("carryover.sessions", sessions)

    def end_batch(self) -> None:
        """Its answers have left."""
        if self._batch is not None:
            self._batch.end()
        self._batch = None

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()

    def _end(self, span: Span, outcome: Any) -> None:
        from opentelemetry.trace import StatusCode

        if self._batch is not None:
            span.add_link(self._batch.get_span_context())
        if isinstance(outcome, CarryoverError):
            span.set_status(StatusCode.ERROR, slug(type(outcome)))
        span.end()


def create_tracing(where: str, version: str) -> Tracing | None:
    """What the setting `traces` asks for.

    Raises
    ------
    ConfigError : the extra `traces` is not installed
    """
    if where == "off":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter
    except ImportError:
        raise ConfigError("traces need their extra: pip install 'carryover-server[traces]'") from None
    return Tracing(OTLPSpanExporter() if where == "otlp" else ConsoleSpanExporter(), version)
