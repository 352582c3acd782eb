"""Loading and unloading a running server's models: by clients, by its folder, and by its command line."""

import base64
import json
import shutil

import pytest
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException


def index(serving):
    _, answer = serving.request("POST", "/v2/repository/index", b"")
    return {(model["name"], model["version"]): model["state"] for model in json.loads(answer)}


def ready(serving, name):
    return serving.get(f"/v2/models/{name}/ready")[0] == 200


@pytest.fixture
def explicit(own_repository, start):
    for name in ("a", "b"):
        own_repository.add_identity(name, "FP32", ["n", 2])
    return start(own_repository, "--model-control-mode", "explicit", "--load-model", "a").ready()


def versions(client, name):
    over_grpc = {"as_json": True} if isinstance(client, grpc.InferenceServerClient) else {}
    return client.get_model_metadata(name, **over_grpc)["versions"]


def max_batch_size(client, name):
    if isinstance(client, grpc.InferenceServerClient):
        return client.get_model_config(name).config.max_batch_size
    return client.get_model_config(name)["max_batch_size"]


@pytest.mark.parametrize("protocol", [http, grpc])
def test_explicit_control_with_the_real_clients(explicit, own_repository, protocol):
    assert index(explicit) == {("a", "1"): "READY", ("b", ""): "UNAVAILABLE"}
    with protocol.InferenceServerClient(explicit.http if protocol is http else explicit.grpc) as client:
        client.load_model("b")
        assert client.is_model_ready("b")
        client.unload_model("a")
        assert not client.is_model_ready("a")
        explicit.until(lambda: index(explicit)["a", "1"] == "UNAVAILABLE")
        client.load_model("a", config=json.dumps({"max_batch_size": 5}))
        assert max_batch_size(client, "a") == 5
        client.load_model(
            "a", config="{}", files={"file:9/model.onnx": own_repository.file("b").read_bytes()}
        )
        assert versions(client, "a") == ["9"]
        client.load_model("a")
        assert versions(client, "a") == ["1"]
        assert max_batch_size(client, "a") == 8
        for name, options in (
            ("c", {}),
            ("a", {"config": "{"}),
            ("a", {"config": '{"sequence_batching": {}}'}),
            ("a", {"config": "{}", "files": {"file:1/../../model.onnx": b""}}),
            ("a", {"config": "{}", "files": {"file:1/model.onnx": b"junk"}}),
        ):
            with pytest.raises(InferenceServerException, match="failed to load"):
                client.load_model(name, **options)
            assert client.is_model_ready("a")


def test_bad_load_requests(explicit):
    for parameters, said in (
        ({"config": 3}, "must be a string"),
        ({"file:1/model.onnx": "x"}, "as base64"),
        ({"file:1/model.onnx": 1}, "as base64"),
        ({"file:1/model.onnx": base64.b64encode(b"x").decode()}, "files need a config"),
        ({"confg": "{}"}, "'confg' is not known"),
        ([], "must be an object"),
        ("x", "must be an object"),
    ):
        body = json.dumps({"parameters": parameters}).encode()
        status, answer = explicit.request("POST", "/v2/repository/models/a/load", body)
        assert (status, said in json.loads(answer)["error"]) == (400, True), answer
        assert ready(explicit, "a")


def test_without_explicit_control_nothing_is_loaded_for_clients(server):
    for what in ("load", "unload"):
        status, answer = server.request("POST", f"/v2/repository/models/mlp/{what}", b"")
        assert status == 503
        assert "explicit model load / unload is not allowed" in json.loads(answer)["error"]
    assert ready(server, "mlp")


def test_polling_follows_the_folder(own_repository, start):
    own_repository.add_identity("stays", "FP32", ["n"])
    own_repository.add_identity("goes", "FP32", ["n"])
    serving = start(own_repository, "--model-control-mode", "poll", "--repository-poll-secs", "0.1").ready()
    assert set(index(serving)) == {("goes", "1"), ("stays", "1")}
    own_repository.add_identity("comes", "FP32", ["n"])
    own_repository.add_identity("stays", "FP32", ["n", 2], version=2)
    shutil.rmtree(own_repository.path / "goes")
    serving.until(lambda: index(serving) == {("comes", "1"): "READY", ("stays", "2"): "READY"})
    assert serving.get("/v2/models/goes")[0] == 404
    own_repository.add_identity("stays", "FP32", ["n"], version=3).write_bytes(b"junk")
    serving.until(lambda: index(serving).get(("stays", "3")) == "UNAVAILABLE")
    assert ready(serving, "stays")
    away = own_repository.path.with_name("away")
    own_repository.path.rename(away)
    serving.wait_for("cannot be read")
    assert ready(serving, "stays")
    away.rename(own_repository.path)
    own_repository.add_identity("stays", "FP32", ["n"], version=3)
    serving.until(lambda: index(serving).get(("stays", "3")) == "READY")


def test_models_are_loaded_side_by_side_and_say_so(own_repository, start):
    for number in range(6):
        own_repository.add_identity(f"m{number}", "FP32", ["n"])
    serving = start(own_repository, "--model-load-thread-count", "3").ready()
    for number in range(1, 7):
        assert f"{number} of 6 models are done" in serving.log
    assert len(index(serving)) == 6


def test_a_model_to_load_must_be_there(own_repository, start):
    own_repository.add_identity("a", "FP32", ["n"])
    serving = start(own_repository, "--model-control-mode", "explicit", "--load-model", "b")
    assert serving.end() == 1
    assert "model 'b' is not in the repository; correct --load-model" in serving.log
    serving = start(own_repository, "--model-control-mode", "explicit", "--load-model", "*").ready()
    assert ready(serving, "a")


def test_a_provider_that_is_not_there_is_said_and_counted(own_repository, start):
    own_repository.add_identity("m", "FP32", ["n"])
    serving = start(own_repository, "--providers", "tensorrt,cpu").ready()
    assert (
        "model m version 1: TensorrtExecutionProvider cannot be used; executed by CPUExecutionProvider"
        in serving.log
    )
    label = 'model="m",version="1",provider='
    samples = serving.scrape()
    assert samples[f'capstan_serving_provider{{{label}"CPUExecutionProvider"}}'] == 1
    assert samples[f'capstan_serving_provider{{{label}"TensorrtExecutionProvider"}}'] == 0


def test_what_the_repository_is_made_of_can_be_two_folders(own_repository, start, tmp_path):
    own_repository.add_identity("a", "FP32", ["n"])
    other = tmp_path / "other"
    own_repository.add_identity("b", "FP32", ["n"])
    other.mkdir()
    (own_repository.path / "b").rename(other / "b")
    serving = start(own_repository, "--model-repository", str(other)).ready()
    assert set(index(serving)) == {("a", "1"), ("b", "1")}
