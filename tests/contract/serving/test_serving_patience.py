"""Clients that keep the server waiting are given up, those that are merely quiet are not, and there is room
for so many connections only."""

import resource
import socket
import time
from contextlib import ExitStack, suppress

import grpc
import numpy as np
import pytest

from tests.contract.serving.conftest import Serving
from tests.contract.serving.wire import (
    DATA,
    END_STREAM,
    HEADERS,
    INFER,
    LIVE,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    STREAM,
    WINDOW_UPDATE,
    Http2,
    frame,
    infer,
    message,
)

BIG = np.ones((1, 262144), np.float32)


@pytest.fixture(scope="module")
def hasty(repository):
    """A server that waits for one second."""
    serving = Serving(repository.path, "--client-timeout", "1", "--max-request-bytes", str(16 << 20))
    try:
        yield serving.ready()
    finally:
        serving.close()


def connections(serving, door):
    return serving.scrape()[f'capstan_serving_connections{{door="{door}"}}']


def refused(serving, door):
    return serving.scrape()[f'capstan_serving_connections_refused_total{{door="{door}"}}']


def connect(serving, port=None):
    return socket.create_connection(("127.0.0.1", port or serving.port), 60)


def everything(connection):
    """What comes until the server closes."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def raw(method, path, *headers, content=b""):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode() + content


LIVELY = raw("GET", "/v2/health/live")


@pytest.mark.parametrize(
    "sent", [b"", b"P", LIVELY[:-2], LIVELY + b"GET"], ids=["nothing", "a letter", "half", "two"]
)
def test_a_half_sent_head_is_given_up(hasty, sent):
    with connect(hasty) as connection:
        connection.sendall(sent)
        received = everything(connection)
        assert received.count(b"HTTP/1.1 408") == (1 if sent else 0)
        assert received.count(b"HTTP/1.1 200") == (1 if sent.startswith(LIVELY) else 0)


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_slow_body_over_http_is_given_up(hasty, framing):
    """A byte now and then is not enough."""
    with connect(hasty) as connection:
        connection.sendall(raw("POST", "/v2/models/mlp/infer", framing))
        connection.settimeout(0.1)
        received = b""
        for _ in range(200):
            with suppress(OSError):
                connection.sendall(b" " if framing.endswith("1000") else b"1\r\n \r\n")
            with suppress(TimeoutError):
                received = connection.recv(65536)
                break
        assert received.startswith(b"HTTP/1.1 408"), received


def test_who_is_quiet_between_requests_is_kept(hasty):
    with connect(hasty) as http, Http2(hasty.grpc) as http2:
        for stream in (1, 3):
            http.sendall(LIVELY)
            assert http.recv(65536).startswith(b"HTTP/1.1 200")
            http2.call(stream, LIVE)
            assert http2.end(stream).kind == HEADERS
            time.sleep(3)  # three times what a client may take when it owes something


HALVES = {
    "nothing": b"",
    "half of the preface": PREFACE[:10],
    "half of a frame's head": PREFACE + frame(SETTINGS, 0, 0, b"") + b"\0\0",
    "half of a frame": PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 4, 1, bytes(100))[:50],
    "half of the headers": PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 0, 1, b""),
}


@pytest.mark.parametrize("half", HALVES)
def test_a_half_sent_frame_is_given_up(hasty, half):
    with connect(hasty, int(hasty.grpc.rpartition(":")[2])) as connection:
        connection.sendall(HALVES[half])
        everything(connection)  # it ends


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_a_slow_body_over_grpc_is_given_up(hasty, path):
    """Whole frames, each with a byte of a message."""
    content = message(infer("mlp", np.ones((100, 4), np.float32)))
    with Http2(hasty.grpc) as connection:
        connection.open(1, path)
        connection.socket.settimeout(0.1)
        answered = []
        for byte in content[:200]:
            connection.send(DATA, 0, 1, bytes([byte]))
            with suppress(TimeoutError):
                answered += [got for got in read(connection) if got.stream == 1]
            if any(got.kind == RST_STREAM or got.flags & END_STREAM for got in answered):
                break
        else:
            pytest.fail("it is still waited for")
        connection.socket.settimeout(60)
        connection.call(3, LIVE)
        assert connection.end(3).kind == HEADERS, "the others went with it"


def read(connection):
    """The frames that are there, through an unbuffered socket with a timeout."""
    received = connection.socket.recv(65536)
    while received:
        length, kind, flags = int.from_bytes(received[:3]), received[3], received[4]
        stream = int.from_bytes(received[5:9])
        yield type("Frame", (), {"kind": kind, "flags": flags, "stream": stream})
        received = received[9 + length :]


def test_who_takes_nothing_over_http_is_given_up(hasty):
    body = np.ones((12, 262144), np.float32).tobytes()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        head = raw(
            "POST",
            "/v2/models/big/infer",
            f"Content-Length: {len(body)}",
            "Inference-Header-Content-Length: 0",
        )
        connection.sendall(head + body)
        hasty.until(lambda: connections(hasty, "http") == 1)
        hasty.until(lambda: connections(hasty, "http") == 0)
        assert len(everything(connection)) < len(body)


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_a_call_that_nobody_reads_is_reset_alone(hasty, path):
    with Http2(hasty.grpc, window=0) as connection:
        connection.call(1, path, infer("big", BIG))
        end = connection.end(1)
        assert end.kind == RST_STREAM
        connection.call(3, "/grpc.health.v1.Health/Check", b"\x0a\x01x")  # its answer has no body
        assert connection.end(3).kind == HEADERS


def test_who_reads_slowly_but_does_is_served(hasty):
    with Http2(hasty.grpc, window=0) as connection:
        connection.call(1, INFER, infer("big", BIG))
        received, allowed = 0, 0
        for got in connection.frames():
            if got.stream == 1 and got.kind == DATA:
                received += len(got.payload)
            if got.flags & END_STREAM and got.stream == 1:
                break
            if received == allowed:
                time.sleep(0.3)
                connection.send(WINDOW_UPDATE, 0, 0, (1 << 17).to_bytes(4))
                connection.send(WINDOW_UPDATE, 0, 1, (1 << 17).to_bytes(4))
                allowed += 1 << 17
        assert got.kind == HEADERS
        assert received > BIG.nbytes


def test_who_takes_nothing_of_a_grpc_connection_is_given_up(hasty):
    """The window is open, but nobody reads the socket."""
    with Http2(hasty.grpc, window=2**31 - 1, buffer=4096) as connection:
        connection.send(WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4))
        connection.call(1, INFER, infer("big", np.ones((12, 262144), np.float32)))
        hasty.until(lambda: connections(hasty, "grpc") == 0)


def test_a_shells_limit_of_open_files_is_not_the_servers(repository, start):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        serving = start(repository)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    serving.ready()
    with ExitStack() as stack:
        held = [stack.enter_context(connect(serving)) for _ in range(300)]
        for connection in held:
            connection.sendall(LIVELY)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_limit_are_told_so(repository, start):
    crowded = start(repository, "--max-connections", "8").ready()
    with ExitStack() as stack:
        held = [stack.enter_context(connect(crowded)) for _ in range(8)]
        held[0].sendall(LIVELY)
        assert held[0].recv(65536).startswith(b"HTTP/1.1 200")
        crowded.until(lambda: connections(crowded, "http") == 8)

        status, answer = crowded.request("POST", "/v2/models/mlp/infer", bytes(100_000))
        assert (status, b"as many connections as it may, 8" in answer) == (503, True)
        assert crowded.get("/v2/health/live")[0] == crowded.get("/v2/health/ready")[0] == 200
        with grpc.insecure_channel(crowded.grpc) as channel:
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(LIVE)(b"", timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "as many connections as it may, 8" in caught.value.details()
        assert refused(crowded, "http") == 3
        assert refused(crowded, "grpc") >= 1

        for _ in range(200):  # a flood; most are closed at once
            stack.enter_context(connect(crowded))
        crowded.until(
            lambda: crowded.scrape()['capstan_serving_connections_refused_total{door="http"}'] == 203
        )
        held[0].sendall(LIVELY)
        assert held[0].recv(65536).startswith(b"HTTP/1.1 200"), "those who were there suffer"
    crowded.until(lambda: crowded.get("/v2/models/mlp")[0] == 200)
