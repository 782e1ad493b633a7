"""OpenTelemetry spans, where the settings ask for them: one for each request, linked to that of its batch.

A request's span begins when its job is submitted and ends with its answer; `traceparent` (W3C Trace Context)
makes it a child of the client's span. A batch holds many requests, so its span is no child of theirs: the
span of each request links to it. No span holds an observation, a key, or a session's name.

OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, say where the spans go.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from app.errors import CarryoverError, ConfigError, slug
from models.installation import install_command

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from app.jobs.jobs import Job

TRACEPARENT: ContextVar[str] = ContextVar("traceparent", default="")


class Tracing:
    """Makes spans and exports them.

    Parameters
    ----------
    exporter : where the spans go
    version : of the server

    Raises
    ------
    ConfigError : the extra `traces` is not installed
    """

    def __init__(self, exporter: SpanExporter, version: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "carryover", "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("carryover", version)
        self._parents = TraceContextTextMapPropagator()
        self._batch: Span | None = None

    def trace(self, job: Job) -> Callable[[Any], None]:
        """Begin the span of a job. The job's `reply` ends it; where the job is refused, the returned call."""
        parent = TRACEPARENT.get()
        context = self._parents.extract({"traceparent": parent}) if parent else None
        span = self._tracer.start_span(type(job).__name__, context)
        span.set_attribute("carryover.sessions", len(job.sessions))
        reply = job.reply

        def end(outcome: Any) -> None:
            self._end(span, outcome)

        def end_and_reply(outcome: Any) -> None:
            end(outcome)
            reply(outcome)

        job.reply = end_and_reply
        return end

    def begin_batch(self, sessions: int) -> None:
        """Begin the span of a batch with this number of sessions."""
        self._batch = self._tracer.start_span("batch", None)
        self._batch.set_attribute("carryover.sessions", sessions)

    def end_batch(self) -> None:
        """End the span of the batch: its answers were sent."""
        if self._batch is not None:
            self._batch.end()
        self._batch = None

    def close(self) -> None:
        """Export the spans that were not exported yet."""
        self._provider.shutdown()

    def _end(self, span: Span, outcome: Any) -> None:
        from opentelemetry.trace import StatusCode

        if self._batch is not None:
            span.add_link(self._batch.get_span_context())
        if isinstance(outcome, CarryoverError):
            span.set_status(StatusCode.ERROR, slug(type(outcome)))
        span.end()


def create_tracing(where: str, version: str) -> Tracing | None:
    """The tracing that the setting `traces` names; None where it is off.

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
        raise ConfigError(f"traces need their extra: {install_command('traces')}") from None
    return Tracing(OTLPSpanExporter() if where == "otlp" else ConsoleSpanExporter(), version)
