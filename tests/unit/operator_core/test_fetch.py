"""What is fetched before a program starts, and who may see with what."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Observed, Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings(agent_image="agent:1", serving_image="serving:1")
SECRET = {"secretRef": {"name": "bucket"}}


def pod(kind: str, spec: dict[str, Any], settings: Settings = SETTINGS) -> dict[str, Any]:
    (planner,) = [found for found in KINDS if found.kind == kind]
    resource = {
        "apiVersion": planner.api_version,
        "kind": kind,
        "metadata": {"name": "one", "namespace": "ns", "uid": "u", "generation": 1},
        "spec": spec,
    }
    made = planner.plan(resource, Observed(), NOW, settings).apply
    (controller,) = [child for child in made if child["kind"] in {"Job", "Deployment"}]
    template: dict[str, Any] = controller["spec"]["template"]["spec"]
    return template


def training(*data: dict[str, Any], **more: Any) -> dict[str, Any]:
    spec = {"framework": "custom", "image": "i", "command": ["run"], "data": list(data), **more}
    return pod("TrainingJob", spec)


def named(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(item for item in found if item["name"] == name)


def test_a_secret_is_seen_by_the_container_that_fetches_and_no_other() -> None:
    found = training(
        {"name": "a", "uri": "s3://b/a", "mountPath": "/a", "credentials": SECRET},
        {"name": "b", "uri": "s3://b/b", "mountPath": "/b"},
    )
    served = pod("InferenceService", {"model": {"uri": "s3://b/m.onnx", "credentials": SECRET}})
    for template, fetcher in ((found, "fetch-a"), (served, "fetch")):
        everyone = [*template["initContainers"], *template["containers"]]
        assert [c["name"] for c in everyone if "envFrom" in c] == [fetcher]
        assert named(everyone, fetcher)["envFrom"] == [SECRET]


def test_the_program_reads_what_was_fetched_and_cannot_change_it() -> None:
    found = training({"name": "train-set", "uri": "s3://b/a", "mountPath": "/data/train"})
    fetcher = named(found["initContainers"], "fetch-train-set")
    (written,) = fetcher["volumeMounts"]
    assert written["mountPath"] == fetcher["command"][fetcher["command"].index("--target") + 1]
    (trainer,) = found["containers"]
    read = named(trainer["volumeMounts"], written["name"])
    assert (read["mountPath"], read["readOnly"]) == ("/data/train", True)
    assert named(trainer["env"], "CAPSTAN_DATA_TRAIN_SET")["value"] == "/data/train"
    assert "emptyDir" in named(found["volumes"], written["name"])


def test_a_volume_is_mounted_and_not_copied() -> None:
    found = training({"name": "a", "uri": "pvc://shared/labels/", "mountPath": "/data/labels"})
    assert [c["name"] for c in found["initContainers"]] == ["capstan-agent"]
    (mount,) = [m for m in found["containers"][0]["volumeMounts"] if m["mountPath"] == "/data/labels"]
    assert (mount["subPath"], mount["readOnly"]) == ("labels", True)
    claim = named(found["volumes"], mount["name"])["persistentVolumeClaim"]
    assert claim == {"claimName": "shared", "readOnly": True}


def test_a_claim_that_is_written_to_is_attached_once() -> None:
    item = {"name": "a", "uri": "pvc://work/last", "mountPath": "/last"}
    found = training(item, output={"uri": "pvc://work/model"})
    claims = [v["persistentVolumeClaim"] for v in found["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [{"claimName": "work"}]
    (mount,) = [m for m in found["containers"][0]["volumeMounts"] if m["mountPath"] == "/last"]
    assert mount["readOnly"]


def test_without_the_runner_data_is_fetched_all_the_same() -> None:
    found = training({"name": "a", "uri": "s3://b/a", "mountPath": "/a"}, supervise=False)
    assert [c["name"] for c in found["initContainers"]] == ["fetch-a"]


def test_what_may_be_fetched_is_always_passed_on_since_a_users_secret_would_decide_it_otherwise() -> None:
    limited = replace(SETTINGS, fetch_allow=("s3", "https://*.example.com"))
    spec: dict[str, Any] = {"model": {"uri": "s3://b/m.onnx"}}
    (fetcher,) = pod("InferenceService", spec, limited)["initContainers"]
    assert fetcher["command"][-2:] == ["--allow", "s3,https://*.example.com"]
    (free,) = pod("InferenceService", spec)["initContainers"]
    assert free["command"][-2:] == ["--allow", "pvc,s3,gs,az,https,hf"]


def test_workload_identity_is_the_templates() -> None:
    spec: dict[str, Any] = {"model": {"uri": "s3://b/m.onnx"}}
    assert pod("InferenceService", spec)["automountServiceAccountToken"] is False
    identity = {"serviceAccountName": "reader", "automountServiceAccountToken": True}
    found = pod("InferenceService", {**spec, "template": {"spec": identity}})
    assert identity.items() <= found.items()
