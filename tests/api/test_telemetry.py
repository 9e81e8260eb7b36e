"""Traces to an OpenTelemetry collector, here one that keeps what it gets."""

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from elbod_store import ModelStore
from tests.support import Server

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.spans: list[Span] = []
        super().__init__(("127.0.0.1", 0), _Receive)

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]


class _Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(self.path, gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_requests_are_spans_of_their_callers_trace(
    served_store: ModelStore, start_server: Callable[..., Server], collector: Collector
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    server = start_server(served_store.objects.url, "--model", "levels", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    assert httpx.post(f"{server.url}/sample", json={}, headers=headers).status_code == 200
    assert httpx.post(f"{server.url}/elbo", json={"x": "no rows"}, headers=headers).status_code == 422
    # What is left to send is sent on the way out.
    assert server.stop() == 0
    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    status = [value.value.int_value for span in ours for value in span.attributes if value.key.endswith("status_code")]
    assert [span.name for span in ours] == ["POST /sample", "POST /elbo"]
    assert status == [200, 422]
