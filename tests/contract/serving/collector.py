"""An OTLP collector for the tests: it takes what is exported, reads it with OpenTelemetry's own messages."""

import gzip
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Listens from its creation on."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], ExportTraceServiceRequest]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        """Of the next requests; then 200."""
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, more = collector.take(self.path, headers, body)
                self.send_response(status)
                for name, value in (more | {"Content-Length": "0"}).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        with self._news:
            self.requests.append((path, headers, ExportTraceServiceRequest.FromString(body)))
            self._news.notify_all()
            return self.answers.pop(0) if self.answers else (200, {})

    def until(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        with self._news:
            assert self._news.wait_for(condition, timeout), self.requests

    def spans(self) -> list[Span]:
        """All that came."""
        return [
            span
            for _, _, request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait(self, count: int) -> list[Span]:
        """At least so many."""
        self.until(lambda: len(self.spans()) >= count)
        return self.spans()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """Attributes as a dictionary."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in attributes}
