"""What an inference request can ask for, beside its tensors."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as triton_http

from tests.conformance.models import batched_weights

A, B = np.array([[1, 2]], np.int32), np.array([[3, 5]], np.int32)
SUMS = {"b": ("INT32", B), "a": ("INT32", A)}
ZERO = "Inference-Header-Content-Length"


@pytest.mark.parametrize("outputs", [None, ["difference", "sum"], ["difference"]])
def test_outputs_are_those_asked_for(client, target, outputs):
    target.needs("sums")
    result = client.infer("sums", SUMS, outputs=outputs)
    response = result.get_response()
    named = response["outputs"] if client.is_http else response.outputs
    names = [output["name"] if client.is_http else output.name for output in named]
    assert sorted(names) == sorted(outputs or ["sum", "difference"])
    for name, want in (("sum", A + B), ("difference", A - B)):
        got = result.as_numpy(name)
        if name in names:
            np.testing.assert_array_equal(got, want)
        else:
            assert got is None


def test_one_raw_content_per_output(target):
    target.needs("sums")
    client = target.stub()
    response = client._client_stub.ModelInfer(target.grpc_request("sums", a=("INT32", A), b=("INT32", B)))
    client.close()
    assert len(response.outputs) == len(response.raw_output_contents) == 2
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        want = A + B if output.name == "sum" else A - B
        assert raw == want.tobytes()


@pytest.mark.parametrize("identifier", ["r-1", "Grüße"])
def test_the_id_comes_back(client, target, identifier):
    target.needs("identity_fp32")
    result = client.infer(
        "identity_fp32", {"x": ("FP32", np.ones((1, 1), np.float32))}, request_id=identifier
    )
    response = result.get_response()
    assert (response.get("id", "") if client.is_http else response.id) == identifier


@pytest.mark.parametrize(("version", "added"), [("", 3), ("1", 1), ("3", 3)])
def test_versions(client, target, version, added):
    target.needs("versions")
    array = np.array([1, 2], np.float32)
    result = client.infer("versions", {"x": ("FP32", array)}, model_version=version)
    np.testing.assert_array_equal(result.as_numpy("y"), array + added)
    response = result.get_response()
    shown = response["model_version"] if client.is_http else response.model_version
    name = response["model_name"] if client.is_http else response.model_name
    assert (name, shown) == ("versions", str(added))


@pytest.mark.parametrize("a_binary", [True, False])
@pytest.mark.parametrize("sum_binary", [True, False])
def test_binary_and_json_mix_tensor_by_tensor(target, a_binary, sum_binary):
    target.needs("sums")
    client = triton_http.InferenceServerClient(target.http)
    tensors = []
    for name, array, binary in (("a", A, a_binary), ("b", B, not a_binary)):
        tensor = triton_http.InferInput(name, [1, 2], "INT32")
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    outputs = [
        triton_http.InferRequestedOutput("sum", binary_data=sum_binary),
        triton_http.InferRequestedOutput("difference", binary_data=not sum_binary),
    ]
    result = client.infer("sums", tensors, outputs=outputs)
    client.close()
    np.testing.assert_array_equal(result.as_numpy("sum"), A + B)
    np.testing.assert_array_equal(result.as_numpy("difference"), A - B)
    named = {tensor["name"]: "data" not in tensor for tensor in result.get_response()["outputs"]}
    assert named == {"sum": sum_binary, "difference": not sum_binary}


def _asked(target, parameters, outputs):
    body = {
        "inputs": [
            {"name": name, "datatype": "INT32", "shape": [1, 2], "data": array.ravel().tolist()}
            for name, array in (("a", A), ("b", B))
        ],
        "parameters": parameters,
    }
    if outputs:
        body["outputs"] = outputs
    status, headers, answer = target.request(
        "POST", "/v2/models/sums/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    assert status == 200, answer
    content_type = "application/octet-stream" if ZERO.lower() in headers else "application/json"
    assert headers["content-type"].partition(";")[0] == content_type
    head = json.loads(answer[: int(headers.get(ZERO.lower(), len(answer)))])
    return {output["name"]: "data" not in output for output in head["outputs"]}


def test_binary_output_is_asked_for_once_for_all(target):
    target.needs("sums")
    assert _asked(target, {"binary_data_output": True}, None) == {"sum": True, "difference": True}
    assert _asked(target, {}, None) == {"sum": False, "difference": False}


def test_an_outputs_own_word_overrides(target):
    target.needs("sums")
    for default in (True, False):
        outputs = [
            {"name": "sum", "parameters": {"binary_data": False}},
            {"name": "difference", "parameters": {"binary_data": True}},
        ]
        asked = _asked(target, {"binary_data_output": default}, outputs)
        assert asked == {"sum": False, "difference": True}


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_batches(client, target, rows):
    target.needs("batched")
    weights, bias = batched_weights()
    array = np.random.default_rng(rows).integers(-9, 9, (rows, 4)).astype(np.float32)
    result = client.infer("batched", {"x": ("FP32", array)}).as_numpy("y")
    np.testing.assert_array_equal(result, array @ weights + bias)


def test_more_rows_than_the_model_takes(client, target):
    target.needs("batched")
    status, message = client.error("infer", "batched", {"x": ("FP32", np.zeros((9, 4), np.float32))})
    assert status == 400, message
    assert "8" in message


def test_requests_that_meet_in_a_batch_get_each_its_own(client, target):
    target.needs("batched")
    weights, bias = batched_weights()

    def one(seed):
        rows = 1 + seed % 3
        array = np.random.default_rng(seed).integers(-9, 9, (rows, 4)).astype(np.float32)
        result = client.infer("batched", {"x": ("FP32", array)}).as_numpy("y")
        np.testing.assert_array_equal(result, array @ weights + bias)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))


def test_a_raw_request_is_the_tensor_alone(target):
    target.needs("batched")
    weights, bias = batched_weights()
    array = np.arange(4, dtype=np.float32).reshape(1, 4)
    headers = {ZERO: "0", "Content-Type": "application/octet-stream"}
    status, answered, body = target.request("POST", "/v2/models/batched/infer", array.tobytes(), headers)
    assert status == 200, body
    length = int(answered[ZERO.lower()])
    (output,) = json.loads(body[:length])["outputs"]
    assert output["shape"] == [1, 3]
    result = np.frombuffer(body[length:], np.float32).reshape(1, 3)
    np.testing.assert_array_equal(result, array @ weights + bias)


@pytest.mark.parametrize("size", [0, 3, 17])
def test_a_raw_request_of_another_size(target, size):
    target.needs("batched")
    headers = {ZERO: "0", "Content-Type": "application/octet-stream"}
    status, _, body = target.request("POST", "/v2/models/batched/infer", b"\0" * size, headers)
    assert status == 400, body


def test_a_raw_request_of_a_model_with_two_inputs(target):
    target.needs("sums")
    headers = {ZERO: "0", "Content-Type": "application/octet-stream"}
    status, _, body = target.request("POST", "/v2/models/sums/infer", b"\0" * 8, headers)
    assert status == 400, body
