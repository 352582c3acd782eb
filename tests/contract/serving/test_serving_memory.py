"""The budget of bytes in flight holds for what requests become, not only for what arrives."""

import gzip
import json
import socket
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.contract.serving.conftest import Serving
from tests.contract.serving.wire import field

MIB = 1 << 20
BUDGET = 16 * MIB
FULL = "hold as much as they may"


@pytest.fixture(scope="module")
def small(repository):
    """A server that has room for two of the largest requests."""
    limits = ("--max-request-bytes", str(8 * MIB), "--max-inflight-bytes", str(BUDGET))
    serving = Serving(repository.path, *limits, "--allow-shared-memory")
    try:
        yield serving.ready()
    finally:
        serving.close()


def text(datatype, element, count, **others):
    tensor = f'"name":"x","datatype":"{datatype}","shape":[1,{count}],"data":[{",".join([element] * count)}]'
    return (json.dumps(others)[:-1] + (", " if others else "") + f'"inputs":[{{{tensor}}}]}}').encode()


def packed(number, count):
    """`count` zeros in a field of `TensorContents`, a byte each."""
    contents = field(number, bytes(count))
    return field(1, b"identity_int64") + field(5, field(1, b"x") + field(2, b"INT64") + field(5, contents))


SHAPES = ",".join(["1"] * 4_000_000)
LISTS = ",".join(["[]"] * 1_000_000)
NAMES = ",".join(f'"{number}":0' for number in range(500_000))
HTTP = {
    "numbers of two bytes that become eight": ("identity_fp64/infer", text("FP64", "0", 2_500_000), {}, 503),
    "strings of three bytes that become five": (
        "identity_bytes/infer",
        text("BYTES", '""', 2_500_000),
        {},
        503,
    ),
    "a list for a parameter": (
        "mlp/infer",
        f'{{"parameters":{{"a":[{LISTS}]}},"inputs":[]}}'.encode(),
        {},
        400,
    ),
    "many parameters": ("mlp/infer", f'{{"parameters":{{{NAMES}}},"inputs":[]}}'.encode(), {}, 400),
    "a shape of many dimensions": (
        "mlp/infer",
        f'{{"inputs":[{{"name":"x","shape":[{SHAPES}]}}]}}'.encode(),
        {},
        400,
    ),
    "many members to generate from": ("mlp/generate", f"{{{NAMES}}}".encode(), {}, 400),
    "a list to generate from": ("mlp/generate", f'{{"x":[1],"a":[{LISTS}]}}'.encode(), {}, 400),
    "a bomb of JSON in gzip": (
        "identity_fp64/infer",
        gzip.compress(text("FP64", "0", 2_500_000)),
        {"Content-Encoding": "gzip"},
        503,
    ),
    "lists for the control side": ("../repository/index", f"[{LISTS}]".encode(), {}, 400),
}
FULL_ANSWER = (grpc.StatusCode.UNAVAILABLE, FULL)
GRPC = {
    "numbers of a byte that become eight": (packed(3, 4_000_000), *FULL_ANSWER),
    "empty strings": (
        field(1, b"identity_bytes") + field(5, field(5, field(8, b"") * 2_000_000)),
        *FULL_ANSWER,
    ),
    "a shape whose numbers are written back": (
        field(1, b"mlp") + field(5, field(1, b"x") + field(2, b"FP32") + field(3, bytes([127]) * 1_000_000)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "at most 64 dimensions",
    ),
    "a name that is written back": (
        field(1, b"mlp") + field(5, field(1, b"\x01" * 7_000_000)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected inference input",
    ),
}


def peak(serving, act):
    """What happened, and how many bytes were resident at most, above those that were before."""
    process = Path(f"/proc/{serving.process.pid}")
    (process / "clear_refs").write_text("5")
    before = serving.memory()
    done = act()
    lines = (process / "status").read_text().splitlines()
    most = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return done, most - before


@pytest.mark.parametrize("case", HTTP)
def test_a_bomb_over_http(small, case):
    path, body, headers, status = HTTP[case]
    path = "/v2/repository/index" if path.startswith("..") else f"/v2/models/{path}"
    (answered, answer), most = peak(small, lambda: small.request("POST", path, body, headers))
    assert (answered, status == 400 or FULL in answer.decode()) == (status, True), answer[:200]
    assert (
        most < BUDGET + 12 * MIB
    )  # what is not counted: parsed text of what is refused, the allocator's rest


@pytest.mark.parametrize("case", GRPC)
def test_a_bomb_over_grpc(small, case):
    request, code, why = GRPC[case]

    def act():
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(small.grpc, options=options) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=60)
        return caught.value

    error, most = peak(small, act)
    assert (error.code(), why in error.details()) == (code, True), error.details()
    assert most < BUDGET + 12 * MIB


class Held:
    """Requests whose last byte does not come: so much is taken."""

    def __init__(self, serving, *sizes):
        self.serving = serving
        self.sizes = sizes
        self.stack = ExitStack()

    def __enter__(self):
        for size in self.sizes:
            connection = self.stack.enter_context(socket.create_connection(("127.0.0.1", self.serving.port)))
            head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {size + 1}\r\n\r\n"
            connection.sendall(head.encode() + bytes(size))
        # They are there when no more of that size is taken.
        self.serving.until(
            lambda: self.serving.request("POST", "/v2/models/mlp/infer", bytes(4 * MIB))[0] == 503
        )

    def __exit__(self, *_):
        self.stack.close()
        self.serving.until(
            lambda: self.serving.request("POST", "/v2/models/mlp/infer", bytes(7 * MIB))[0] == 400
        )


RAW = {"Inference-Header-Content-Length": "0"}


def test_what_is_decompressed_needs_room(small):
    body = gzip.compress(bytes(4 * MIB))
    infer = ("POST", "/v2/models/big/infer", body, RAW | {"Content-Encoding": "gzip"})
    with Held(small, 7 * MIB, 6 * MIB):
        assert small.request(*infer)[0] == 503
    assert small.request(*infer)[0] == 200


def chunked(serving, body):
    with socket.create_connection(("127.0.0.1", serving.port), 60) as connection:
        head = "POST /v2/models/big/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(
            head.encode() + b"Inference-Header-Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for start in range(0, len(body), 65536):
            part = body[start : start + 65536]
            try:
                connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            except OSError:
                break
        else:
            connection.sendall(b"0\r\n\r\n")
        return int(connection.recv(65536).split()[1])


def test_a_buffer_that_grows_needs_room(small):
    """There is room for three megabytes, and it has little more than two; but its buffer has four by then."""
    body = bytes(2 * MIB + MIB // 4)
    with Held(small, 7 * MIB, 6 * MIB):
        assert chunked(small, body) == 503
    assert chunked(small, bytes(2 * MIB)) == 200


def test_a_stream_without_room_to_read_on_is_answered_what_it_has_asked(small):
    request = service_pb2.ModelInferRequest(model_name="spin")
    request.inputs.add(name="n", datatype="INT64", shape=[1])
    request.raw_input_contents.append(np.array([200], np.int64).tobytes())
    answers = []
    with Held(small, 7 * MIB + MIB // 2, 7 * MIB + MIB // 2 + MIB // 4):
        # Less is free than what a client may send ahead.
        small.until(lambda: small.request("POST", "/v2/models/mlp/infer", bytes(MIB))[0] == 503)
        with grpc.insecure_channel(small.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                answers.extend(stub.ModelStreamInfer(iter([request] * 200), timeout=60))
    assert (caught.value.code(), FULL in caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, True)
    assert len(answers) >= 32
    assert not any(answer.error_message for answer in answers)


def test_what_is_read_from_shared_memory_needs_room(small):
    region = shm.create_shared_memory_region("hostile", "/capstan-hostile", 4 * MIB)
    try:
        with triton_http.InferenceServerClient(small.http) as client:
            client.register_system_shared_memory("hostile", "/capstan-hostile", 4 * MIB)
            tensor = triton_http.InferInput("x", [4, 262144], "FP32")
            tensor.set_shared_memory("hostile", 4 * MIB)
            with (
                Held(small, 7 * MIB, 6 * MIB),
                pytest.raises(triton_http.InferenceServerException, match=FULL),
            ):
                client.infer("big", [tensor])
            assert client.infer("big", [tensor]).as_numpy("y").shape == (4, 262144)
            client.unregister_system_shared_memory("hostile")
    finally:
        shm.destroy_shared_memory_region(region)


def test_typed_contents_still_work(small):
    values = np.arange(1000)
    request = service_pb2.ModelInferRequest(model_name="identity_int64")
    request.inputs.add(name="x", datatype="INT64", shape=[1, 1000]).contents.int64_contents.extend(values)
    with grpc.insecure_channel(small.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = service_pb2.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=60))
    assert np.frombuffer(answer.raw_output_contents[0], np.int64).tolist() == values.tolist()
