"""Traces by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector. Off, nothing of it is imported.

Spans are recorded when they are over, with the times that were measured anyway. What they belong to travels as W3C trace
context: from the `traceparent` header of an HTTP request, and in an annotation from the object to its start.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""OpenTelemetry's own variable, as are the others that its exporter reads (headers, certificate, timeout)."""
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/, version 00."""

request_context: ContextVar[str] = ContextVar("request_context", default="")
"""`traceparent` of the HTTP request that is served; empty: it has none."""

Times = tuple[datetime, datetime]
_export: Callable[..., None] | None = None


class TracesMissing(Exception):
    """Traces are asked for and their package is not installed; the text says what to do."""


def switch_on() -> Callable[[], None]:
    """Send traces, if a collector is set. Gives what sends the last of them at the end. Raises TracesMissing."""
    global _export
    if not os.environ.get(ENDPOINT):
        return lambda: None
    try:
        from controller.otlp import Exporter
    except ImportError as error:
        raise TracesMissing(
            f"{ENDPOINT} is set and {error.name} is missing: pip install 'sandbox-controller[traces]'"
        ) from None
    exporter = Exporter()
    _export = exporter.export
    return exporter.close


def record(
    name: str, times: Times, parent: str, attributes: Mapping[str, str], stages: Sequence[tuple[str, Times]] = ()
) -> None:
    """One span that is over, with its stages as children. `parent` is a traceparent or empty: then it begins a trace."""
    if _export is not None:
        _export(name, times, parent if TRACEPARENT.fullmatch(parent) else "", attributes, stages)


class RequestContext:
    """Middleware: remembers the trace context of each request while it is served."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given: Any = Headers(scope=scope).get("traceparent", "")
            request_context.set(given if TRACEPARENT.fullmatch(given) else "")
        await self._app(scope, receive, send)
