"""The only home of OpenTelemetry; imported only where traces are switched on."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from controller.tracing import Times


class Exporter:
    """Sends spans in the background; a collector that does not answer delays nothing, and what it misses is lost."""

    def __init__(self) -> None:
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "sandbox-controller"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("controller")

    def export(
        self, name: str, times: Times, parent: str, attributes: Mapping[str, str], stages: Sequence[tuple[str, Times]]
    ) -> None:
        """See `controller.tracing.record`."""
        context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else Context()
        began, ended = times
        span = self._tracer.start_span(name, context, attributes=dict(attributes), start_time=_nanoseconds(began))
        inside = trace.set_span_in_context(span)
        for stage, (stage_began, stage_ended) in stages:
            self._tracer.start_span(stage, inside, start_time=_nanoseconds(stage_began)).end(_nanoseconds(stage_ended))
        span.end(_nanoseconds(ended))

    def close(self) -> None:
        """Send what waits, within OpenTelemetry's own deadline."""
        self._provider.shutdown()


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
