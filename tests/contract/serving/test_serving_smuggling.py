"""Where a request ends is what both this server and whatever stands before it have to agree on: what leaves a
doubt is refused, and nothing behind it is taken for a request."""

import socket
from contextlib import suppress

import pytest

HIDDEN = b"GET /v2/models/mlp HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
START = "POST /v2/repository/index HTTP/1.1\r\nHost: x\r\n"
CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"

DOUBTFUL = {
    "a length and chunks": (START + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"),
    "chunks and a length": (START + "Transfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n", CHUNKS),
    "two lengths": (START + "Content-Length: 2\r\nContent-Length: 43\r\n\r\n", b"{}"),
    "one length twice": (START + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n", b"{}"),
    "a list of lengths": (START + "Content-Length: 2, 2\r\n\r\n", b"{}"),
    "a length with a sign": (START + "Content-Length: +2\r\n\r\n", b"{}"),
    "a space before the colon": (START + "Content-Length : 2\r\n\r\n", b"{}"),
    "a folded length": (START + "X: y\r\n Content-Length: 2\r\n\r\n", b"{}"),
    "a folded coding": (START + "Transfer-Encoding:\r\n chunked\r\n\r\n", CHUNKS),
    "an unknown coding": (START + "Transfer-Encoding: xchunked\r\n\r\n", CHUNKS),
    "two codings": (START + "Transfer-Encoding: gzip, chunked\r\n\r\n", CHUNKS),
    "a coding twice": (START + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKS),
    "a line feed in a header": (START + "X: y\nContent-Length: 2\r\n\r\n", b"{}"),
    "line feeds alone": (START.replace("\r", "") + "Content-Length: 2\n\n", b"{}"),
    "a carriage return in a header": (START + "X: y\rContent-Length: 2\r\n\r\n", b"{}"),
    "a zero byte in a header": (START + "X: y\0\r\nContent-Length: 2\r\n\r\n", b"{}"),
    "two hosts": (START + "Host: y\r\nContent-Length: 2\r\n\r\n", b"{}"),
    "chunks in HTTP/1.0": (START.replace("1.1", "1.0") + "Transfer-Encoding: chunked\r\n\r\n", CHUNKS),
}

CHUNKED = START + "Transfer-Encoding: chunked\r\n\r\n"
BAD_CHUNKS = {
    "a size with 0x": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a size with a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "a size with spaces": b"2 \r\n{}\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a line feed after the size": b"2\n{}\r\n0\r\n\r\n",
    "a line feed in an extension": b"2;a\n{}\r\n0\r\n\r\n",
    "data that are too long": b"2\r\n{} \r\n0\r\n\r\n",
    "data that are too short": b"3\r\n{}\r\n0\r\n\r\n",
    "a line feed at the end": b"2\r\n{}\r\n0\r\n\n",
    "a line feed after a trailer": b"2\r\n{}\r\n0\r\nX: y\n\r\n",
    "endless extensions": b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n",
    "endless trailers": b"2\r\n{}\r\n0\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
}


def exchange(server, sent):
    """What comes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        received = b""
        with suppress(ConnectionError):
            connection.sendall(sent)
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
        return received


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_request_without_a_clear_end(server, case):
    head, body = DOUBTFUL[case]
    received = exchange(server, head.encode() + body + HIDDEN)
    assert received.startswith(b"HTTP/1.1 400"), received
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("case", BAD_CHUNKS)
def test_chunks_without_a_clear_end(server, case):
    received = exchange(server, CHUNKED.encode() + BAD_CHUNKS[case] + HIDDEN)
    assert received.startswith(b"HTTP/1.1 400"), received
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "body",
    [CHUNKS, b"1;a=b\r\n{\r\n1\r\n}\r\n0;c\r\n\r\n", b"2\r\n{}\r\n0\r\nContent-Length: 43\r\n\r\n"],
    ids=["plain", "extensions", "a trailer that lies"],
)
def test_two_requests_are_two(server, body):
    received = exchange(server, CHUNKED.encode() + body + HIDDEN)
    assert received.count(b"HTTP/1.1 200") == received.count(b"HTTP/1.1 ") == 2, received
