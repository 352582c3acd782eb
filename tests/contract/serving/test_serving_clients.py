"""The four tritonclient clients against a real server: what tests/conformance cannot ask of any server."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
from tritonclient.utils import InferenceServerException

from tests.conformance.target import CLIENTS, Client, Target


@pytest.fixture(params=CLIENTS)
def client(request, server):
    return Client(request.param, Target(server.http, server.grpc, is_ours=True))


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_model_answers_as_bare_onnxruntime(client, repository, rows):
    array = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
    session = ort.InferenceSession(repository.file("mlp"), providers=["CPUExecutionProvider"])
    result = client.infer("mlp", {"x": ("FP32", array)}, request_id="r7")
    np.testing.assert_array_equal(result.as_numpy("y"), session.run(None, {"x": array})[0])
    response = result.get_response()
    shown = (
        response
        if isinstance(response, dict)
        else {"id": response.id, "model_version": response.model_version}
    )
    assert shown["id"] == "r7"
    assert shown["model_version"] == "1"


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's advice to tritonclient
def test_large_tensors_travel_whole(client):
    array = np.random.default_rng(3).standard_normal((6, 262144)).astype(np.float32)
    np.testing.assert_array_equal(client.infer("big", {"x": ("FP32", array)}).as_numpy("y"), array)


def test_concurrent_requests_of_all_sizes_are_answered_each_with_its_own(server, repository):
    """Requests are batched as they come; no row may end up with another caller."""
    session = ort.InferenceSession(repository.file("mlp"), providers=["CPUExecutionProvider"])
    executions = server.scrape()['nv_inference_exec_count{model="mlp",version="1"}']

    async def run(kind):
        generator = np.random.default_rng(5)
        client = Client(kind, Target(server.http, server.grpc))
        module, url = client.module, client.url
        async with module.InferenceServerClient(url) as client:

            async def one(rows):
                array = generator.standard_normal((rows, 4)).astype(np.float32)
                tensor = module.InferInput("x", [rows, 4], "FP32")
                tensor.set_data_from_numpy(array)
                result = await client.infer("mlp", [tensor])
                np.testing.assert_allclose(
                    result.as_numpy("y"), session.run(None, {"x": array})[0], rtol=1e-6
                )

            await asyncio.gather(*(one(1 + index % 5) for index in range(300)))

    asyncio.run(run("http.aio"))
    asyncio.run(run("grpc.aio"))
    assert server.scrape()['nv_inference_exec_count{model="mlp",version="1"}'] - executions < 600


def test_one_bad_request_in_a_batch_fails_alone(server):
    def look_up(index):
        body = {"inputs": [{"name": "index", "datatype": "INT64", "shape": [1], "data": [index]}]}
        return server.request("POST", "/v2/models/lookup/infer", json.dumps(body).encode())

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(look_up, [0, 1, 2, 99] * 25))
    for index, (status, body) in zip([0, 1, 2, 99] * 25, answers, strict=True):
        if index == 99:
            assert (status, b"out of data bounds" in body) == (400, True)
        else:
            assert json.loads(body)["outputs"][0]["data"] == [2 * index, 2 * index + 1]


def test_outputs_come_in_the_order_in_which_they_are_asked_for(client):
    one = ("INT32", np.ones((1, 1), np.int32))
    for names in (["difference", "sum"], ["sum", "difference"]):
        response = client.infer("sums", {"a": one, "b": one}, outputs=names).get_response()
        outputs = response["outputs"] if client.is_http else response.outputs
        assert [output["name"] if client.is_http else output.name for output in outputs] == names


def test_a_raw_request_is_the_tensor_alone(server):
    array = np.arange(8, dtype=np.float32)
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    status, body = server.request("POST", "/v2/models/mlp/infer", array.tobytes(), headers)
    assert status == 200
    head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    assert head["outputs"][0]["shape"] == [2, 3]
    assert len(body) - end == head["outputs"][0]["parameters"]["binary_data_size"] == 24


def test_metadata(client):
    assert client.call("get_server_metadata")["name"] == "capstan"
    assert client.call("get_model_metadata", "mlp")["platform"] == "onnxruntime_onnx"


def test_the_highest_version_is_served(client):
    assert client.call("get_model_metadata", "versions")["versions"] == ["10"]
    array = np.array([1, 2], np.float32)
    for version in ("", "10"):
        result = client.infer("versions", {"x": ("FP32", array)}, model_version=version)
        np.testing.assert_array_equal(result.as_numpy("y"), array)
    with pytest.raises(InferenceServerException, match="version 2 is not found"):
        client.infer("versions", {"x": ("FP32", array)}, model_version="2")


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("nothing", "", "unknown model: 'nothing'"),
        ("mlp", "9", "version 9"),
        ("mlp", "x", "versions are numbers"),
    ],
)
def test_what_is_not_there_is_not_found(client, model, version, message):
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(model, {"x": ("FP32", np.zeros((1, 4), np.float32))}, model_version=version)
    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ("FP64", np.zeros((1, 4)))}, "'x' has datatype 'FP64'"),
        ({"x": ("FP32", np.zeros((1, 5), np.float32))}, "'x' has shape"),
        ({"x": ("FP32", np.zeros((1, 4, 1), np.float32))}, "'x' has shape"),
        ({"x": ("FP32", np.zeros((0, 4), np.float32))}, "'x' has shape"),
        ({"z": ("FP32", np.zeros((1, 4), np.float32))}, "unexpected inference input 'z'"),
        (
            {"x": ("FP32", np.zeros((1, 4), np.float32)), "z": ("FP32", np.zeros((1, 4), np.float32))},
            "unexpected inference input 'z'",
        ),
    ],
)
def test_inputs_that_do_not_fit_name_the_tensor(client, arrays, message):
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("mlp", arrays)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_a_missing_input_and_an_unknown_output_are_named(client):
    array = ("INT32", np.zeros((1, 1), np.int32))
    with pytest.raises(InferenceServerException, match="input 'b' is missing"):
        client.infer("sums", {"a": array})
    with pytest.raises(InferenceServerException, match="unexpected inference output 'product'"):
        client.infer("sums", {"a": array, "b": array}, outputs=["product"])
