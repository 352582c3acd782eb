"""The four tritonclient clients against a real server, every answer compared with bare ONNX Runtime."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.conformance.models import CONTENTS

CLIENTS = ["http", "grpc", "http.aio", "grpc.aio"]
MODULES = {
    "http": triton_http,
    "grpc": triton_grpc,
    "http.aio": triton_http_aio,
    "grpc.aio": triton_grpc_aio,
}


class Client:
    """One way to call all four."""

    def __init__(self, kind, server):
        self.module = MODULES[kind]
        self.url = server.grpc if kind.startswith("grpc") else server.http
        self.aio = kind.endswith("aio")

    def call(self, method, *arguments, **options):
        if not self.aio:
            client = self.module.InferenceServerClient(self.url)
            try:
                return getattr(client, method)(*arguments, **options)
            finally:
                client.close()

        async def run():
            async with self.module.InferenceServerClient(self.url) as client:
                return await getattr(client, method)(*arguments, **options)

        return asyncio.run(run())

    def infer(self, model, arrays, outputs=None, **options):
        inputs = []
        for name, (datatype, array) in arrays.items():
            tensor = self.module.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        requested = [self.module.InferRequestedOutput(name) for name in outputs] if outputs else None
        return self.call("infer", model, inputs, outputs=requested, **options)


@pytest.fixture(params=CLIENTS)
def client(request, server):
    return Client(request.param, server)


def sample(datatype, shape=(3, 5)):
    generator = np.random.default_rng(7)
    if datatype == "BYTES":
        words = ["", "a", "Grüße", "日本", "x" * 70_000]
        return np.array(generator.choice(words, shape), dtype=object)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return generator.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return generator.standard_normal(shape).astype(dtype)


def text(array):
    """BYTES come back as bytes; their words."""
    return np.array([item.decode() for item in array.reshape(-1)], dtype=object).reshape(array.shape)


DATATYPES = [
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
    "BYTES",
]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_comes_back_as_it_went(client, datatype):
    array = sample(datatype)
    result = client.infer(f"identity_{datatype.lower()}", {"x": (datatype, array)}).as_numpy("y")
    if datatype == "BYTES":
        result = text(result)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("FP16", "BF16")])
def test_every_datatype_in_json(server, datatype):
    array = sample(datatype)
    tensor = triton_http.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=False)
    output = triton_http.InferRequestedOutput("y", binary_data=False)
    client = triton_http.InferenceServerClient(server.http)
    result = client.infer(f"identity_{datatype.lower()}", [tensor], outputs=[output])
    values = result.as_numpy("y")
    if datatype == "BYTES":
        values = values.astype(object)
    np.testing.assert_array_equal(values, array)
    client.close()


@pytest.mark.parametrize("datatype", CONTENTS)
def test_every_datatype_in_typed_contents(server, datatype):
    array = sample(datatype)
    request = service_pb2.ModelInferRequest(model_name=f"identity_{datatype.lower()}", id="typed")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    items = [word.encode() for word in array.flat] if datatype == "BYTES" else array.reshape(-1).tolist()
    getattr(tensor.contents, CONTENTS[datatype]).extend(items)
    client = triton_grpc.InferenceServerClient(server.grpc)
    response = client._client_stub.ModelInfer(request)
    assert response.id == "typed"
    result = triton_grpc.InferResult(response).as_numpy("y")
    np.testing.assert_array_equal(text(result) if datatype == "BYTES" else result, array)
    client.close()


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
        module, url = MODULES[kind], Client(kind, server).url
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


def test_outputs_are_those_asked_for_in_that_order(client):
    a, b = np.array([[1, 2]], np.int32), np.array([[3, 5]], np.int32)
    arrays = {"b": ("INT32", b), "a": ("INT32", a)}
    result = client.infer("sums", arrays, outputs=["difference", "sum"])
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    result = client.infer("sums", arrays, outputs=["difference"])
    assert result.as_numpy("sum") is None
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)


@pytest.mark.parametrize("input_binary", [True, False])
@pytest.mark.parametrize("sum_binary", [True, False])
def test_binary_and_json_mix_tensor_by_tensor(server, input_binary, sum_binary):
    client = triton_http.InferenceServerClient(server.http)
    tensors = []
    for name, binary in (("a", input_binary), ("b", not input_binary)):
        tensor = triton_http.InferInput(name, [1, 2], "INT32")
        tensor.set_data_from_numpy(np.array([[4, 9]], np.int32), binary_data=binary)
        tensors.append(tensor)
    outputs = [
        triton_http.InferRequestedOutput("sum", binary_data=sum_binary),
        triton_http.InferRequestedOutput("difference", binary_data=not sum_binary),
    ]
    result = client.infer("sums", tensors, outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("sum"), [[8, 18]])
    np.testing.assert_array_equal(result.as_numpy("difference"), [[0, 0]])
    parameters = {tensor["name"]: "parameters" in tensor for tensor in result.get_response()["outputs"]}
    assert parameters == {"sum": sum_binary, "difference": not sum_binary}
    client.close()


def test_a_raw_request_is_the_tensor_alone(server):
    array = np.arange(8, dtype=np.float32)
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    status, body = server.request("POST", "/v2/models/mlp/infer", array.tobytes(), headers)
    assert status == 200
    head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    assert head["outputs"][0]["shape"] == [2, 3]
    assert len(body) - end == head["outputs"][0]["parameters"]["binary_data_size"] == 24


def test_metadata(client):
    server_metadata = client.call("get_server_metadata")
    model = client.call("get_model_metadata", "mlp")
    if isinstance(model, dict):
        assert server_metadata["name"] == "capstan"
        assert {"binary_tensor_data", "schedule_policy"} <= set(server_metadata["extensions"])
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert model["platform"] == "onnxruntime_onnx"
    else:
        assert server_metadata.name == "capstan"
        assert {"binary_tensor_data", "schedule_policy"} <= set(server_metadata.extensions)
        assert list(model.inputs[0].shape) == [-1, 4]
        assert model.platform == "onnxruntime_onnx"


def test_health_and_readiness(client):
    assert client.call("is_server_live")
    assert client.call("is_server_ready")
    assert client.call("is_model_ready", "mlp")
    assert client.call("is_model_ready", "mlp", "1")


def test_the_highest_version_is_served(client):
    metadata = client.call("get_model_metadata", "versions")
    versions = metadata["versions"] if isinstance(metadata, dict) else list(metadata.versions)
    assert versions == ["10"]
    array = np.array([1, 2], np.float32)
    for version in ("", "10"):
        result = client.infer("versions", {"x": ("FP32", array)}, model_version=version)
        np.testing.assert_array_equal(result.as_numpy("y"), array)
    with pytest.raises(InferenceServerException, match="version 2 is not found"):
        client.infer("versions", {"x": ("FP32", array)}, model_version="2")


def test_index_and_statistics(client):
    client.infer("mlp", {"x": ("FP32", np.zeros((2, 4), np.float32))})
    index = client.call("get_model_repository_index")
    statistics = client.call("get_inference_statistics", "mlp")
    if isinstance(index, list):
        states = {model["name"]: model["state"] for model in index}
        (model,) = statistics["model_stats"]
        count, infers = model["inference_count"], model["inference_stats"]["compute_infer"]["count"]
    else:
        states = {model.name: model.state for model in index.models}
        (model,) = statistics.model_stats
        count, infers = model.inference_count, model.inference_stats.compute_infer.count
    assert states["mlp"] == "READY"
    assert count >= 2
    assert infers >= 1


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


def test_parameters_are_taken_and_reserved_ones_refused(client):
    array = {"x": ("FP32", np.zeros((1, 4), np.float32))}
    client.infer("mlp", array, priority=1, timeout=10_000_000, parameters={"mine": "x"})
    with pytest.raises(InferenceServerException, match="reserved"):
        client.infer("mlp", array, parameters={"triton_x": 1})
