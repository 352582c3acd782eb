"""The CRDs are structural, current, and say the same as the models; the samples fit them."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from capstan_operator.api.crd import crds, schema
from capstan_operator.api.inference_service import InferenceService
from capstan_operator.api.reference import reference
from capstan_operator.api.training_job import TrainingJob
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
KINDS = {"TrainingJob": TrainingJob, "InferenceService": InferenceService}
TRAINING = {"framework": "pytorch", "image": "img"}


def nodes(schema: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """All schemas inside a schema, with their paths."""
    found = [(path, schema)]
    for name, field in schema.get("properties", {}).items():
        found += nodes(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            found += nodes(schema[inner], f"{path}[]")
    return found


def all_nodes() -> list[tuple[str, dict[str, Any]]]:
    roots = [
        (crd["spec"]["names"]["kind"], crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        for crd in crds()
    ]
    return [node for kind, root in roots for node in nodes(root, kind)]


@pytest.mark.parametrize("crd", crds(), ids=lambda crd: crd["metadata"]["name"])
def test_the_committed_crds_are_current(crd: dict[str, Any]) -> None:
    committed = (ROOT / "manifests" / "crds" / f"{crd['metadata']['name']}.yaml").read_text()
    assert yaml.safe_load(committed) == crd, "run make generate"


def test_the_committed_reference_is_current() -> None:
    assert (ROOT / "docs" / "api.md").read_text() == reference(), "run make generate"


def test_schemas_are_structural() -> None:
    for path, node in all_nodes():
        assert not {"$ref", "anyOf", "oneOf", "title", "const", "$defs", "propertyNames"} & set(node), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        if node.get("type") == "object" and path.count("."):
            assert (
                "properties" in node
                or node.get("x-kubernetes-preserve-unknown-fields")
                or "additionalProperties" in node
                or path.endswith(".metadata")
            ), path


def test_every_field_explains_itself() -> None:
    silent = [
        path
        for path, node in all_nodes()
        if not node.get("description") and not re.search(r"(\[\]|\.metadata)$", path)
    ]
    assert silent == []


def test_what_rules_look_at_is_bounded() -> None:
    """The API server estimates what a rule may cost from the largest object that fits the schema."""
    for path, node in all_nodes():
        if ".status" in path:
            continue
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and "enum" not in node and path.count(".") > 1:
            assert "maxLength" in node, path


def test_defaults_reach_what_is_left_out() -> None:
    spec = schema(InferenceService)["properties"]["spec"]["properties"]
    assert spec["replicas"]["default"] == {"min": 1}
    assert spec["runtime"]["default"] == {"name": "capstan"}


def test_lists_that_are_maps_say_so() -> None:
    status = schema(TrainingJob)["properties"]["status"]["properties"]
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_the_samples_fit(path: Path) -> None:
    documents = [doc for doc in yaml.safe_load_all(path.read_text()) if doc["kind"] in KINDS]
    assert documents
    for document in documents:
        model = KINDS[document["kind"]]
        jsonschema.validate(document, schema(model) | {"additionalProperties": True})
        model.model_validate({"spec": document["spec"]})


DIGEST = "sha256:" + "0" * 64


def with_data(*items: dict[str, Any]) -> dict[str, Any]:
    return {**TRAINING, "data": list(items)}


def item(name: str = "a", uri: str = "s3://b/c", path: str = "/data", **more: Any) -> dict[str, Any]:
    return {"name": name, "uri": uri, "mountPath": path, **more}


@pytest.mark.parametrize(
    "uri",
    [
        "pvc://models/resnet/model.onnx",
        "s3://bucket.of-mine/date=2026-01-01/model.onnx",
        "s3://bucket/folder/",
        "gs://bucket_1/model.onnx",
        "az://container/model.onnx",
        "hf://acme/bert",
        "hf://acme/bert@v1.0/onnx/model.onnx",
        "hf://datasets/acme/digits@main/train.csv",
        "https://example.com/",
        "https://example.com:8443/a/.hidden/b%20c/model.onnx?X-Signature=a%2Fb&x=1.5",
    ],
)
def test_what_can_be_fetched(uri: str) -> None:
    InferenceService.model_validate({"spec": {"model": {"uri": uri}}})
    TrainingJob.model_validate({"spec": with_data(item(uri=uri))})


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "http://example.com/model.onnx",
        "ftp://example.com/model.onnx",
        "https://user:password@example.com/model.onnx",
        "https://token@example.com/model.onnx",
        "https://user:443@example.com/",
        "https://example.com",
        "https:///model.onnx",
        "https://example.com/a/../b",
        "https://example.com/..",
        "https://example.com/a?b=../c",
        "https://example.com/a b",
        "https://example.com/a\n",
        "https://example.com/$(TOKEN)",
        "https://example.com/a#b",
        "s3://bucket",
        "s3://bucket/a/../b",
        "s3://bucket//a",
        "s3://key:secret@bucket/a",
        "s3://bucket/a\x00",
        "s3://bucket/$(AWS_SECRET_ACCESS_KEY)",
        "hf://bert",
        "S3://bucket/a",
        " s3://bucket/a",
        "s3://bucket/a\ns3://bucket/b",
    ],
)
def test_what_cannot_be_fetched(uri: str) -> None:
    for kind, spec in (
        ("InferenceService", {"model": {"uri": uri}}),
        ("TrainingJob", with_data(item(uri=uri))),
    ):
        with pytest.raises(ValidationError, match=r"s3://<bucket>/<path>.*credentials"):
            KINDS[kind].model_validate({"spec": spec})


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("TrainingJob", {"framework": "pytroch", "image": "i"}, "framework"),
    ("TrainingJob", {**TRAINING, "replicas": "two"}, "replicas"),
    ("TrainingJob", {**TRAINING, "replicas": 0}, "greater than or equal to 1"),
    ("TrainingJob", {**TRAINING, "replicas": True}, "replicas"),
    ("TrainingJob", {**TRAINING, "relpicas": 2}, "relpicas"),
    ("TrainingJob", {**TRAINING, "command": []}, "command"),
    ("TrainingJob", {**TRAINING, "output": {"uri": "s3://bucket/model"}}, "pvc://<claim>/<path>"),
    ("TrainingJob", {**TRAINING, "output": {"uri": "pvc://claim/../../etc"}}, "pvc://<claim>/<path>"),
    ("TrainingJob", {**TRAINING, "output": {"uri": "pvc://claim"}}, "pvc://<claim>/<path>"),
    ("TrainingJob", {**TRAINING, "output": {"uri": "pvc://claim//x"}}, "pvc://<claim>/<path>"),
    ("TrainingJob", {**TRAINING, "output": {"uri": "pvc://claim/x\n"}}, "pvc://<claim>/<path>"),
    ("TrainingJob", {**TRAINING, "checkpoint": {"uri": "pvc://a/b", "gracePeriod": "5 minutes"}}, "90s"),
    ("TrainingJob", {**TRAINING, "accelerator": {"type": "amd-mi300x"}}, "amd.com/gpu"),
    ("TrainingJob", {**TRAINING, "accelerator": {"resource": "gpu"}}, "nvidia.com/gpu"),
    (
        "TrainingJob",
        {**TRAINING, "accelerator": {}, "resources": {"limits": {"nvidia.com/gpu": 2}}},
        "accelerator.count only",
    ),
    ("TrainingJob", {**TRAINING, "env": [{"name": "A", "value": "1", "valueFrom": {}}]}, "not both"),
    ("TrainingJob", {**TRAINING, "activeDeadline": "forever"}, "90s"),
    ("TrainingJob", {**TRAINING, "successPolicy": {"replica": 1}}, "less than replicas"),
    (
        "TrainingJob",
        {**TRAINING, "replicas": 2, "successPolicy": {"replica": 1}, "output": {"uri": "pvc://a/b"}},
        "replica 0 writes the output",
    ),
    ("TrainingJob", {**TRAINING, "priorityClassName": "Urgent"}, "the name of a PriorityClass"),
    ("TrainingJob", {**TRAINING, "managedBy": "somebody"}, "a path with a domain"),
    ("TrainingJob", {**TRAINING, "failurePolicy": {"user": {"maxRestarts": -1}}}, "maxRestarts"),
    ("TrainingJob", {**TRAINING, "failurePolicy": {"hang": {}}}, "maxRestarts"),
    ("TrainingJob", {**TRAINING, "processesPerReplica": "many"}, "processesPerReplica"),
    ("TrainingJob", with_data(item(), item(path="/other")), "one name"),
    ("TrainingJob", with_data(item(), item("b")), "folder of its own"),
    ("TrainingJob", with_data(item(), item("b", path="/data/b")), "folder of its own"),
    ("TrainingJob", with_data(item("A")), "lower-case"),
    ("TrainingJob", with_data(item("a" * 41)), "at most 40"),
    ("TrainingJob", with_data(item(path="data")), "absolute path"),
    ("TrainingJob", with_data(item(path="/")), "absolute path"),
    ("TrainingJob", with_data(item(path="/data/")), "absolute path"),
    ("TrainingJob", with_data(item(path="/data/../etc")), "absolute path"),
    ("TrainingJob", with_data(item(path="/data:x")), "absolute path"),
    ("TrainingJob", with_data(item(path="/var")), "must not be in /dev"),
    ("TrainingJob", with_data(item(path="/dev/shm")), "must not be in /dev"),
    ("TrainingJob", with_data(item(path="/var/run/capstan/agent")), "must not be in /dev"),
    ("TrainingJob", with_data(item(path="/run/capstan")), "must not be in /dev"),
    ("TrainingJob", with_data(item(uri="pvc://a/b", digest=DIGEST)), "mounted as it is"),
    (
        "TrainingJob",
        with_data(item(uri="pvc://a/b", credentials={"secretRef": {"name": "s"}})),
        "mounted as it is",
    ),
    ("TrainingJob", with_data(item(credentials={"secretRef": {"name": "Not_One"}})), "name of a Secret"),
    (
        "InferenceService",
        {"model": {"uri": "pvc://a/b", "credentials": {"secretRef": {"name": "s"}}}},
        "leave out credentials",
    ),
    (
        "InferenceService",
        {"model": {"fromTrainingJob": {"name": "a"}, "credentials": {"secretRef": {"name": "s"}}}},
        "leave out credentials",
    ),
    ("InferenceService", {}, "model"),
    ("InferenceService", {"model": {}}, "exactly one of uri and fromTrainingJob"),
    ("InferenceService", {"model": {"uri": "pvc://a/b", "fromTrainingJob": {"name": "a"}}}, "exactly one"),
    ("InferenceService", {"model": {"uri": "pvc://a/b", "digest": "md5:1"}}, "sha256"),
    ("InferenceService", {"model": {"uri": "pvc://a/b", "version": "v3"}}, "whole number"),
    ("InferenceService", {"model": {"uri": "pvc://a/b", "name": "../x"}}, "letters"),
    ("InferenceService", {"model": {"fromTrainingJob": {"name": "Upper"}}}, "lower-case"),
]


@pytest.mark.parametrize(("kind", "spec", "sentence"), BAD)
def test_a_bad_spec_is_refused_with_a_sentence(kind: str, spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        KINDS[kind].model_validate({"spec": spec})
    assert sentence in str(error.value)


def test_the_same_sentences_are_in_the_schema() -> None:
    """What Python says by a rule or a pattern, the API server says too."""
    said = " ".join(v["message"] for _, node in all_nodes() for v in node.get("x-kubernetes-validations", ()))
    for sentence in (
        "exactly one of uri",
        "accelerator.count only",
        "amd.com/gpu",
        "pvc://<claim>",
        "not both",
        "folder of its own",
        "must not be in /dev",
        "mounted as it is",
        "leave out credentials",
        "auto or a number",
    ):
        assert sentence in said


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"pvc://[a-z]{1,3}(/[A-Za-z0-9._-]{1,4}){1,3}/?", fullmatch=True))
def test_no_uri_that_is_taken_leaves_its_claim(uri: str) -> None:
    try:
        TrainingJob.model_validate({"spec": {**TRAINING, "output": {"uri": uri}}})
    except ValidationError:
        return
    assert not {".", "..", ""} & set(uri.removeprefix("pvc://").rstrip("/").split("/"))


@settings(max_examples=200, deadline=None)
@given(st.from_regex(r"(s3|https|hf)://[a-z.@:$ ]{1,4}(/[A-Za-z0-9._ $()@?-]{1,4}){1,3}/?", fullmatch=True))
def test_no_source_that_is_taken_leads_elsewhere(uri: str) -> None:
    try:
        InferenceService.model_validate({"spec": {"model": {"uri": uri}}})
    except ValidationError:
        return
    host, *parts = uri.partition("://")[2].partition("?")[0].split("/")
    assert not {".", ".."} & set(parts)
    assert not set(" $()\n") & set(uri)
    assert "@" not in host
