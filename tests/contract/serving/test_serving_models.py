"""Configurations, versions, loading and unloading, with real models in a server of this process."""

import gc
import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from capstan_serving._native import Server
from capstan_serving.backends import options
from capstan_serving.catalog import Catalog
from capstan_serving.control import Control
from capstan_serving.errors import InvalidArgument, NotFound, Unavailable
from capstan_serving.lifecycle import Lifecycle
from capstan_serving.loading import Loader
from capstan_serving.repository import Repository as Repositories
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2


class Models:
    """A server with a repository; `life` loads and unloads."""

    def __init__(self, repository, **loader):
        self.catalog = Catalog()
        self.server = Server(
            Control(self.catalog),
            host="127.0.0.1",
            ports=(0, 0, 0),
            max_request_bytes=1 << 20,
            max_inflight_bytes=1 << 22,
            max_connections=256,
            client_timeout=30,
            queue_size=64,
        )
        self.server.set_ready(True)
        self.life = Lifecycle(self.catalog, Repositories([repository.path]), Loader(1, **loader), self.server)
        self.start()

    def start(self, names=None):
        self.life.start(names, 2, threading.Event())

    def states(self):
        return {(entry.name, entry.version): entry.state for entry in self.catalog.index()}

    def reason(self, name):
        return " ".join(entry.reason for entry in self.catalog.versions(name).values())

    def infer(self, name, array, version=None, datatype="FP32"):
        """The status, and the outputs or the error."""
        array = np.asarray(array)
        tensor = {
            "name": "x",
            "datatype": datatype,
            "shape": list(array.shape),
            "data": array.ravel().tolist(),
        }
        return self.post(f"{name}/versions/{version}" if version else name, {"inputs": [tensor]})

    def post(self, path, request):
        url = f"http://127.0.0.1:{self.server.http_port}/v2/models/{path}/infer"
        try:
            body = json.dumps(request).encode()
            with urllib.request.urlopen(url, body, timeout=60) as response:
                return 200, {tensor["name"]: tensor for tensor in json.load(response)["outputs"]}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]

    def metadata(self, name):
        url = f"http://127.0.0.1:{self.server.http_port}/v2/models/{name}"
        with urllib.request.urlopen(url, timeout=60) as response:
            return json.load(response)


@pytest.fixture
def serve(own_repository):
    served = []

    def serve(**loader):
        served.append(Models(own_repository, **loader))
        return served[-1]

    yield serve
    for models in served:
        assert models.server.drain(30)


@pytest.fixture
def add(own_repository):
    """Adds `y = x + constant` as a version of model `m`: the answer says who gave it."""

    def add(version, constant=None, name="m", shape=("n", 2)):
        value = np.float32(version if constant is None else constant)
        tensor = ("x", TensorProto.FLOAT, list(shape)), ("y", TensorProto.FLOAT, list(shape))
        node = helper.make_node("Add", ["x", "c"], ["y"])
        return own_repository.add(name, [node], [tensor[0]], [tensor[1]], {"c": value}, version)

    return add


@pytest.fixture
def configure(own_repository):
    def configure(text, name="m"):
        file = own_repository.path / name / "config.pbtxt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return configure


def answer(models, version=None, name="m"):
    status, outputs = models.infer(name, [[0.0, 0.0]], version)
    return outputs["y"]["data"][0] if status == 200 else status


def until(condition, seconds=30):
    deadline = threading.Event()
    for _ in range(int(seconds * 100)):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it did not come to be in time")


def test_versions_by_policy_and_by_request(add, configure, serve):
    for version in (1, 2, 10):
        add(version)
    configure("version_policy { all {} }")
    models = serve()
    assert [answer(models, version) for version in (None, 1, 2, 10, 3)] == [10, 1, 2, 10, 404]
    assert models.metadata("m")["versions"] == ["1", "2", "10"]
    configure("version_policy { specific { versions: [ 1, 2 ] } }")
    models.life.load("m", None, {})
    assert [answer(models, version) for version in (None, 1, 10)] == [2, 1, 404]
    configure("")
    models.life.load("m", None, {})
    assert [answer(models, version) for version in (None, 1, 10)] == [10, 404, 10]
    until(lambda: models.states() == {("m", 10): "READY"})


def test_the_configuration_in_effect_is_shown(add, configure, serve):
    add(3)
    configure(
        "max_batch_size: 16 dynamic_batching { max_queue_delay_microseconds: 50 } instance_group { count: 3 }"
    )
    entry, loaded = serve().catalog.find("m")
    shown = loaded.config_json()
    assert (shown["name"], shown["backend"], shown["platform"]) == ("m", "onnxruntime", "onnxruntime_onnx")
    assert shown["version_policy"] == {"latest": {"num_versions": 1}}
    assert (shown["max_batch_size"], shown["input"][0]["dims"]) == (16, [2])
    assert (
        shown["instance_group"][0] | {"count": 3, "kind": "KIND_CPU", "name": "m_0"}
        == shown["instance_group"][0]
    )
    assert shown["dynamic_batching"]["max_queue_delay_microseconds"] == 50
    assert shown["default_model_filename"] == "model.onnx"
    message = model_config_pb2.ModelConfig.FromString(loaded.config_message())
    assert (message.max_batch_size, message.input[0].name, message.output[0].name) == (16, "x", "y")
    assert (entry.version, loaded.workers, loaded.signature.max_batch) == (3, 3, 16)


def test_a_reshape_is_between_the_request_and_the_model(add, configure, serve):
    add(1, shape=("n", 4))
    configure(
        'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: 4 } } '
        'output { name: "y" data_type: TYPE_FP32 dims: [ 4, 1 ] reshape { shape: 4 } }'
    )
    models = serve()
    assert models.metadata("m")["inputs"][0]["shape"] == [-1, 2, 2]
    status, outputs = models.infer("m", np.zeros((3, 2, 2), np.float32))
    assert (status, outputs["y"]["shape"]) == (200, [3, 4, 1])
    assert models.infer("m", np.zeros((3, 4), np.float32))[0] == 400


def test_other_file_names_labels_and_warm_up(add, configure, serve, own_repository):
    file = add(1)
    file.rename(file.with_name("net.onnx"))
    folder = own_repository.path / "m"
    folder.joinpath("labels.txt").write_text("cat\ndog\n")
    folder.joinpath("warmup").mkdir()
    folder.joinpath("warmup", "row").write_bytes(np.zeros(2, np.float32).tobytes())
    sample = 'batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 input_data_file: "row" } }'
    configure(
        'default_model_filename: "net.onnx" max_batch_size: 4 '
        'output { name: "y" data_type: TYPE_FP32 dims: 2 label_filename: "labels.txt" } '
        f"model_warmup {{ {sample} }}"
    )
    models = serve()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3, 4]}
    wanted = {"name": "y", "parameters": {"classification": 1}}
    status, outputs = models.post("m", {"inputs": [tensor], "outputs": [wanted]})
    assert (status, outputs["y"]["data"]) == (200, ["5.000000:1:dog"])
    assert answer(models) == 1


def test_a_warm_up_that_fails_keeps_the_model_from_being_ready(own_repository, configure, serve):
    own_repository.add(
        "m",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, [1])],
        [("y", TensorProto.FLOAT, [1])],
        {"table": np.zeros(1, np.float32)},
    )
    sample = 'name: "far" inputs { key: "x" value { data_type: TYPE_INT64 dims: 1 input_data_file: "far" } }'
    configure(f"model_warmup {{ {sample} }}")
    folder = own_repository.path / "m" / "warmup"
    folder.mkdir()
    folder.joinpath("far").write_bytes(np.int64(9).tobytes())
    models = serve()
    assert models.states() == {("m", 1): "UNAVAILABLE"}
    assert "the warm-up 'far' failed" in models.reason("m")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('default_model_filename: "../../secret"', "cannot be a file of model"),
        ('default_model_filename: "/etc/passwd"', "cannot be a file of model"),
        ('default_model_filename: "link"', "outside the model repository"),
        (
            'output { name: "y" data_type: TYPE_FP32 dims: [-1, 2] label_filename: "../../secret" }',
            "cannot be a file",
        ),
        (
            'output { name: "y" data_type: TYPE_FP32 dims: [-1, 2] label_filename: "link" }',
            "outside the model repos",
        ),
        ('model_operations { op_library_filename: "x.so" }', "--allow-custom-operators"),
        ("max_batch_size: 4 nonsense", "line 1, column"),
        ("sequence_batching {}", "sequence_batching is not supported"),
        ('parameters { key: "a" value { string_value: "b" } }', "the parameter 'a' is not supported"),
    ],
)
def test_a_bad_configuration_fails_its_model_only(
    add, configure, serve, own_repository, tmp_path, text, said
):
    secret = tmp_path / "secret"
    secret.write_text("a\nb")
    add(1)
    add(1, name="good")
    configure(text)
    own_repository.path.joinpath("m", "link").symlink_to(secret)
    own_repository.path.joinpath("m", "1", "link").symlink_to(secret)
    models = serve()
    assert models.states() == {("good", 1): "READY", ("m", 1): "UNAVAILABLE"}
    assert said in models.reason("m")
    assert "\na" not in models.reason("m")
    assert answer(models, name="good") == 1
    assert answer(models) == 503


def test_a_bad_model_fails_alone(add, serve, own_repository):
    good = add(1, name="good").read_bytes()
    strange = onnx.load_from_string(good)
    strange.graph.node[0].op_type = "Frobnicate"
    contents = {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "junk": bytes(range(256)) * 10,
        "strange": strange.SerializeToString(),
    }
    for name, content in contents.items():
        add(1, name=name).write_bytes(content)
    own_repository.path.joinpath("folder", "1", "model.onnx").mkdir(parents=True)
    own_repository.path.joinpath("config", "config.pbtxt").mkdir(parents=True)
    add(1, name="config")
    models = serve()
    bad = (*contents, "folder", "config")
    assert models.states() == {("good", 1): "READY"} | {(name, 1): "UNAVAILABLE" for name in bad}
    assert "Frobnicate" in models.reason("strange")
    assert answer(models, name="good") == 1


def test_session_parameters_are_onnx_runtimes(add, configure, serve):
    add(1)
    names = ("execution_mode", "enable_mem_arena", "enable_mem_pattern", "intra_op_thread_count")
    parameters = dict.fromkeys((*names, "inter_op_thread_count"), "1")
    parameters |= {name: "1" for name in options.SUPPORTED if name.startswith("session.")}
    parameters |= {"memory.enable_memory_arena_shrinkage": "cpu:0"}
    configure(
        "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}'
            for key, text in parameters.items()
        )
    )
    assert answer(serve()) == 1


def test_custom_operators_come_from_the_models_folder_only(add, configure, serve, own_repository, tmp_path):
    add(1)
    for name, said in (
        ("../x.so", "cannot be a file"),
        ("missing.so", "is missing"),
        ("junk.so", "cannot be loaded"),
    ):
        own_repository.path.joinpath("m", "junk.so").write_bytes(b"junk")
        configure(f'model_operations {{ op_library_filename: "{name}" }}')
        models = serve(custom_operators=True)
        assert said in models.reason("m")


def test_a_broken_successor_leaves_the_old_one_serving(add, configure, serve):
    file = add(1, constant=5)
    models = serve()
    good = file.read_bytes()
    file.write_bytes(good[:50])
    with pytest.raises(InvalidArgument, match="not a whole ONNX model"):
        models.life.load("m", None, {})
    assert answer(models) == 5
    assert models.states() == {("m", 1): "READY"}
    assert "not a whole ONNX model" in models.reason("m")
    add(2).write_bytes(b"junk")
    with pytest.raises(InvalidArgument, match="failed to load 'm'"):
        models.life.load("m", None, {})
    assert answer(models) == 5
    assert models.states() == {("m", 1): "READY", ("m", 2): "UNAVAILABLE"}
    assert models.metadata("m")["versions"] == ["1"]
    configure("no such thing")
    with pytest.raises(InvalidArgument, match="line 1, column"):
        models.life.load("m", None, {})
    assert answer(models) == 5
    configure("")
    add(2)
    models.life.load("m", None, {})
    assert answer(models) == 2
    until(lambda: models.states() == {("m", 2): "READY"})
    assert not models.reason("m")


def test_what_did_not_change_is_not_loaded_again(add, configure, serve):
    add(1)
    add(2)
    configure("version_policy { all {} }")
    models = serve()
    before = {version: entry.loaded for version, entry in models.catalog.versions("m").items()}
    add(2, constant=7)
    models.life.load("m", None, {})
    after = {version: entry.loaded for version, entry in models.catalog.versions("m").items()}
    assert after[1] is before[1]
    assert after[2] is not before[2]
    assert answer(models) == 7


def test_unload_and_load_again(add, serve):
    add(1)
    add(1, name="other")
    models = serve()
    models.life.unload("m")
    until(lambda: models.states() == {("m", 1): "UNAVAILABLE", ("other", 1): "READY"})
    assert models.reason("m") == "unloaded"
    assert answer(models) == 503
    with pytest.raises(Unavailable):
        models.catalog.find("m")
    assert answer(models, name="other") == 1
    models.life.load("m", None, {})
    assert answer(models) == 1
    for name in ("nobody", "../m", "m/1", "", "m\0"):
        with pytest.raises(NotFound, match="not in the model repository"):
            models.life.load(name, None, {})
        with pytest.raises(NotFound):
            models.life.unload(name)
    assert models.catalog.versions("nobody") == {}


def test_a_load_with_a_configuration_and_files(add, serve, own_repository):
    file = add(1)
    models = serve()
    models.life.load("m", '{"max_batch_size": 3}', {})
    assert models.catalog.find("m")[1].signature.max_batch == 3
    override = add(4, constant=40, name="elsewhere").read_bytes()
    models.life.load("m", "{}", {"file:7/model.onnx": override})
    assert models.catalog.find("m")[0].version == 7
    assert answer(models) == 40
    private = models.catalog.find("m")[1].folder.path
    assert private.exists()
    assert private.stat().st_mode & 0o077 == 0
    models.life.load("m", None, {})
    assert models.catalog.find("m")[0].version == 1
    assert models.catalog.find("m")[1].signature.max_batch == 8
    until(lambda: gc.collect() is not None and not private.exists())
    assert file.exists()


@pytest.mark.parametrize(
    "name",
    [
        "file:1/../../model.onnx",
        "file:../1/model.onnx",
        "file:1//etc/model.onnx",
        "file:1/",
        "file:0/model.onnx",
        "file:x/model.onnx",
        "file:1/a\0b",
        "1/model.onnx",
        "file:/etc/passwd",
        "file:1/./model.onnx",
    ],
)
def test_file_names_of_a_load_stay_in_its_folder(add, serve, name):
    add(1)
    models = serve()
    with pytest.raises(InvalidArgument, match="cannot be a file of a model"):
        models.life.load("m", "{}", {"file:1/model.onnx": b"", name: b""})
    with pytest.raises(InvalidArgument, match="files need a config"):
        models.life.load("m", None, {name: b""})
    assert answer(models) == 1


def test_requests_in_flight_are_answered_by_the_model_they_found(own_repository, serve):
    own_repository.add_spin()
    models = serve()

    def spin(times):
        tensor = {"name": "n", "datatype": "INT64", "shape": [1], "data": [times]}
        url = f"http://127.0.0.1:{models.server.http_port}/v2/models/spin/infer"
        with urllib.request.urlopen(url, json.dumps({"inputs": [tensor]}).encode(), timeout=60) as response:
            return response.status

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(spin, 600) for _ in range(3)]
        until(lambda: models.server.statistics()[0]["pending"] == 2)
        models.life.unload("spin")
        assert models.states() == {("spin", 1): "UNLOADING"}
        assert [future.result() for future in answers] == [200] * 3
    until(lambda: models.states() == {("spin", 1): "UNAVAILABLE"})


def test_reloads_under_load_lose_no_request(add, serve):
    file = add(1)
    models = serve()
    stop = threading.Event()

    def client():
        seen = []
        while not stop.is_set():
            seen.append(answer(models))
        return seen

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(client) for _ in range(3)]
        for constant in range(2, 12):
            add(1, constant=constant)
            models.life.load("m", None, {})
        stop.set()
        seen = {value for future in clients for value in future.result()}
    assert seen <= set(range(1, 12))
    assert answer(models) == 11
    assert file.exists()


def resident():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def test_memory_is_given_back(own_repository, serve):
    # Many weights rather than a large one, which would lie outside of the heap: 100 of 1 MB.
    generator = np.random.default_rng(0)
    weights = {f"w{layer}": generator.standard_normal((512, 512), np.float32) for layer in range(100)}
    names = ["x", *(f"h{layer}" for layer in range(99)), "y"]
    own_repository.add(
        "heavy",
        [helper.make_node("MatMul", [names[layer], f"w{layer}"], [names[layer + 1]]) for layer in range(100)],
        [("x", TensorProto.FLOAT, ["n", 512])],
        [("y", TensorProto.FLOAT, ["n", 512])],
        weights,
    )
    own_repository.add_identity("light", "FP32", ["n"])
    del weights
    gc.collect()
    models = serve()
    loaded, levels = resident(), []
    for _ in range(20):
        models.life.unload("heavy")
        until(lambda: models.states()["heavy", 1] == "UNAVAILABLE")
        levels.append(resident())
        models.life.load("heavy", None, {})
        assert models.infer("heavy", np.zeros((1, 512), np.float32))[0] == 200
    assert max(levels) < min(levels) * 1.05 + 5, levels
    assert levels[-1] < loaded - 90, (loaded, levels)
