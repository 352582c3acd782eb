"""Who may connect to pods, and what becomes of the policies when they are not wanted any more."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from capstan_operator.core import drift
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Observed, Plan, Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ON = Settings(agent_image="agent:1", serving_image="serving:1")
OFF = replace(ON, network_policies=False)
SPECS: dict[str, dict[str, Any]] = {
    "TrainingJob": {"framework": "pytorch", "image": "train:1", "replicas": 2},
    "InferenceService": {"model": {"uri": "pvc://models/one.onnx"}},
}


def resource(kind: str, **metadata: Any) -> dict[str, Any]:
    named = {"name": "one", "namespace": "ns", "uid": "u", "generation": 1, **metadata}
    return {"apiVersion": "capstan.dev/v1alpha1", "kind": kind, "metadata": named, "spec": SPECS[kind]}


def planned(owner: dict[str, Any], settings: Settings, *children: dict[str, Any]) -> Plan:
    (kind,) = [found for found in KINDS if found.kind == owner["kind"]]
    return kind.plan(owner, Observed(children), NOW, settings)


def policy(kind: str) -> dict[str, Any]:
    first = planned(resource(kind), ON).apply[0]
    assert first["kind"] == "NetworkPolicy", "it is there before any pod"
    return first


def pod_labels(kind: str) -> dict[str, Any]:
    (controller,) = [
        child for child in planned(resource(kind), ON).apply if child["kind"] in {"Job", "Deployment"}
    ]
    labels: dict[str, Any] = controller["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("kind", SPECS)
def test_it_is_about_the_resources_own_pods(kind: str) -> None:
    spec = policy(kind)["spec"]
    assert spec["podSelector"]["matchLabels"].items() <= pod_labels(kind).items()
    assert spec["policyTypes"] == ["Ingress"]


def test_a_gang_is_reached_by_itself_and_its_metrics_by_all() -> None:
    gang, metrics = policy("TrainingJob")["spec"]["ingress"]
    (peers,) = gang["from"]
    assert peers["podSelector"]["matchLabels"].items() <= pod_labels("TrainingJob").items()
    assert peers["podSelector"]["matchLabels"]["capstan.dev/name"] == "one"
    assert "namespaceSelector" not in peers, "of this namespace"
    assert metrics == {"ports": [{"port": 8003, "protocol": "TCP"}]}


def test_a_server_is_reached_where_it_answers() -> None:
    (rule,) = policy("InferenceService")["spec"]["ingress"]
    assert [entry["port"] for entry in rule["ports"]] == [8000, 8001, 8002]
    assert "from" not in rule


@pytest.mark.parametrize("kind", SPECS)
def test_policies_that_are_not_wanted_are_pruned(kind: str) -> None:
    live = policy(kind)
    live["metadata"]["uid"] = "p"
    off = planned(resource(kind), OFF, live)
    assert [ref.uid for ref in off.delete] == ["p"]
    assert "NetworkPolicy" not in {child["kind"] for child in off.apply}
    assert planned(resource(kind), ON, live).delete == ()
    going = {**live, "metadata": {**live["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert planned(resource(kind), OFF, going).delete == ()
    ending = resource(kind, deletionTimestamp="2026-01-01T00:00:00Z")
    assert planned(ending, OFF, live).delete == (), "garbage collection takes it"


def test_a_finished_job_keeps_its_policy_until_none_is_wanted() -> None:
    live = policy("TrainingJob")
    done = resource("TrainingJob") | {"status": {"phase": "Succeeded", "attempt": 1}}
    assert (planned(done, ON, live).apply, planned(done, ON, live).delete) == ((), ())
    assert [ref.kind for ref in planned(done, OFF, live).delete] == ["NetworkPolicy"]


def test_a_policy_that_was_opened_is_closed_again() -> None:
    wanted = policy("InferenceService")
    opened = {**wanted, "spec": {**wanted["spec"], "ingress": [*wanted["spec"]["ingress"], {}]}}
    assert drift.differs(opened, wanted)
    assert not drift.differs({**wanted, "status": {}}, wanted)
