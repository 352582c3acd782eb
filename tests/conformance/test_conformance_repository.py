"""The model repository: its index, loading and unloading, configurations and files with the request."""

import base64
import json

import numpy as np
import pytest

from tests.conformance import models
from tests.conformance.target import not_offered

ARRAY = np.array([1, 2], np.float32)
THREADS = "intra_op_thread_count"  # which Triton's backend for ONNX knows, and others pass on
X = {"x": ("FP32", ARRAY)}
CONFIG = {
    "max_batch_size": 0,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}],
}


@pytest.fixture(autouse=True)
def offered(target):
    target.extension("model_repository")


def _index(client, **options):
    answer = client.call("get_model_repository_index", **options)
    return answer if client.is_http else answer["models"]


def test_the_index_has_every_model(client, target):
    target.needs("identity_fp32")
    (found,) = [model for model in _index(client) if model["name"] == "identity_fp32"]
    assert (found["version"], found["state"]) == ("1", "READY")


def test_the_index_has_every_version(client, target):
    target.needs("versions")
    states = {m["version"]: m["state"] for m in _index(client) if m["name"] == "versions"}
    assert states == {"1": "READY", "3": "READY"}


def test_only_what_is_ready(target):
    status, index = target.json("POST", "/v2/repository/index", {"ready": True})
    assert status == 200
    assert index
    assert {model.get("state") for model in index} == {"READY"}


@pytest.fixture
def spare(target):
    """A model that may be unloaded; loaded again after the check."""
    target.needs("spare")
    status, answer = target.json("POST", "/v2/repository/models/spare/load", {})
    if status != 200:
        not_offered(f"loading of models ({answer['error']})")
    yield "spare"
    status, answer = target.json("POST", "/v2/repository/models/spare/load", {})
    assert status == 200, answer


def _state(client, name):
    return [(m.get("version"), m.get("state"), m.get("reason")) for m in _index(client) if m["name"] == name]


def test_unload_and_load(client, target, spare):
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 1)
    client.call("unload_model", spare)
    _until_gone(client, spare)
    status, message = client.error("infer", spare, X)
    assert status in target.codes(503, 400, 404), message
    client.call("load_model", spare)
    assert client.call("is_model_ready", spare)
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 1)


def _until_gone(client, name):
    for _ in range(2000):  # an unload answers before its last request has been answered
        states = {state for _, state, _ in _state(client, name)}
        if states <= {"UNAVAILABLE"}:
            return
    raise AssertionError(f"{name} is still {states}")


def test_loading_again_changes_nothing(client, spare):
    client.call("load_model", spare)
    client.call("load_model", spare)
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 1)


def test_loading_what_is_not_there(client, target, spare):
    status, message = client.error("load_model", "no_such_model")
    assert status in target.codes(404, 400, 500), message
    assert "no_such_model" in message
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 1)


def test_a_name_is_no_path(client, target, spare):
    status, message = client.error("load_model", "..")
    assert status in target.codes(404, 400, 500), message


@pytest.mark.parametrize("name", ["../spare", "/etc", "spare/../spare"])
def test_a_name_is_no_path_over_grpc(grpc_client, target, spare, name):
    status, message = grpc_client.error("load_model", name)
    assert status in target.codes(404, 400, 500), message


def _config(target):
    target.extension("model_configuration")
    return target.json("GET", "/v2/models/spare/config")[1]


def test_a_configuration_with_the_request(client, target, spare):
    """It takes the place of the repository's, until the model is unloaded and loaded without one."""
    config = _config(target) | {"parameters": {THREADS: {"string_value": "1"}}}
    client.call("load_model", spare, config=json.dumps(config))
    assert _config(target)["parameters"][THREADS] == {"string_value": "1"}
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 1)
    client.call("unload_model", spare)
    _until_gone(client, spare)
    client.call("load_model", spare)
    assert THREADS not in _config(target).get("parameters", {})


@pytest.mark.parametrize("wrong", ["{", '{"backend": "no_such_backend"}', '{"max_batch_size": "many"}'])
def test_a_configuration_that_does_not_fit(client, target, spare, wrong):
    """The load fails, and what was served is served on."""
    status, message = client.error("load_model", spare, config=wrong)
    assert status in target.refused, message
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 1)


def test_files_with_the_request(client, spare):
    """Whole models: the repository's own files are not looked at, and nothing is written there."""
    config = json.dumps(CONFIG | {"backend": "onnxruntime"})
    try:
        client.call("load_model", spare, config=config, files={"file:1/model.onnx": models.added(5)})
    except Exception as error:
        if "onnxruntime" in str(error):
            not_offered("a backend for ONNX")
        raise
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 5)
    client.call("load_model", spare)
    np.testing.assert_array_equal(client.infer(spare, X).as_numpy("y"), ARRAY + 1)


def test_files_need_a_configuration(target, spare):
    content = base64.b64encode(models.added(5)).decode()
    body = {"parameters": {"file:1/model.onnx": content}}
    status, answer = target.json("POST", f"/v2/repository/models/{spare}/load", body)
    assert status in target.refused, answer


def test_files_that_are_no_base64(target, spare):
    body = {"parameters": {"config": json.dumps(CONFIG), "file:1/model.onnx": "?"}}
    status, answer = target.json("POST", f"/v2/repository/models/{spare}/load", body)
    assert status in target.refused, answer


@pytest.mark.parametrize("name", ["file:../../evil", "file:1/../../../evil", "file:/tmp/evil"])
def test_a_files_name_leads_nowhere(target, spare, name):
    content = base64.b64encode(b"x").decode()
    body = {"parameters": {"config": json.dumps(CONFIG), name: content}}
    status, answer = target.json("POST", f"/v2/repository/models/{spare}/load", body)
    assert status in target.refused, answer
    status, answer = target.json("POST", f"/v2/repository/models/{spare}/load", {})
    assert status == 200, answer


def test_an_unknown_parameter(target, spare):
    body = {"parameters": {"nothing": "x"}}
    status, answer = target.json("POST", f"/v2/repository/models/{spare}/load", body)
    assert status in target.refused, answer
