"""HTTP/2 and gRPC by hand, for what no client library sends."""

import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Self

import numpy as np
from tritonclient.grpc import service_pb2

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


class Frame(NamedTuple):
    """A frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame to be sent."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header as HPACK writes it without any table."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def message(content: bytes) -> bytes:
    """A gRPC message."""
    return struct.pack(">BI", 0, len(content)) + content


def field(number: int, payload: bytes) -> bytes:
    """A field of a protobuf message."""
    length, size = len(payload), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload


def infer(model: str, values: np.ndarray, datatype: str = "FP32") -> bytes:
    """A serialized `ModelInferRequest` with one raw input."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype=datatype, shape=values.shape)
    request.raw_input_contents.append(values.tobytes())
    return request.SerializeToString()


class Http2:
    """A connection. `window` is what the server may send on each stream before it is told to go on."""

    def __init__(self, address: str, window: int | None = None, buffer: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(60)
        self.socket.connect((host, int(port)))
        self.received = self.socket.makefile("rb")
        self.kept: list[Frame] = []
        # What it allows anyway; what it allows beyond that, it says in its settings, which are passed over.
        self.allowed: defaultdict[int, int] = defaultdict(lambda: 65535)
        settings = b"" if window is None else struct.pack(">HI", 4, window)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.received.close()
        self.socket.close()

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.socket.sendall(frame(kind, flags, stream, payload))

    def open(self, stream: int, path: str, flags: int = END_HEADERS, **headers: str) -> None:
        """Begin a call."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            "content-type": "application/grpc",
            "te": "trailers",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        self.send(HEADERS, flags, stream, b"".join(literal(*field) for field in fields.items()))

    def call(self, stream: int, path: str, content: bytes = b"") -> None:
        """A whole call."""
        self.open(stream, path)
        self.body(stream, message(content))

    def body(self, stream: int, content: bytes, end: bool = True) -> None:
        """Send as much as the server allows, as it comes to allow it."""
        for start in range(0, len(content), 16384):
            part = content[start : start + 16384]
            while len(part) > min(self.allowed[0], self.allowed[stream]):
                self.kept.append(self._next())
            self.allowed[0] -= len(part)
            self.allowed[stream] -= len(part)
            last = end and start + 16384 >= len(content)
            self.send(DATA, END_STREAM if last else 0, stream, part)

    def _next(self) -> Frame:
        """Read a frame; pings are answered."""
        head = self.received.read(9)
        if len(head) < 9:
            raise ConnectionError("the server has closed the connection")
        length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + head)
        payload = self.received.read(length)
        if kind == WINDOW_UPDATE:
            self.allowed[stream] += int.from_bytes(payload)
        elif kind == PING and not flags:
            self.send(PING, 1, 0, payload)
        return Frame(kind, flags, stream, payload)

    def frames(self) -> Iterator[Frame]:
        """What comes, until the server closes."""
        with suppress(ConnectionError):
            while True:
                yield self.kept.pop(0) if self.kept else self._next()

    def end(self, stream: int) -> Frame:
        """The frame that ends a call: of its headers, or a reset."""
        for got in self.frames():
            if got.stream == stream and (got.kind == RST_STREAM or got.flags & END_STREAM):
                return got
        raise AssertionError("the server has closed the connection")
