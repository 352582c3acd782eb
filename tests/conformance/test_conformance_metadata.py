"""Server and model metadata, configuration, and the routes that lead there."""

import json

import pytest

EXTENSIONS = {
    "binary_tensor_data",
    "classification",
    "cuda_shared_memory",
    "generate",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
    "system_shared_memory",
    "trace",
}


def test_server_metadata(client):
    metadata = client.call("get_server_metadata")
    assert set(metadata) == {"name", "version", "extensions"}
    assert metadata["name"]
    assert metadata["version"]
    assert set(metadata["extensions"]) <= EXTENSIONS, "no extension of the protocol"


@pytest.mark.parametrize("version", ["", "1"])
def test_model_metadata(client, target, version):
    target.needs("sums")
    metadata = client.call("get_model_metadata", "sums", version)
    assert metadata["name"] == "sums"
    assert metadata["versions"] == ["1"]
    assert metadata["platform"]
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]}
    assert inputs == {"a": ("INT32", [-1, -1]), "b": ("INT32", [-1, -1])}
    assert {tensor["name"] for tensor in metadata["outputs"]} == {"sum", "difference"}


def test_a_batched_model_shows_its_batch_dimension(client, target):
    target.needs("batched")
    metadata = client.call("get_model_metadata", "batched")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]


def test_every_served_version_is_listed(client, target):
    target.needs("versions")
    assert sorted(client.call("get_model_metadata", "versions")["versions"]) == ["1", "3"]


@pytest.mark.parametrize("version", ["", "1"])
def test_model_configuration(client, target, version):
    target.extension("model_configuration")
    target.needs("batched")
    answer = client.call("get_model_config", "batched", version)
    config = answer if client.is_http else answer["config"]
    assert config["name"] == "batched"
    assert config["max_batch_size"] == 8
    (given,) = config["input"]
    assert (given["name"], given["data_type"], given["dims"]) == ("x", "TYPE_FP32", [4])
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert "dynamic_batching" in config


def test_a_configuration_is_derived_where_there_is_none(client, target):
    target.extension("model_configuration")
    target.needs("sums")
    answer = client.call("get_model_config", "sums")
    config = answer if client.is_http else answer["config"]
    assert {tensor["name"]: tensor["data_type"] for tensor in config["input"]} == {
        "a": "TYPE_INT32",
        "b": "TYPE_INT32",
    }


def test_metadata_of_what_is_not_there(client):
    status, message = client.error("get_model_metadata", "no_such_model")
    assert status == 404, message
    assert "no_such_model" in message


def test_metadata_of_a_version_that_is_not_there(client, target):
    target.needs("identity_fp32")
    status, message = client.error("get_model_metadata", "identity_fp32", "99")
    assert status == 404, message


@pytest.mark.parametrize(
    "path",
    [
        "/v2/nothing",
        "/v2/models/identity_fp32/nothing",
        "/v2/models/identity_fp32/versions/one",
        "/v2/models/identity_fp32/versions/-1/ready",
        "/nothing",
    ],
)
def test_there_is_nothing_at_other_paths(target, path):
    assert target.request("GET", path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2"),
        ("POST", "/v2/models/identity_fp32"),
        ("GET", "/v2/models/identity_fp32/infer"),
        ("POST", "/v2/models/identity_fp32/stats"),
        ("GET", "/v2/repository/index"),
    ],
)
def test_a_wrong_method(target, method, path):
    target.needs("identity_fp32")
    assert target.request(method, path, b"" if method == "POST" else None)[0] == 405


def test_json_says_that_it_is(target):
    for path in ("/v2", "/v2/models/stats"):
        status, headers, body = target.request("GET", path)
        assert (status, headers["content-type"].partition(";")[0]) == (200, "application/json")
        assert json.loads(body)
