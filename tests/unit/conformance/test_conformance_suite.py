"""The conformance suite must be able to fail: here it meets a server that says yes to everything."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "system_shared_memory",
    "trace",
]

#: What such a server does right: it is live, and whatever it is asked to do it does not refuse.
RIGHT = {
    "test_grpc_health_of_the_inference_service",
    "test_grpc_health_of_the_server",
    "test_server_metadata",
    "test_server_is_live_and_ready",
    "test_model_is_ready",
    "test_readiness_over_http_has_no_body",
    "test_unregistering_what_is_not_there_is_no_error",
    "test_a_stream_of_nothing_ends",
}


class Yes(BaseHTTPRequestHandler):
    """200 to every request, with an answer that has the right form at most."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"{}"
        if self.path == "/v2":
            body = json.dumps({"name": "yes", "version": "1", "extensions": EXTENSIONS}).encode()
        elif self.path.endswith(("/live", "/ready")):
            body = b""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Empty(grpc.GenericRpcHandler):
    """An empty message, which is a valid answer of every call; readiness alone is true."""

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        if call.method.endswith("StreamInfer"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: (b"" for _ in requests))
        true = call.method.endswith(("Ready", "Live", "Check"))
        return grpc.unary_unary_rpc_method_handler(lambda *_: b"\x08\x01" if true else b"")


@pytest.fixture
def yes() -> Iterator[tuple[str, str]]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Yes)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Empty()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{http.server_port}", f"127.0.0.1:{port}"
    server.stop(None)
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.slow
def test_a_server_that_says_yes_to_everything_passes_almost_nothing(yes):
    url, address = yes
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            "-k",
            "not aio",
            "tests/conformance",
        ],
        env=os.environ | {"CONFORMANCE_URL": url, "CONFORMANCE_GRPC": address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout
    passed = set(re.findall(r"::(test_\w+)\S* PASSED", run.stdout))
    assert passed == RIGHT, f"{sorted(passed - RIGHT)} {sorted(RIGHT - passed)}"
