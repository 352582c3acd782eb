"""Every datatype there and back: in binary with each client, in JSON, in gRPC's typed contents."""

import json

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2

from tests.conformance.models import CONTENTS, DATATYPES
from tests.conformance.target import equal, not_offered, sample

IN_JSON = [name for name in DATATYPES if name not in ("FP16", "BF16")]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_binary(client, target, datatype):
    model = f"identity_{datatype.lower()}"
    target.needs(model)
    array = sample(datatype)
    equal(client.infer(model, {"x": (datatype, array)}).as_numpy("y"), array)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (2, 1000)])
def test_shapes(client, target, shape):
    target.needs("identity_fp32")
    array = sample("FP32", shape)
    equal(client.infer("identity_fp32", {"x": ("FP32", array)}).as_numpy("y"), array)


@pytest.mark.parametrize("datatype", IN_JSON)
def test_json(target, datatype):
    model = f"identity_{datatype.lower()}"
    target.needs(model)
    array = sample(datatype)
    tensor = triton_http.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=False)
    client = triton_http.InferenceServerClient(target.http)
    output = triton_http.InferRequestedOutput("y", binary_data=False)
    result = client.infer(model, [tensor], outputs=[output]).as_numpy("y")
    client.close()
    equal(result.astype(object) if datatype == "BYTES" else result, array, ulps=int(datatype == "FP64"))


@pytest.mark.parametrize("datatype", IN_JSON)
def test_json_may_be_nested_or_flat(target, datatype):
    model = f"identity_{datatype.lower()}"
    target.needs(model)
    array = sample(datatype, (2, 2))
    values = array.tolist() if array.dtype != object else array
    answers = []
    for data in (list(np.array(values, object).reshape(-1)), [list(row) for row in values]):
        tensor = {"name": "x", "datatype": datatype, "shape": [2, 2], "data": data}
        status, answer = target.json("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]})
        assert status == 200, answer
        answers.append(answer["outputs"][0])
    assert answers[0] == answers[1]
    assert (answers[0]["datatype"], answers[0]["shape"]) == (datatype, [2, 2])
    result = np.array(answers[0]["data"], array.dtype).reshape(2, 2)
    equal(result, array, ulps=int(datatype == "FP64"))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_is_refused_in_json(target, datatype):
    model = f"identity_{datatype.lower()}"
    target.needs(model)
    tensor = {"name": "x", "datatype": datatype, "shape": [1, 1], "data": [1.0]}
    status, answer = target.json("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]})
    assert status == 400, answer
    assert answer["error"]


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents(target, datatype):
    if not target.grpc:
        not_offered("no gRPC address was given")
    model = f"identity_{datatype.lower()}"
    target.needs(model)
    array = sample(datatype)
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    items = [word.encode() for word in array.flat] if datatype == "BYTES" else array.reshape(-1).tolist()
    getattr(tensor.contents, CONTENTS[datatype]).extend(items)
    client = target.stub()
    response = client._client_stub.ModelInfer(request)
    equal(triton_grpc.InferResult(response).as_numpy("y"), array)
    client.close()


@pytest.mark.parametrize("word", [b"", b"a\x00b", "日本".encode(), b'"\\\n'])
def test_bytes_are_any_bytes(client, target, word):
    target.needs("identity_bytes")
    array = np.array([[word]], dtype=object)
    assert client.infer("identity_bytes", {"x": ("BYTES", array)}).as_numpy("y").tolist() == [[word]]


def test_strings_are_escaped_in_json(target):
    target.needs("identity_bytes")
    word = 'Grüße "\\\n\t\x01 日本'
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 1], "data": [word]}
    status, _, body = target.request(
        "POST", "/v2/models/identity_bytes/infer", json.dumps({"inputs": [tensor]}).encode()
    )
    assert status == 200, body
    assert json.loads(body)["outputs"][0]["data"] == [word]
