"""What holds of every plan, whatever the resource and whatever is observed."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from capstan_operator.api.crd import schema
from capstan_operator.api.inference_service import InferenceService
from capstan_operator.api.training_job import TrainingJob
from capstan_operator.core import drift
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Kind, Manifest, Observed, Plan, Settings
from hypothesis import assume, given
from hypothesis import strategies as st

AT = "2026-01-01T00:00:00Z"
NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
SETTINGS = Settings(agent_image="agent:1", serving_image="serving:1")
BY_KIND: dict[str, Kind] = {kind.kind: kind for kind in KINDS}
STATUSES = {
    model.__name__: jsonschema.Draft202012Validator(schema(model)["properties"]["status"])
    for model in (TrainingJob, InferenceService)
}
DIGEST = "sha256:" + "0" * 64

names = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
uris = st.sampled_from(["pvc://a/b", "pvc://models/x/y.onnx", "pvc://a.b-c/d/"])
quantities = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/mig-1g.10gb"]),
    st.sampled_from(["1", 2, "500m", "1Gi"]),
    max_size=2,
)
accelerators = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["nvidia-a100", "nvidia-l4", "testium-9000"]),
        "count": st.integers(1, 8),
        "resource": st.sampled_from(["nvidia.com/gpu", "acme.example/npu"]),
    },
)
templates = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {"labels": st.dictionaries(st.sampled_from(["a", "capstan.dev/name"]), st.just("x"))}
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "restartPolicy": st.just("Always"),
                "nodeSelector": st.dictionaries(st.just("zone"), st.just("a")),
                "containers": st.just(
                    [{"name": "trainer", "env": [{"name": "X", "value": ""}]}, {"name": "server"}]
                ),
                "volumes": st.just([{"name": "shm", "emptyDir": {}}]),
                "affinity": garbage,
                "tolerations": garbage,
            },
        ),
    },
)
common: dict[str, st.SearchStrategy[Any]] = {
    "accelerator": accelerators,
    "resources": st.fixed_dictionaries({}, optional={"requests": quantities, "limits": quantities}),
    "template": templates | st.dictionaries(st.text(max_size=5), garbage, max_size=2),
}
data_items = st.builds(
    lambda name, uri: {"name": name, "uri": uri, "mountPath": f"/data/{name}"},
    names.filter(lambda name: len(name) <= 40),
    uris
    | st.sampled_from(["s3://bucket/folder/", "https://example.com/train.csv?x=1", "hf://acme/digits@main"]),
)
training_specs = st.fixed_dictionaries(
    {"framework": st.sampled_from(["pytorch", "custom"]), "image": st.just("img:1")},
    optional={
        "command": st.lists(st.text(max_size=5), min_size=1, max_size=3),
        "args": st.lists(st.text(max_size=5), max_size=3),
        "env": st.just([{"name": "A", "value": "1"}, {"name": "PET_NNODES", "value": "9"}]),
        "replicas": st.integers(1, 4),
        "processesPerReplica": st.just("auto") | st.integers(1, 8),
        "checkpoint": st.fixed_dictionaries(
            {"uri": uris}, optional={"gracePeriod": st.sampled_from(["0s", "1m30s", "1.5h"])}
        ),
        "output": st.fixed_dictionaries({"uri": uris}),
        "data": st.lists(data_items, max_size=4, unique_by=lambda item: item["name"]),
        "supervise": st.booleans(),
        "suspend": st.booleans(),
        "successPolicy": st.just({"replica": 0}),
        "priorityClassName": st.just("urgent"),
        "startupDeadline": st.sampled_from(["0s", "2m", "1h"]),
        "activeDeadline": st.sampled_from(["5m", "1h"]),
        "ttlAfterFinished": st.sampled_from(["0s", "1h"]),
        "failurePolicy": st.fixed_dictionaries(
            {},
            optional={
                "user": st.fixed_dictionaries({"maxRestarts": st.integers(0, 2)}),
                "outOfMemory": st.just({"maxRestarts": 2, "env": [{"name": "A", "value": "2"}]}),
                "infrastructure": st.fixed_dictionaries({"maxRestarts": st.integers(0, 9)}),
            },
        ),
        **common,
    },
)
serving_specs = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"uri": uris}, optional={"version": st.just("7"), "digest": st.just(DIGEST)}
        )
        | st.just({"fromTrainingJob": {"name": "job"}})
    },
    optional={
        "runtime": st.fixed_dictionaries(
            {"name": st.just("capstan")}, optional={"image": st.just("other:1")}
        ),
        "replicas": st.fixed_dictionaries({"min": st.integers(1, 3)}),
        **common,
    },
)


def resource(kind: str, name: str, spec: Any, status: Any = None) -> Manifest:
    made: Manifest = {
        "apiVersion": "capstan.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "ns", "uid": "uid-owner", "generation": 3},
        "spec": spec,
    }
    return made | ({"status": status} if status else {})


resources = st.builds(resource, st.just("TrainingJob"), names, training_specs) | st.builds(
    resource, st.just("InferenceService"), names, serving_specs
)
words = st.sampled_from(
    [
        None,
        "Killed\n",
        '{"capstan": 1, "class": "user", "exitCode": 3, "reason": "NonZeroExit", "message": "m", "log": "l"}',
        '{"capstan": 1, "class": "infrastructure", "exitCode": 143, "reason": "Terminated", "message": "m"}',
        '{"capstan": 1, "class": "user", "exitCode": 1, "reason": "ModelLoadFailed", "message": "m"}',
        '{"capstan": 1, "class": "ok", "reason": "é!", "output": {"digest": "md5:x"}}',
        "[[[[",
    ]
)
times = st.integers(-900, 0).map(lambda s: (NOW + timedelta(seconds=s)).strftime("%Y-%m-%dT%H:%M:%SZ"))
terminated = st.fixed_dictionaries(
    {"exitCode": st.sampled_from([0, 1, 137, 143]), "finishedAt": times},
    optional={
        "reason": st.sampled_from(["Error", "OOMKilled", "StartError", "ContainerStatusUnknown"]),
        "message": words,
    },
)
states = (
    st.just({"running": {}})
    | st.builds(lambda t: {"terminated": t}, terminated)
    | st.builds(
        lambda reason: {"waiting": {"reason": reason, "message": "why"}},
        st.sampled_from(
            ["ImagePullBackOff", "CrashLoopBackOff", "CreateContainerConfigError", "PodInitializing"]
        ),
    )
)
containers = st.builds(
    lambda name, ready, state, last: {
        "name": name,
        "image": "i",
        "ready": ready,
        "state": state,
        "lastState": last,
    },
    st.sampled_from(["trainer", "server", "fetch", "capstan-agent", "x"]),
    st.booleans(),
    states,
    st.just({}) | states,
)
conditions = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["PodScheduled", "Ready", "DisruptionTarget", "Complete", "Failed", "FailureTarget"]
            ),
            "status": st.sampled_from(["True", "False"]),
            "lastTransitionTime": times,
            "message": st.sampled_from(
                ["", 'persistentvolumeclaim "x" not found', "0/1 nodes: node affinity."]
            ),
        }
    ),
    max_size=2,
)
statuses = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
        "conditions": conditions,
        "containerStatuses": st.lists(containers, max_size=2),
        "initContainerStatuses": st.lists(containers, max_size=1),
        "readyReplicas": st.integers(0, 3),
        "updatedReplicas": st.integers(0, 3),
        "observedGeneration": st.integers(0, 3),
        "succeeded": st.integers(0, 3),
        "failed": st.integers(0, 3),
    },
)


def world(wanted: Manifest) -> Plan:
    """What a new resource of this kind would be given."""
    return BY_KIND[wanted["kind"]].plan(wanted, references(wanted), NOW, SETTINGS)


def references(wanted: Manifest) -> Observed:
    job = resource(
        "TrainingJob", "job", {"output": {}}, {"phase": "Succeeded", "output": {"uri": "pvc://a/b/m.onnx"}}
    )
    return Observed(references=(job,)) if wanted["kind"] == "InferenceService" else Observed()


@st.composite
def situations(draw: st.DrawFn) -> tuple[Manifest, Observed]:
    """A resource with children of its own in any state, and pods of those in any state."""
    wanted = draw(resources)
    wanted["status"] = draw(
        st.just({})
        | st.fixed_dictionaries(
            {},
            optional={
                "attempt": st.integers(1, 3),
                "phase": st.sampled_from(["Pending", "Running", "Restarting", "Suspended"]),
                "restarts": st.fixed_dictionaries(
                    {"infrastructure": st.integers(0, 3)}, optional={"outOfMemory": st.integers(1, 2)}
                ),
                "checkpoint": st.fixed_dictionaries({"step": st.integers(0, 9), "time": st.just(AT)}),
                "failedNodes": st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 3)),
                "startTime": times,
                "startingSince": times,
                "pausedSince": times,
                "pausedSeconds": st.integers(0, 900),
                "completionTime": times,
                "revisions": st.just({"stable": {"hash": "abcdef12", "ready": 1}}),
            },
        )
    )
    children: list[Manifest] = []
    for child in settled(wanted, references(wanted)).children if draw(st.integers(0, 4)) else ():
        live = {**copy.deepcopy(child), "status": draw(statuses)}
        children.append(live)
        if live["kind"] in ("Job", "Deployment"):
            children += [pod(draw, live, index) for index in range(draw(st.integers(0, 3)))]
            children += [left_over(live, number) for number in range(draw(st.integers(0, 2)))]
    return wanted, Observed(tuple(children), references(wanted).references)


def left_over(controller: Manifest, number: int) -> Manifest:
    """The Job or Deployment of an earlier attempt or revision."""
    made = copy.deepcopy(controller)
    made["metadata"] |= {"name": f"left-over-{number}", "uid": f"uid-left-over-{number}"}
    made["metadata"]["labels"] |= {"capstan.dev/attempt": "0", "capstan.dev/revision": f"old{number}"}
    return made


def pod(draw: st.DrawFn, controller: Manifest, index: int) -> Manifest:
    metadata: Manifest = {
        "name": f"{controller['metadata']['name']}-{index}",
        "namespace": "ns",
        "uid": f"{controller['metadata']['uid']}-{index}",
        "creationTimestamp": draw(times),
        "labels": controller["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": str(index)},
        "ownerReferences": [
            {"kind": controller["kind"], "uid": controller["metadata"]["uid"], "controller": True}
        ],
    }
    if draw(st.integers(0, 5)) == 0:
        metadata |= {"deletionTimestamp": draw(times), "deletionGracePeriodSeconds": 30}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": draw(statuses)}


def carried_out(before: Observed, plan: Plan) -> Observed:
    """The world after a plan: applied children are merged, deleted ones gone with their pods."""
    found = {(c["kind"], c["metadata"]["name"]): c for c in before.children}
    for child in plan.apply:
        key = (child["kind"], child["metadata"]["name"])
        live = found.get(key, {})
        uid = live.get("metadata", {}).get("uid", f"uid-{key[1]}")
        metadata = (
            {"creationTimestamp": "2026-01-01T00:09:59Z", "generation": 1} | child["metadata"] | {"uid": uid}
        )
        found[key] = {**live, **child, "metadata": metadata}
    gone = {ref.uid for ref in plan.delete}
    alive = tuple(
        c
        for c in found.values()
        if c["metadata"]["uid"] not in gone
        and not any(o["uid"] in gone for o in c["metadata"].get("ownerReferences", ()))
    )
    return Observed(alive, before.references)


def settled(wanted: Manifest, seen: Observed) -> Observed:
    return carried_out(seen, BY_KIND[wanted["kind"]].plan(wanted, seen, NOW, SETTINGS))


def plan_of(wanted: Manifest, seen: Observed) -> Plan:
    return BY_KIND[wanted["kind"]].plan(wanted, seen, NOW, SETTINGS)


def check_status(wanted: Manifest, plan: Plan) -> None:
    STATUSES[wanted["kind"]].validate(plan.status)


@given(situations())
def test_a_plan_depends_on_nothing_but_what_it_is_given(situation: tuple[Manifest, Observed]) -> None:
    wanted, seen = situation
    before = copy.deepcopy((wanted, seen))
    first = plan_of(wanted, seen)
    assert plan_of(wanted, Observed(tuple(reversed(seen.children)), seen.references)) == first
    assert (wanted, seen) == before, "a plan changes none of its inputs"
    check_status(wanted, first)


@given(situations())
def test_carried_out_and_planned_again_nothing_changes(situation: tuple[Manifest, Observed]) -> None:
    wanted, seen = situation
    for _ in range(8):
        plan = plan_of(wanted, seen)
        changed = plan.decision or plan.status != wanted.get("status") or plan.delete or plan.events
        after = carried_out(seen, plan)
        if not changed and after == seen:
            break
        wanted, seen = {**wanted, "status": plan.status}, after
    else:
        pytest.fail("it does not come to rest")
    live = {(c["kind"], c["metadata"]["name"]): c for c in seen.children}
    for child in plan.apply:
        assert not drift.differs(live[child["kind"], child["metadata"]["name"]], child)


@given(situations(), st.sampled_from(["Succeeded", "Failed"]))
def test_what_is_finished_makes_nothing(situation: tuple[Manifest, Observed], phase: str) -> None:
    wanted, seen = situation
    assume(wanted["kind"] == "TrainingJob")
    wanted["status"] |= {"phase": phase, "attempt": 1}
    plan = plan_of(wanted, seen)
    assert plan.apply == ()
    assert plan.status["phase"] == phase
    assert not plan.decision
    over = "completionTime" in wanted["status"] and wanted["spec"].get("ttlAfterFinished") == "0s"
    assert over or all(ref.kind == "Job" or ref.force for ref in plan.delete)


@given(resources)
def test_what_is_being_deleted_is_let_go(wanted: Manifest) -> None:
    wanted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    plan = plan_of(wanted, Observed())
    assert (plan.apply, plan.delete, plan.events) == ((), (), ())


@given(st.sampled_from(["TrainingJob", "InferenceService"]), garbage)
def test_garbage_that_slips_past_admission_is_a_condition(kind: str, spec: Any) -> None:
    wanted = resource(kind, "x", spec)
    BY_KIND[kind].references(wanted)
    plan = plan_of(wanted, Observed())
    assert plan.status["conditions"][0]["reason"] == "InvalidSpec"
    assert plan.apply == ()
    check_status(wanted, plan)


anything = st.fixed_dictionaries(
    {"kind": st.sampled_from(["Pod", "Job", "Deployment"]), "metadata": garbage, "status": garbage}
)


@given(resources, st.lists(anything, max_size=3))
def test_garbage_that_is_observed_is_borne(wanted: Manifest, children: list[Manifest]) -> None:
    check_status(wanted, plan_of(wanted, Observed(tuple(children))))


@given(resources)
def test_children_are_named_labelled_and_owned(wanted: Manifest) -> None:
    for child in world(wanted).apply:
        metadata = child["metadata"]
        assert len(metadata["name"]) <= 63
        if child["kind"] == "Job":
            assert len(f"{metadata['name']}-{child['spec']['completions'] - 1}") <= 63
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "capstan"
        assert metadata["ownerReferences"][0]["uid"] == "uid-owner"
        template = child["spec"].get("template")
        if template:
            labels = template["metadata"]["labels"]
            assert (labels["capstan.dev/kind"], labels["capstan.dev/name"]) == (
                wanted["kind"],
                wanted["metadata"]["name"],
            )
            assert all(c["securityContext"]["capabilities"] for c in template["spec"]["containers"])
            if child["kind"] == "Job":
                assert template["spec"]["restartPolicy"] == "Never"
