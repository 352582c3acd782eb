"""The protocol's extensions on the wire: compression, classification, parameters."""

import asyncio
import gzip
import http.client
import json
import zlib

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

INFER = "/v2/models/identity_fp32/infer"


def body(rows=1, **changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [1.5, 2.5] * rows}
    return json.dumps({"inputs": [tensor]} | changes).encode()


def exchange(server, content, **headers):
    connection = http.client.HTTPConnection(server.http, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", INFER, content, names)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response, answer


PACK = {"gzip": gzip.compress, "deflate": zlib.compress}
UNPACK = {"gzip": gzip.decompress, "deflate": zlib.decompress}


def array(module, values):
    tensor = module.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_http_compression_both_ways(server, encoding, binary):
    values = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    with triton_http.InferenceServerClient(server.http) as client:
        tensor = triton_http.InferInput("x", [1000, 2], "FP32")
        tensor.set_data_from_numpy(values, binary_data=binary)
        result = client.infer(
            "identity_fp32",
            [tensor],
            outputs=[triton_http.InferRequestedOutput("y", binary_data=binary)],
            request_compression_algorithm=encoding,
            response_compression_algorithm=encoding,
        )
        np.testing.assert_array_equal(result.as_numpy("y"), values)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_http_aio_compression_both_ways(server, encoding):
    values = np.arange(2000, dtype=np.float32).reshape(1000, 2)

    async def run():
        async with triton_http_aio.InferenceServerClient(server.http) as client:
            return await client.infer(
                "identity_fp32",
                [array(triton_http_aio, values)],
                request_compression_algorithm=encoding,
                response_compression_algorithm=encoding,
            )

    np.testing.assert_array_equal(asyncio.run(run()).as_numpy("y"), values)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_replies_are_compressed_when_that_is_asked_for(server, encoding):
    response, answer = exchange(server, body(500), Accept_Encoding=encoding)
    assert response.headers["Content-Encoding"] == encoding
    assert int(response.headers["Content-Length"]) == len(answer) < 1000
    assert json.loads(UNPACK[encoding](answer))["outputs"][0]["shape"] == [500, 2]
    response, answer = exchange(server, body(500))
    assert response.headers["Content-Encoding"] is None
    assert json.loads(answer)["outputs"][0]["shape"] == [500, 2]
    response, answer = exchange(server, body(500), Accept_Encoding="br, identity")
    assert response.headers["Content-Encoding"] is None


def test_an_unknown_encoding_says_which_are_known(server):
    response, answer = exchange(server, body(), Content_Encoding="br")
    assert response.status == 501
    assert response.headers["Accept-Encoding"] == "gzip, deflate"
    assert "'br'" in json.loads(answer)["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_decompression_bomb_is_refused_at_the_limit(server, encoding):
    bomb = PACK[encoding](bytes(64 << 20))
    before = server.memory()
    for _ in range(8):
        response, answer = exchange(server, bomb, Content_Encoding=encoding)
        assert response.status == 413, answer
    assert server.memory() - before < 64 << 20
    assert exchange(server, body())[0].status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-3], lambda data: data + b"x", lambda data: b"x" + data]
)
def test_broken_compression_is_400(server, encoding, spoil):
    response, answer = exchange(server, spoil(PACK[encoding](body())), Content_Encoding=encoding)
    assert (response.status, "decompress" in answer.decode() or "its own end" in answer.decode()) == (
        400,
        True,
    )


def test_the_json_length_is_that_of_the_decompressed_body(server):
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
            ]
        }
    ).encode()
    packed = gzip.compress(head + bytes(8))
    response, answer = exchange(
        server, packed, Content_Encoding="gzip", Inference_Header_Content_Length=str(len(head))
    )
    assert response.status == 200, answer


def scores(module, rows):
    tensor = module.InferInput("x", [len(rows), len(rows[0])], "FP32")
    tensor.set_data_from_numpy(np.array(rows, np.float32))
    return tensor


@pytest.mark.parametrize(
    ("module", "url", "binary"),
    [(triton_http, "http", True), (triton_http, "http", False), (triton_grpc, "grpc", None)],
)
def test_classification(server, module, url, binary):
    tensor = scores(module, [[0.25, 4, -1], [3, 1, 2]])
    options = {} if binary is None else {"binary_data": binary}
    output = module.InferRequestedOutput("y", class_count=2, **options)
    with module.InferenceServerClient(getattr(server, url)) as client:
        result = client.infer("identity_fp32", [tensor], outputs=[output]).as_numpy("y")
        words = [[item.decode() if isinstance(item, bytes) else item for item in row] for row in result]
        assert words == [["4.000000:1", "0.250000:0"], ["3.000000:0", "2.000000:2"]]
        strings = module.InferInput("x", [1, 1], "BYTES")
        strings.set_data_from_numpy(np.array([["a"]], dtype=object))
        with pytest.raises(
            InferenceServerException, match="'y' has datatype 'BYTES', which cannot be classi"
        ):
            client.infer("identity_bytes", [strings], outputs=[output])


@pytest.mark.parametrize("classes", [-1, 1.5, "2", True])
def test_classes_are_a_number(server, classes):
    outputs = [{"name": "y", "parameters": {"classification": classes}}]
    response, answer = exchange(server, body(outputs=outputs))
    assert (response.status, "'classification'" in json.loads(answer)["error"]) == (400, True)


def test_more_classes_than_elements_are_all(server):
    outputs = [{"name": "y", "parameters": {"classification": 2**63}}]
    _, answer = exchange(server, body(outputs=outputs))
    (output,) = json.loads(answer)["outputs"]
    assert output == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [1, 2],
        "data": ["2.500000:1", "1.500000:0"],
    }


def test_per_output_binary_data_goes_before_the_requests(server):
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    response, answer = exchange(server, body(outputs=outputs, parameters={"binary_data_output": True}))
    assert json.loads(answer)["outputs"][0]["data"] == [1.5, 2.5]
    outputs = [{"name": "y"}]
    response, answer = exchange(server, body(outputs=outputs, parameters={"binary_data_output": True}))
    length = int(response.headers["Inference-Header-Content-Length"])
    assert np.frombuffer(answer[length:], np.float32).tolist() == [1.5, 2.5]


@pytest.mark.parametrize("identity", [7, "seven", 2**62])
@pytest.mark.parametrize(("module", "url"), [(triton_http, "http"), (triton_grpc, "grpc")])
def test_sequence_parameters_are_taken(server, module, url, identity):
    """A model without sequence batching takes them and does not mention them in its response."""
    with module.InferenceServerClient(getattr(server, url)) as client:
        result = client.infer(
            "identity_fp32",
            [array(module, np.ones((1, 2), np.float32))],
            sequence_id=identity,
            sequence_start=True,
            sequence_end=True,
            priority=3,
            timeout=10_000_000,
        )
        assert "sequence" not in str(result.get_response())


@pytest.mark.parametrize(
    "parameters",
    [
        {"priority": -1},
        {"priority": "high"},
        {"timeout": 1.5},
        {"sequence_id": True},
        {"sequence_start": 1},
        {"sequence_end": "yes"},
        {"binary_data_output": 1},
        {"headers": "x"},
        {"triton_enable_empty_final_response": True},
        {"mine": None},
        {"mine": [1]},
    ],
)
def test_bad_parameters_are_named(server, parameters):
    response, answer = exchange(server, body(parameters=parameters))
    assert (response.status, next(iter(parameters)) in json.loads(answer)["error"]) == (400, True), answer
