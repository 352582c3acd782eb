"""Hostile and broken requests: each gets an error that says what is wrong, and nobody else notices."""

import json
import socket
import struct
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.contract.serving.wire import END_HEADERS, HEADERS, Http2

INFER = "/v2/models/mlp/infer"
LIMIT = 8 << 20  # the server's --max-request-bytes


def body(**changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} | changes
    return json.dumps(
        {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}
    ).encode()


@pytest.fixture(autouse=True)
def others_are_served(server):
    """Whatever a test does, the next caller gets an answer."""
    yield
    status, answer = server.request("POST", INFER, body())
    assert status == 200, answer
    assert server.process.poll() is None


def exchange(server, sent, half_close=False, timeout=20):
    """Send bytes as they are, and read until the server closes or nothing more is to come."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as connection:
        with suppress(OSError):  # it may have answered and closed before it has all
            connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        while b"\r\n\r\n" not in received or len(received) < _length(received):
            try:
                data = connection.recv(65536)
            except ConnectionResetError:
                break
            if not data:
                break
            received += data
        return received


def _length(response):
    head, _, _ = response.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(head) + 4 + int(line.partition(b":")[2])
    return len(head) + 4


def raw_request(content, *headers, path=INFER):
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


HUGE = 2**62
BAD_JSON = {
    "not JSON": (b"hello", "parse"),
    "empty": (b"", "parse"),
    "cut off": (body()[:-5], "parse"),
    "an array": (b"[]", "parse"),
    "no inputs": (b"{}", "inputs"),
    "empty inputs": (b'{"inputs": []}', "'x' is missing"),
    "inputs of numbers": (b'{"inputs": [1]}', "parse"),
    "not UTF-8": (b'{"inputs": [{"name": "\xff\xfe"}]}', "parse"),
    "a key twice": (b'{"inputs": [], "inputs": []}', "duplicate"),
    "nested deep": (b"[" * 101 + b"]" * 101, "deeper than 100"),
    "nested deeper than any stack": (b'{"x":' * 100_000, "deeper than 100"),
    "nested data": (body(data=json.loads("[" * 97 + "1" + "]" * 97)), "'x'"),
    "nested too deep in data": (body(data=json.loads("[" * 98 + "1" + "]" * 98)), "deeper than 100"),
    "NaN": (body().replace(b"[1, 2", b"[NaN, 2"), "parse"),
    "infinity": (body().replace(b"[1, 2", b"[1e999, 2"), "'x'"),
    "beyond FP32": (body().replace(b"[1, 2", b"[1e39, 2"), "'x'"),
    "a string for a number": (body(data=["1", 2, 3, 4]), "'x'"),
    "null data": (body(data=[None, 2, 3, 4]), "'x'"),
    "an object as data": (body(data={"a": 1}), "'x'"),
    "too few elements": (body(data=[1, 2, 3]), "'x'"),
    "too many elements": (body(data=[1, 2, 3, 4, 5]), "'x'"),
    "no data": (body(data=None), "'x' has no data"),
    "no shape": (body(shape=None), "shape"),
    "no name": (body(name=None), "name"),
    "a negative dimension": (body(shape=[-1, 4]), "'x' has shape"),
    "a zero dimension": (body(shape=[0, 4], data=[]), "'x' has shape"),
    "a fractional dimension": (body(shape=[1.5, 4]), "parse"),
    "a dimension beyond 64 bits": (body().replace(b"[1, 4]", b"[1%030d, 4]" % 0), "parse"),
    "dimensions that overflow": (body(shape=[HUGE, 4]), "'x'"),
    "more elements than data": (body(shape=[1 << 40, 4]), "'x'"),
    "a wrong rank": (body(shape=[4]), "'x' has shape"),
    "a wrong datatype": (body(datatype="INT64"), "'x' has datatype"),
    "no datatype at all": (body(datatype="FP8\n"), "'x' has datatype"),
    "an unknown input": (body(name="../../etc/passwd"), "unexpected inference input"),
    "binary data that is not there": (body(data=None, parameters={"binary_data_size": 16}), "'x'"),
    "a negative size": (body(data=None, parameters={"binary_data_size": -1}), "no size"),
    "a size beyond 64 bits": (body(data=None, parameters={"binary_data_size": 1e30}), "no size"),
    "half of shared memory": (
        body(data=None, parameters={"shared_memory_region": "r"}),
        "shared_memory_byte_size",
    ),
    "shared memory": (
        body(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16}),
        "shared memory",
    ),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(server, case):
    content, said = BAD_JSON[case]
    status, answer = server.request("POST", INFER, content)
    assert status == (501 if case == "shared memory" else 400), answer
    assert said in json.loads(answer)["error"]


def test_all_inputs_twice(server):
    twice = json.loads(body())
    twice["inputs"] *= 2
    status, answer = server.request("POST", INFER, json.dumps(twice).encode())
    assert (status, "twice" in json.loads(answer)["error"]) == (400, True)


@pytest.mark.parametrize("names", [["sum", "sum"], ["sum", "difference", "sum"]])
def test_an_output_twice(server, caller, names):
    tensors = [{"name": name, "datatype": "INT32", "shape": [1, 1], "data": [1]} for name in "ab"]
    asked = {"inputs": tensors, "outputs": [{"name": name} for name in names]}
    status, answer = server.request("POST", "/v2/models/sums/infer", json.dumps(asked).encode())
    assert (status, json.loads(answer)["error"]) == (400, "output 'sum' is requested twice")
    request = service_pb2.ModelInferRequest(model_name="sums")
    for name in "ab":
        request.inputs.add(name=name, datatype="INT32", shape=[1, 1]).contents.int_contents.append(1)
    for name in names:
        request.outputs.add(name=name)
    with pytest.raises(grpc.RpcError, match="output 'sum' is requested twice") as caught:
        caller.call("ModelInfer", request.SerializeToString())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ("-1", "must be one number"),
        ("1e3", "must be one number"),
        ("99999999999999999999999", "must be one number"),
        ("100000", "the body has only"),
        ("7", "parse"),
        ("0", "raw"),
    ],
)
def test_a_lying_json_length(server, length, said):
    headers = {"Inference-Header-Content-Length": length}
    status, answer = server.request("POST", INFER, body() + b"\0" * 3, headers)
    assert (status, said in json.loads(answer)["error"]) == (400, True), answer


@pytest.mark.parametrize("size", [0, 8, 15, 17, 32])
def test_too_little_and_too_much_binary_data(server, size):
    head = body(data=None, parameters={"binary_data_size": size})
    for sent in {size, 16}:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        status, answer = server.request("POST", INFER, head + b"\0" * sent, headers)
        assert status == 400
        assert "'x'" in json.loads(answer)["error"] or "beyond" in json.loads(answer)["error"]


def test_a_boolean_is_0_or_1(server):
    head = body(name="x", datatype="BOOL", data=None, parameters={"binary_data_size": 4})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, answer = server.request("POST", "/v2/models/identity_bool/infer", head + b"\0\1\2\0", headers)
    assert (status, "'x'" in json.loads(answer)["error"]) == (400, True)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        struct.pack("<I", 5) + b"abc",
        struct.pack("<I", 3) + b"abcd",
        struct.pack("<I", 2) + b"\xc3\x28",
        b"\1\0",
        b"",
    ],
)
def test_broken_strings(server, data):
    head = body(datatype="BYTES", shape=[1, 1], data=None, parameters={"binary_data_size": len(data)})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, answer = server.request("POST", "/v2/models/identity_bytes/infer", head + data, headers)
    assert (status, "'x'" in json.loads(answer)["error"]) == (400, True), answer


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_16_bit_floats_have_no_json(server, datatype):
    path = f"/v2/models/identity_{datatype.lower()}/infer"
    status, answer = server.request("POST", path, body(datatype=datatype))
    assert (status, "JSON cannot carry" in json.loads(answer)["error"]) == (400, True)


def test_nan_out_is_an_error_in_json_and_travels_as_binary(server):
    head = body(data=None, parameters={"binary_data_size": 16})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    data = np.full(4, np.nan, np.float32).tobytes()
    status, answer = server.request("POST", "/v2/models/identity_fp32/infer", head + data, headers)
    assert (status, "NaN" in json.loads(answer)["error"]) == (400, True)
    head = json.dumps(json.loads(head) | {"parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, answer = server.request("POST", "/v2/models/identity_fp32/infer", head + data, headers)
    assert (status, answer.endswith(data)) == (200, True)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../../etc/passwd/infer",
        "/v2/models/..%2f..%2fetc/infer",
        "/v2/models/%2e%2e/infer",
        "/v2/models/mlp%00/infer",
        "/v2/models/mlp/versions/..%2f1/infer",
        "/v2/models/mlp/versions/-1/infer",
        "/v2/models/mlp/versions/1x/infer",
        "/v2/models/mlp/versions/99999999999999999999999/infer",
        "/v2/models/mlp/versions/١/infer",
        "/v2/models//infer",
        "/v2/models/mlp/infer/",
        "/v2/models/mlp/%zz/infer",
        "/v2/models/%ff/infer",
    ],
)
def test_no_way_out_of_the_repository(server, path):
    answer = exchange(server, raw_request(body(), f"Content-Length: {len(body())}", path=path))
    status = 400 if "%zz" in path or "%ff" in path else 404
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer
    assert b'{"error":' in answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("DELETE", "/v2/models/mlp", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v2/models/mlp/configs", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/nothing/ready", 404),
        ("GET", "/v2/models/mlp/versions/7", 404),
        ("GET", "/v2/models/mlp/versions/x/ready", 404),
        ("POST", "/v2/repository/models/mlp/reload", 404),
    ],
)
def test_routes_that_are_not_there(server, method, path, status):
    answered, answer = server.request(method, path, b"{}" if method == "POST" else None)
    assert answered == status
    assert json.loads(answer)["error"]


def test_a_405_says_what_is_allowed(server):
    answer = exchange(server, f"GET {INFER} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b"allow: POST" in answer


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"{", b"\xff", b'{"ready": "no"}'])
def test_a_bad_index_request(server, content):
    status, answer = server.request("POST", "/v2/repository/index", content)
    assert (status, bool(json.loads(answer)["error"])) == (400, True)


@pytest.mark.parametrize(
    "content", [b'{"name": [1]}', b'{"trace_level": [{}]}', b'{"trace_rate": "' + b"9" * 5000 + b'"}']
)
def test_a_bad_trace_setting(server, content):
    status, answer = server.request("POST", "/v2/trace/setting", content)
    assert (status, bool(json.loads(answer)["error"])) == (400, True)


def test_a_version_is_a_number_however_it_is_written(server):
    _, answer = server.get("/v2/models/mlp/versions/01/stats")
    assert [model["version"] for model in json.loads(answer)["model_stats"]] == ["1"]


@pytest.mark.parametrize("content", [b'{"version": [1]}', b'{"name": {}, "version": 1}', b"{", b"\xff"])
@pytest.mark.parametrize("path", ["/v2/models/mlp", "/v2/models/mlp/stats", "/v2/models/stats", "/v2"])
def test_the_body_of_a_get_means_nothing(server, path, content):
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    answer = exchange(server, head.encode() + content)
    assert answer.startswith(b"HTTP/1.1 200"), answer


def test_the_metrics_port_has_metrics_only(server):
    with socket.create_connection(("127.0.0.1", int(server.metrics.rpartition(":")[2])), 20) as connection:
        connection.sendall(b"GET /v2/models/mlp HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server):
    answer = exchange(server, raw_request(b"", f"Content-Length: {LIMIT + 1}"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert str(LIMIT).encode() in answer


def test_an_announced_size_is_not_memory(server):
    """Many callers that announce a lot and send nothing."""
    connections = []
    for _ in range(200):
        connection = socket.create_connection(("127.0.0.1", server.port), 20)
        connection.sendall(raw_request(b"x", f"Content-Length: {LIMIT}"))
        connections.append(connection)
    status, _ = server.request("POST", INFER, body())
    assert status == 200
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    assert pages * 4096 < 800 << 20
    for connection in connections:
        connection.close()


def test_a_chunked_body_over_the_limit(server):
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    whole = chunk * (LIMIT // 0x100000)
    answer = exchange(server, raw_request(whole + b"1\r\n ", "Transfer-Encoding: chunked"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert str(LIMIT).encode() in answer


def test_a_chunked_body_is_read(server):
    content = body()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"
    answer = exchange(server, raw_request(chunks, "Transfer-Encoding: chunked"))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (raw_request(body(), "Content-Length: -5"), 400),
        (raw_request(body(), "Content-Length: 5, 6"), 400),
        (raw_request(body(), "Content-Length: 10", "Content-Length: 20"), 400),
        (raw_request(b"zz\r\n", "Transfer-Encoding: chunked"), 400),
        (raw_request(b"", *(f"X-{index}: {'y' * 1000}" for index in range(90))), 431),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"\0\1\2\3\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (raw_request(body()[:10], f"Content-Length: {len(body())}"), 400),  # and hangs up
    ],
)
def test_broken_http(server, sent, status):
    answer = exchange(server, sent, half_close=True)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer


class Caller:
    """Raw gRPC: any bytes to any method."""

    def __init__(self, server):
        self.channel = grpc.insecure_channel(server.grpc)

    def call(self, method, message, **options):
        path = f"/inference.GRPCInferenceService/{method}" if "/" not in method else method
        return self.channel.unary_unary(path)(message, timeout=20, **options)


@pytest.fixture
def caller(server):
    caller = Caller(server)
    yield caller
    caller.channel.close()


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("ModelInfer", b"", grpc.StatusCode.NOT_FOUND),
        ("ModelInfer", b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelInfer", b"\x0a\x05mlp", grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelInfer", b"\x0a\x03mlp", grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelInfer", b"\x0a\x03\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelInfer", bytes(LIMIT + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("ModelReady", b"\x0a\x03mlp\x12\x01x", grpc.StatusCode.NOT_FOUND),
        ("ModelMetadata", b"\x0a\x04nope", grpc.StatusCode.NOT_FOUND),
        ("SystemSharedMemoryRegister", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/no.Such/Service", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/grpc.health.v1.Health/Check", b"\x0a\x01x", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_bad_calls(caller, method, message, code):
    with pytest.raises(grpc.RpcError) as caught:
        caller.call(method, message)
    assert caught.value.code() == code
    assert caught.value.details()


def test_grpc_health(caller):
    assert caller.call("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
    assert (
        caller.call("/grpc.health.v1.Health/Check", b"\x0a\x1einference.GRPCInferenceService") == b"\x08\x01"
    )


@pytest.mark.parametrize(
    "junk", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100]
)
def test_junk_on_the_grpc_port(server, junk):
    with socket.create_connection(("127.0.0.1", int(server.grpc.rpartition(":")[2])), 20) as connection:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def test_a_grpc_call_without_a_path(server):
    """CONNECT has none."""
    headers = b"".join(
        name + bytes([len(value)]) + value
        for name, value in ((b"\x02", b"CONNECT"), (b"\x01", b"x"), (b"\x0f\x10", b"application/grpc"))
    )
    with Http2(server.grpc) as connection:
        connection.send(HEADERS, END_HEADERS, 1, headers)
        first = next(frame for frame in connection.frames() if frame.stream == 1)
        assert first.kind == HEADERS, "a reset and not an answer"
    assert "panicked" not in server.log
