"""Bad requests: each gets its error, by the same code from every client, and the next is served."""

import json

import numpy as np
import pytest

F = np.float32


@pytest.fixture(autouse=True)
def others_are_served(target):
    target.needs("identity_fp32", "sums")
    yield
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [7]}
    status, answer = target.json("POST", "/v2/models/identity_fp32/infer", {"inputs": [tensor]})
    assert (status, answer["outputs"][0]["data"]) == (200, [7])


@pytest.mark.parametrize("version", ["", "1"])
def test_an_unknown_model(client, version):
    status, message = client.error(
        "infer", "no_such_model", {"x": ("FP32", np.ones((1, 1), F))}, model_version=version
    )
    assert status == 404, message
    assert "no_such_model" in message


def test_an_unknown_version(client):
    status, message = client.error(
        "infer", "identity_fp32", {"x": ("FP32", np.ones((1, 1), F))}, model_version="99"
    )
    assert status == 404, message


@pytest.mark.parametrize(
    ("model", "tensors", "said"),
    [
        ("identity_fp32", {"x": ("FP64", np.ones((1, 1)))}, "x"),
        ("identity_fp32", {"x": ("FP32", np.ones((1, 1, 1), F))}, "x"),
        ("identity_fp32", {"z": ("FP32", np.ones((1, 1), F))}, "z"),
        ("sums", {"a": ("INT32", np.ones((1, 1), np.int32))}, "b"),
        (
            "identity_fp32",
            {"x": ("FP32", np.ones((1, 1), F)), "more": ("FP32", np.ones((1, 1), F))},
            "more",
        ),
    ],
    ids=["datatype", "rank", "name", "an input missing", "an input too many"],
)
def test_wrong_tensors(client, model, tensors, said):
    status, message = client.error("infer", model, tensors)
    assert status == 400, message
    assert f"'{said}'" in message


def test_an_unknown_output(client):
    status, message = client.error(
        "infer", "identity_fp32", {"x": ("FP32", np.ones((1, 1), F))}, outputs=["nothing"]
    )
    assert status == 400, message
    assert "nothing" in message


TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
BODIES = {
    "not JSON": b"{",
    "no JSON object": b"[]",
    "no inputs": b"{}",
    "an input that is none": b'{"inputs": [1]}',
    "no name": json.dumps({"inputs": [{k: v for k, v in TENSOR.items() if k != "name"}]}).encode(),
    "no datatype": json.dumps({"inputs": [{k: v for k, v in TENSOR.items() if k != "datatype"}]}).encode(),
    "no shape": json.dumps({"inputs": [{k: v for k, v in TENSOR.items() if k != "shape"}]}).encode(),
    "no data": json.dumps({"inputs": [{k: v for k, v in TENSOR.items() if k != "data"}]}).encode(),
    "too little data": json.dumps({"inputs": [TENSOR | {"data": [1]}]}).encode(),
    "too much data": json.dumps({"inputs": [TENSOR | {"data": [1, 2, 3]}]}).encode(),
    "text for numbers": json.dumps({"inputs": [TENSOR | {"data": ["1", "2"]}]}).encode(),
    "an unknown datatype": json.dumps({"inputs": [TENSOR | {"datatype": "FP8"}]}).encode(),
    "a negative dimension": json.dumps({"inputs": [TENSOR | {"shape": [-1, 2]}]}).encode(),
    "nested too deep": b'{"inputs":' + b"[" * 200 + b"]" * 200 + b"}",
}


@pytest.mark.parametrize("case", BODIES)
def test_bad_json(target, case):
    status, _, body = target.request(
        "POST", "/v2/models/identity_fp32/infer", BODIES[case], {"Content-Type": "application/json"}
    )
    assert status in target.refused, body
    assert json.loads(body)["error"]


@pytest.mark.hostile
def test_dimensions_that_overflow(target):
    body = json.dumps({"inputs": [TENSOR | {"shape": [2**62, 8]}]}).encode()
    status, _, answer = target.request("POST", "/v2/models/identity_fp32/infer", body)
    assert status in target.refused, answer


def _binary(target, declared, sent, length=None):
    tensor = {k: v for k, v in TENSOR.items() if k != "data"} | {"parameters": {"binary_data_size": declared}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return target.request("POST", "/v2/models/identity_fp32/infer", head + b"\0" * sent, headers)


@pytest.mark.parametrize(("declared", "sent"), [(4, 4), (12, 12), (8, 4), (8, 12), (0, 0)])
def test_too_little_and_too_much_binary_data(target, declared, sent):
    status, _, body = _binary(target, declared, sent)
    assert status == 400, body


@pytest.mark.parametrize("length", ["-1", "abc", "100000", "5"])
def test_a_lying_json_length(target, length):
    status, _, body = _binary(target, 8, 8, length)
    assert status in target.refused, body


def _refused(target, change):
    client = target.stub()
    request = target.grpc_request("identity_fp32", x=("FP32", np.ones((1, 2), F)))
    change(request)
    with pytest.raises(Exception, match="StatusCode") as caught:
        client._client_stub.ModelInfer(request)
    client.close()
    assert caught.value.code().name == "INVALID_ARGUMENT", caught.value.details()
    assert caught.value.details()


GRPC = {
    "raw contents and typed contents": lambda request: request.inputs[0].contents.fp32_contents.extend(
        [1, 2]
    ),
    "too few raw contents": lambda request: request.raw_input_contents.pop(),
    "too little raw data": lambda request: request.raw_input_contents.__setitem__(0, b"1234"),
    "too much raw data": lambda request: request.raw_input_contents.__setitem__(0, b"123456789012"),
    "a negative dimension": lambda request: request.inputs[0].shape.__setitem__(0, -1),
    "an unknown datatype": lambda request: setattr(request.inputs[0], "datatype", "FP8"),
    "no inputs": lambda request: (request.ClearField("inputs"), request.ClearField("raw_input_contents")),
}


@pytest.mark.parametrize("case", GRPC)
def test_bad_messages(target, case):
    _refused(target, GRPC[case])


def test_a_name_is_no_path(target):
    for name in ("..%2f..%2fetc", "%2e%2e", "a%00b"):
        status, _, _ = target.request("GET", f"/v2/models/{name}")
        assert status in target.codes(404, 400)
