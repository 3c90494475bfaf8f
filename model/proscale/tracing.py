"""Spans of what happens to a picture, for OpenTelemetry (OTLP over HTTP). Nothing is done unless an endpoint is named. No torch.

Gateway and worker share it: the gateway's span of a call travels as W3C `traceparent` in the request's parameters, and the worker's
spans are its children. Stages are measured anyway; their spans are made afterwards from these figures, so that nothing waits for tracing.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from proscale.errors import ProscaleError

TRACEPARENT = "traceparent"
"""W3C's name of the header, and of the request's parameter on the way to a worker."""
SPAN_NAMES = {"preprocess": "preprocess", "infer": "inference", "postprocess": "postprocess", "encode": "encode"}
"""From the stages of a batch to their spans."""
_EXPORT_TIMEOUT_S = 5
_BATCH_DELAY_MS = 1000

Kind = Literal["server", "client", "internal"]
_CURRENT: ContextVar["Span | None"] = ContextVar("span", default=None)


class TracingError(ProscaleError):
    """Spans are wanted, and cannot be made."""


class Span:
    """What took a while; times are seconds of `time.time`."""

    def __init__(self, tracer: Any, span: Any, began: float) -> None:
        self._tracer, self._span, self.began = tracer, span, began

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; the same in every span of a trace."""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def sampled(self) -> bool:
        """Whether it is kept."""
        return bool(self._span.get_span_context().trace_flags.sampled)

    @property
    def traceparent(self) -> str:
        """For whoever goes on with it elsewhere."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def begin(self, name: str, kind: Kind = "internal") -> "Span":
        """A part that begins now."""
        return _started(self._tracer, name, kind, self._span, time.time())

    def part(self, name: str, began: float, ended: float, **attributes: str | int | float | bool) -> "Span":
        """A part that is over."""
        span = _started(self._tracer, name, "internal", self._span, began)
        span._span.set_attributes(attributes)
        span.end(ended)
        return span

    def end(self, at: float | None = None, *, error: str = "", **attributes: str | int | float | bool) -> None:
        """It is over. Args: error: why it failed."""
        self._span.set_attributes(attributes)
        if error:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_ns(time.time() if at is None else at))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let `current_span` give this one."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


def current_span() -> Span | None:
    """The span of what is being done here; None: nobody wants spans."""
    return _CURRENT.get()


class Tracer:
    """Makes spans and sends them on a thread of its own. When the collector cannot be reached, spans are thrown away."""

    def __init__(self, endpoint: str, service: str, share: float = 1.0) -> None:
        """Args: endpoint: such as `http://collector:4318`; share: of traces that begin here and are kept; others follow their parent.

        Raises:
            TracingError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise TracingError(
                f"spans need OpenTelemetry ({error}): pip install 'proscale-segmentation-service[tracing]', or unset PROSCALE_OTLP_ENDPOINT"
            ) from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), sampler=ParentBased(TraceIdRatioBased(share)))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_BATCH_DELAY_MS))
        self._tracer = self._provider.get_tracer("proscale")

    def begin(self, name: str, kind: Kind, traceparent: str = "", at: float | None = None) -> Span:
        """A span that is no part of another one here. Args: traceparent: of its parent elsewhere; at: when it began, unset: now."""
        from opentelemetry.trace import get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = get_current_span(TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent})) if traceparent else None
        return _started(self._tracer, name, kind, parent, time.time() if at is None else at)

    def close(self) -> None:
        """Send what is left, for seconds at most."""
        self._provider.shutdown()


def make_tracer(endpoint: str | None, service: str, share: float = 1.0) -> Tracer | None:
    """A tracer where an endpoint is named. Errors: as `Tracer`."""
    return Tracer(endpoint, service, share) if endpoint else None


def _started(tracer: Any, name: str, kind: Kind, parent: Any, began: float) -> Span:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, set_span_in_context

    # A context of its own: what other libraries in the process have as current span is not ours.
    context = Context() if parent is None else set_span_in_context(parent, Context())
    return Span(tracer, tracer.start_span(name, context=context, kind=SpanKind[kind.upper()], start_time=_ns(began)), began)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
