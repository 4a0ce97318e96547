"""Traces, as a collector gets them."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from controller.tracing import TRACEPARENT
from tests.system.cluster import Cluster, python, until
from tests.system.conftest import Started
from tests.system.controller_process import ControllerProcess

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = f"00-{TRACE}-{PARENT}-01"


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def named(self, name: str, **attributes: str) -> list[Span]:
        return [
            span
            for span in self.spans
            if span.name == name
            and attributes.items()
            <= {each.key.replace(".", "_"): each.value.string_value for each in span.attributes}.items()
        ]

    def below(self, span: Span) -> list[str]:
        return [each.name for each in self.spans if each.parent_span_id == span.span_id]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        sent = ExportTraceServiceRequest.FromString(body)
        self.server.spans += [
            span for each in sent.resource_spans for scope in each.scope_spans for span in scope.spans
        ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def controller(
    embedded: Cluster, sandbox_image: str, start_controller: Started, collector: Collector
) -> ControllerProcess:
    assert sandbox_image
    return start_controller(embedded, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="100")


def test_a_request_has_the_start_and_the_execution_in_its_trace(
    embedded: Cluster, controller: ControllerProcess, collector: Collector
) -> None:
    with httpx.Client(base_url=controller.api, headers={"traceparent": CONTEXT}, timeout=60) as api:
        made = (
            api.post("/sandbox/create", json={"name": "traced", "namespace": embedded.namespace})
            .raise_for_status()
            .json()
        )
        api.post(f"/sandbox/{made['id']}/execute", json={"code": "print(1)"}).raise_for_status()
    (start,) = until("the start was sent", lambda: collector.named("sandbox start", sandbox_uid=made["id"]))
    (execute,) = until("the execution was sent", lambda: collector.named("sandbox execute", sandbox_uid=made["id"]))
    for span in (start, execute):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.start_time_unix_nano < span.end_time_unix_nano
    assert until("its stages too", lambda: collector.below(start)) == ["claimed", "started", "total"]
    assert collector.below(execute) == ["first byte"]


def test_an_applied_object_begins_a_trace_unless_it_carries_one(
    embedded: Cluster, controller: ControllerProcess, collector: Collector
) -> None:
    alone = embedded.create(python("print(1)"))
    carrying = embedded.create(python("print(1)"), annotations={"agent-platform.dev/traceparent": CONTEXT})
    forged = embedded.create(python("print(1)"), annotations={"agent-platform.dev/traceparent": "00-x"})
    spans = {}
    for sandbox in (alone, carrying, forged):
        (spans[sandbox.uid],) = until("sent", lambda uid=sandbox.uid: collector.named("sandbox start", sandbox_uid=uid))
    assert spans[carrying.uid].trace_id.hex() == TRACE
    assert spans[alone.uid].parent_span_id == spans[forged.uid].parent_span_id == b""


@pytest.mark.parametrize(
    "wrong", ["", "00", CONTEXT.upper(), CONTEXT + "-x", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"]
)
def test_only_w3c_trace_contexts_are_taken(wrong: str) -> None:
    assert not TRACEPARENT.fullmatch(wrong)


def test_off_costs_nothing() -> None:
    look = "import sys, controller.__main__; print([m for m in ('opentelemetry.sdk', 'controller.otlp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
