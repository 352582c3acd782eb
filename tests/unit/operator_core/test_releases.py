"""What becomes of what runs when the operator is replaced by a newer or an older release of itself."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from capstan_operator.core import drift
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Manifest, Observed, Plan, Settings
from capstan_operator.core.origin import Origin
from capstan_operator.core.runtimes import capstan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLDER = Settings(agent_image="agent:1", serving_image="serving:1")
NEWER = Settings(agent_image="agent:2", serving_image="serving:2")
MADE_FROM, SPEC_HASH = "capstan.dev/made-from", "capstan.dev/spec-hash"
JOB = {"framework": "custom", "image": "i", "command": ["train"], "replicas": 2}
SERVICE = {"model": {"uri": "pvc://models/m.onnx"}}


class Cluster:
    """One resource and its children; everything that is applied is ready at once."""

    def __init__(self, kind: str, spec: Manifest) -> None:
        self.kind = next(k for k in KINDS if k.kind == kind)
        self.children: dict[tuple[str, str], Manifest] = {}
        metadata: Manifest = {"name": "digits", "namespace": "ns", "uid": "uid-owner", "generation": 1}
        self.resource: Manifest = {
            "apiVersion": "capstan.dev/v1alpha1",
            "kind": kind,
            "metadata": metadata,
            "spec": copy.deepcopy(spec),
        }

    def asks(self, **spec: Any) -> None:
        self.resource["spec"] |= spec
        self.resource["metadata"]["generation"] += 1

    def step(self, settings: Settings) -> Plan:
        seen = Observed(tuple(copy.deepcopy(list(self.children.values()))))
        plan = self.kind.plan(copy.deepcopy(self.resource), seen, NOW, settings)
        self.resource["status"] = plan.status
        for child in plan.apply:
            key = (child["kind"], child["metadata"]["name"])
            live = self.children.get(key)
            if live is None or drift.differs(live, child):
                self.children[key] = live_from(child, live)
        for ref in plan.delete:
            self.children.pop((ref.kind, ref.name), None)
        return plan

    def settle(self, settings: Settings) -> None:
        for _ in range(4):
            self.step(settings)

    def of(self, kind: str) -> list[Manifest]:
        return [child for (k, _), child in sorted(self.children.items()) if k == kind]

    @property
    def stable(self) -> str:
        return str(self.resource["status"]["revisions"]["stable"]["hash"])


def live_from(child: Manifest, live: Manifest | None) -> Manifest:
    """What the API server stores: server-side apply, by the one manager of all of it, then the defaults."""
    stored = copy.deepcopy(child)
    before = live["metadata"] if live else {"uid": f"uid-{child['metadata']['name']}", "generation": 1}
    stored["metadata"] |= {"uid": before["uid"], "generation": before["generation"]}
    if child["kind"] == "Deployment":
        stored["status"] = {"observedGeneration": 9, "updatedReplicas": 9, "readyReplicas": 1}
    if "template" in stored["spec"]:
        stored["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    return stored


def images(controller: Manifest) -> set[str]:
    pod = controller["spec"]["template"]["spec"]
    return {c["image"] for c in [*pod["initContainers"], *pod["containers"]]}


def made_by_0_1_0(child: Manifest, **annotations: str) -> None:
    found = child["metadata"]["annotations"]
    found.pop(MADE_FROM)
    found |= annotations


@pytest.fixture
def more_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that renders a server with one variable more."""
    before = capstan.server
    monkeypatch.setattr(
        capstan, "server", lambda *args: before(*args) | {"env": [{"name": "NEW", "value": "1"}]}
    )


def served(settings: Settings = OLDER) -> Cluster:
    cluster = Cluster("InferenceService", SERVICE)
    cluster.settle(settings)
    assert cluster.resource["status"]["phase"] == "Ready"
    return cluster


def unchanged(cluster: Cluster, settings: Settings) -> None:
    """Assert that a release leaves what answers alone, says so, and comes to rest."""
    before, stable = [d["spec"] for d in cluster.of("Deployment")], cluster.stable
    cluster.settle(settings)
    assert [d["spec"] for d in cluster.of("Deployment")] == before
    assert cluster.stable == stable
    assert cluster.resource["status"]["phase"] == "Ready"
    assert "candidate" not in cluster.resource["status"]["revisions"]
    rest = copy.deepcopy(cluster.children)
    assert not cluster.step(settings).decision
    assert cluster.children == rest


def test_a_release_with_other_images_makes_no_revision() -> None:
    unchanged(served(), NEWER)


@pytest.mark.usefixtures("more_is_rendered")
def test_a_release_that_renders_more_makes_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = served()
    monkeypatch.undo()
    unchanged(cluster, OLDER)


def test_what_0_1_0_made_is_adopted() -> None:
    cluster = served()
    made_by_0_1_0(cluster.of("Deployment")[0])
    unchanged(cluster, NEWER)
    assert cluster.of("Deployment")[0]["metadata"]["annotations"][MADE_FROM]


@pytest.mark.parametrize("how", ["spec", "invalid", "candidate", "model", "refresh"])
def test_what_0_1_0_made_of_another_spec_is_not_adopted(how: str) -> None:
    cluster = served()
    made_by_0_1_0(cluster.of("Deployment")[0])
    status = cluster.resource["status"]
    match how:
        case "spec":
            cluster.asks(resources={"limits": {"memory": "1Gi"}})
        case "invalid":
            status["conditions"][0] |= {"status": "False", "reason": "InvalidSpec"}
        case "candidate":
            status["revisions"]["candidate"] = {"hash": "other", "ready": 0}
        case "model":
            status["model"]["uri"] = "pvc://models/other.onnx"
        case "refresh":
            cluster.resource["metadata"]["annotations"] = {"capstan.dev/refresh": "1"}
    before = cluster.stable
    cluster.settle(NEWER)
    assert cluster.stable != before


def test_a_changed_spec_is_served_by_the_new_releases_images() -> None:
    cluster = served()
    cluster.settle(NEWER)
    cluster.asks(resources={"limits": {"memory": "1Gi"}})
    cluster.settle(NEWER)
    (deployment,) = cluster.of("Deployment")
    assert images(deployment) == {"agent:2", "serving:2"}


def test_scaling_is_no_change_of_a_revision() -> None:
    cluster = served()
    cluster.settle(NEWER)
    cluster.asks(replicas={"min": 3})
    cluster.settle(NEWER)
    (deployment,) = cluster.of("Deployment")
    assert images(deployment) == {"agent:1", "serving:1"}
    assert deployment["spec"]["replicas"] == 3


def test_a_refresh_brings_a_revision_up_to_the_release_once() -> None:
    cluster = served()
    cluster.settle(NEWER)
    old = cluster.stable
    cluster.resource["metadata"]["annotations"] = {"capstan.dev/refresh": "now"}
    cluster.settle(NEWER)
    assert cluster.stable != old
    assert images(cluster.of("Deployment")[0]) == {"agent:2", "serving:2"}
    cluster.resource["metadata"]["annotations"] = {"capstan.dev/refresh": "again"}
    unchanged(cluster, NEWER)


def test_a_hand_on_a_template_of_this_release_is_undone() -> None:
    cluster = served()
    deployment = cluster.of("Deployment")[0]
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "mine"
    cluster.settle(OLDER)
    assert images(cluster.of("Deployment")[0]) == {"agent:1", "serving:1"}


def test_a_revision_that_is_not_in_use_yet_is_made_as_the_new_release_makes_it() -> None:
    cluster = served()
    cluster.asks(resources={"limits": {"memory": "1Gi"}})
    cluster.step(OLDER)
    assert len(cluster.of("Deployment")) == 2
    cluster.settle(NEWER)
    assert [images(d) for d in cluster.of("Deployment")] == [{"agent:2", "serving:2"}]


def trained(settings: Settings = OLDER, **more: Any) -> Cluster:
    cluster = Cluster("TrainingJob", JOB | more)
    cluster.settle(settings)
    return cluster


def still_running(cluster: Cluster, settings: Settings) -> None:
    (before,) = cluster.of("Job")
    before = copy.deepcopy(before)
    for _ in range(4):
        assert not cluster.step(settings).decision
    (after,) = cluster.of("Job")
    assert after["spec"] == before["spec"]
    assert cluster.resource["status"]["attempt"] == 1


def test_no_release_restarts_a_job() -> None:
    still_running(trained(), NEWER)


def test_an_older_crd_that_cuts_a_field_off_restarts_no_job() -> None:
    cluster = trained(workingDir="/work")
    del cluster.resource["spec"]["workingDir"]
    still_running(cluster, OLDER)
    cluster.asks(workingDir="/work")
    still_running(cluster, NEWER)
    cluster.asks(workingDir="/other")
    assert cluster.step(NEWER).decision


def test_a_job_of_0_1_0_is_restarted_by_a_changed_spec_alone() -> None:
    cluster = trained()
    made_by_0_1_0(cluster.of("Job")[0], **{SPEC_HASH: "of-fields-that-0.1.0-knew"})
    still_running(copy.deepcopy(cluster), NEWER)
    cluster.asks(replicas=3)
    assert cluster.step(NEWER).decision


def test_what_0_1_0_could_make_no_sense_of_it_has_not_acted_upon() -> None:
    cluster = trained()
    made_by_0_1_0(cluster.of("Job")[0], **{SPEC_HASH: "of-fields-that-0.1.0-knew"})
    cluster.asks(replicas=3)
    invalid = {"type": "Ready", "status": "False", "reason": "InvalidSpec"}
    cluster.resource["status"] |= {"observedGeneration": 2, "conditions": [invalid]}
    assert cluster.step(NEWER).decision


def test_0_1_0_finds_nothing_to_compare_on_a_job_and_so_leaves_it() -> None:
    assert SPEC_HASH not in trained().of("Job")[0]["metadata"]["annotations"]


def test_an_origin_is_the_same_by_generation_or_by_spec_and_by_all_else() -> None:
    origin = Origin(3, "aa", "bb")
    assert str(origin) == "3-aa-bb"
    assert origin.same("3-aa-bb")
    assert origin.same("3-cut-bb")
    assert origin.same("2-aa-bb")
    assert not origin.same("2-cut-bb")
    assert not origin.same("3-aa-other")
    assert not origin.same("3-aa")
    assert not origin.same("garbage")
    assert Origin(3, "aa").same("3-aa")


def test_the_first_origin_of_a_generation_is_kept() -> None:
    live = {"metadata": {"annotations": {MADE_FROM: "3-uncut-bb"}}}
    assert Origin(3, "cut", "bb").recorded(live) == "3-uncut-bb"
    assert Origin(4, "uncut", "bb").recorded(live) == "4-uncut-bb"
    assert Origin(3, "cut", "other").recorded(live) == "3-cut-other"
    assert Origin(3, "aa").recorded(None) == "3-aa"
