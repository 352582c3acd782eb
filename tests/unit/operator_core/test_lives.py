"""Whole lives, pass by pass, on a small simulated cluster: what a user sees from beginning to end."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from capstan_operator.api.crd import schema
from capstan_operator.api.training_job import TrainingJob
from capstan_operator.core import drift
from capstan_operator.core.conflicts import with_conflict, with_rejection
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Event, Manifest, ObjectRef, Observed, Plan, Report, Settings

SETTINGS = Settings(agent_image="agent:1", serving_image="serving:1")
DIGEST = "sha256:" + "1" * 64


class World:
    """One resource and its children. Deleting in the foreground takes until `pods_end`."""

    def __init__(self, kind: str, spec: Manifest) -> None:
        self.kind = next(k for k in KINDS if k.kind == kind)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.children: dict[tuple[str, str], Manifest] = {}
        self.references: tuple[Manifest, ...] = ()
        self.report: Report | None = None
        self.events: list[Event] = []
        self.serial = 0
        metadata = {"name": "digits", "namespace": "ns", "uid": "uid-owner", "generation": 1}
        self.resource: Manifest = {
            "apiVersion": "capstan.dev/v1alpha1",
            "kind": kind,
            "metadata": metadata,
            "spec": spec,
        }
        self.stored = copy.deepcopy(spec)

    def plan(self, settings: Settings = SETTINGS) -> Plan:
        if self.resource["spec"] != self.stored:  # as the API server does
            self.resource["metadata"]["generation"] += 1
            self.stored = copy.deepcopy(self.resource["spec"])
        children = tuple(copy.deepcopy(list(self.children.values())))
        seen = Observed(children, self.references, self.report)
        return self.kind.plan(copy.deepcopy(self.resource), seen, self.now, settings)

    def step(self, settings: Settings = SETTINGS) -> Plan:
        plan = self.plan(settings)
        self.resource["status"] = plan.status
        self.events += plan.events
        for child in plan.apply:
            self.apply(child)
        for ref in plan.delete:
            self.delete(ref)
        self.now += timedelta(seconds=1)
        return plan

    def apply(self, child: Manifest) -> None:
        key = (child["kind"], child["metadata"]["name"])
        live = self.children.get(key, {})
        self.serial += 1
        metadata = {"uid": f"uid-{self.serial}", "generation": 1, "creationTimestamp": self.now.isoformat()}
        assert not live.get("metadata", {}).get("deletionTimestamp"), "the shell would wait"
        if live and child["kind"] == "Job":
            assert live["spec"]["template"] == child["spec"]["template"], "a Job's template is immutable"
        self.children[key] = {
            **live,
            **child,
            "metadata": {**metadata, **live.get("metadata", {}), **child["metadata"]},
        }

    def delete(self, ref: ObjectRef) -> None:
        live = self.children[ref.kind, ref.name]
        assert live["metadata"]["uid"] == ref.uid
        owned = [
            c
            for c in self.children.values()
            if any(o["uid"] == ref.uid for o in c["metadata"].get("ownerReferences", ()))
        ]
        if not owned:
            del self.children[ref.kind, ref.name]
        for obj in (live, *owned) if owned else ():
            obj["metadata"]["deletionTimestamp"] = (self.now + timedelta(seconds=30)).isoformat()
            obj["metadata"]["deletionGracePeriodSeconds"] = 30

    def pods_end(self) -> None:
        self.children = {k: c for k, c in self.children.items() if "deletionTimestamp" not in c["metadata"]}

    def controller(self, kind: str) -> Manifest:
        return [c for k, c in sorted(self.children.items()) if k[0] == kind][-1]

    def pod(self, controller: Manifest, index: int, **status: Any) -> Manifest:
        name = f"{controller['metadata']['name']}-{index}"
        labels = {
            **controller["spec"]["template"]["metadata"]["labels"],
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        metadata = {
            "name": name,
            "uid": f"uid-{name}",
            "labels": labels,
            "creationTimestamp": self.now.isoformat(),
            "ownerReferences": [{"uid": controller["metadata"]["uid"], "controller": True}],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"nodeName": "n"},
            "status": status,
        }
        self.children["Pod", name] = pod
        return pod

    def run(self, controller: Manifest, count: int) -> None:
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
        for index in range(count):
            states = [
                {"name": "trainer", "image": "i", "ready": True, "state": {"running": {"startedAt": "x"}}}
            ]
            self.pod(controller, index, phase="Running", conditions=conditions, containerStatuses=states)

    def end(self, controller: Manifest, index: int, code: int, **words: Any) -> None:
        state = {
            "exitCode": code,
            "finishedAt": self.now.isoformat(),
            "message": json.dumps({"capstan": 1, **words}),
        }
        states = [{"name": "trainer", "image": "i", "ready": False, "state": {"terminated": state}}]
        self.pod(controller, index, phase="Failed" if code else "Succeeded", containerStatuses=states)

    def condition(self, obj: Manifest, *kinds: str) -> None:
        found = [{"type": k, "status": "True", "lastTransitionTime": self.now.isoformat()} for k in kinds]
        obj["status"] = {**obj.get("status", {}), "conditions": found}

    @property
    def status(self) -> Manifest:
        return self.resource["status"]

    def ready(self) -> tuple[str, str]:
        found = self.status["conditions"][0]
        assert found["type"] == "Ready"
        return found["status"], found["reason"]


def training(**spec: Any) -> World:
    base = {
        "framework": "pytorch",
        "image": "i",
        "command": ["torchrun", "t.py"],
        "replicas": 2,
        "output": {"uri": "pvc://c/m"},
    }
    return World("TrainingJob", {**base, **spec})


def fetching(world: World, index: int, code: int, **words: Any) -> None:
    """A pod whose data has been fetched, or could not be."""
    state = {
        "exitCode": code,
        "finishedAt": world.now.isoformat(),
        "message": json.dumps({"capstan": 1, **words}),
    }
    states = [{"name": "fetch-train", "image": "i", "ready": not code, "state": {"terminated": state}}]
    phase = "Failed" if code else "Pending"
    world.pod(world.controller("Job"), index, phase=phase, initContainerStatuses=states)


DATA = [{"name": "train", "uri": "https://example.com/train.csv", "mountPath": "/data", "digest": DIGEST}]


def test_a_job_whose_data_is_other_data_fails() -> None:
    world = training(data=DATA)
    world.step()
    for index in (0, 1):
        fetching(world, index, 1, **{"class": "user", "reason": "DigestMismatch", "message": "Other bytes."})
    world.condition(world.controller("Job"), "FailureTarget", "Failed")
    world.step()
    assert (world.status["phase"], world.ready()) == ("Failed", ("False", "DigestMismatch"))
    failure = world.status["failure"]
    assert (failure["class"], failure["container"]) == ("user", "fetch-train")
    assert "Other bytes." in failure["message"]


def test_a_job_whose_data_is_away_is_tried_again() -> None:
    world = training(data=DATA)
    world.step()
    for index in (0, 1):
        fetching(
            world, index, 1, **{"class": "infrastructure", "reason": "SourceUnavailable", "message": "m"}
        )
    world.condition(world.controller("Job"), "FailureTarget", "Failed")
    world.step()
    assert (world.status["phase"], world.status["attempt"]) == ("Restarting", 2)
    assert world.status["restarts"] == {"infrastructure": 1}
    assert world.status["failure"]["reason"] == "SourceUnavailable"


def test_a_job_that_succeeds() -> None:
    world = training()
    assert world.step().decision is False
    assert (world.status["phase"], world.status["attempt"]) == ("Pending", 1)
    world.run(world.controller("Job"), 2)
    world.step()
    assert (world.status["phase"], world.ready()) == ("Running", ("True", "Running"))
    job = world.controller("Job")
    world.condition(job, "Complete")
    world.step()
    assert world.status["phase"] == "Running", "the replicas' last words are waited for"
    world.end(job, 0, 0, **{"class": "ok", "reason": "Completed", "output": {"digest": DIGEST}})
    world.end(job, 1, 0, **{"class": "ok", "reason": "Completed"})
    plan = world.step()
    assert plan.decision
    assert plan.apply == (), "nothing that could fail, and be told in place of the end"
    assert world.status["output"] == {"uri": "pvc://c/m/model.onnx", "digest": DIGEST}
    assert world.ready() == ("True", "Succeeded")
    finished = copy.deepcopy(world.status)
    world.children.clear()
    assert world.step().apply == ()
    assert world.status == finished
    assert [event.reason for event in world.events] == ["Running", "Ending", "Succeeded"]


def test_a_replica_whose_container_has_ended_before_its_pod_still_counts_as_started() -> None:
    world = training()
    world.step()
    job = world.controller("Job")
    world.run(job, 2)
    world.step()
    world.end(job, 0, 0, **{"class": "ok", "reason": "Completed"})
    world.children["Pod", f"{job['metadata']['name']}-0"]["status"]["phase"] = "Running"
    world.step()
    assert (world.status["phase"], world.ready()) == ("Running", ("True", "Running"))


def test_a_replica_whose_pod_has_been_cleaned_away_still_counts_as_started() -> None:
    world = training()
    world.step()
    job = world.controller("Job")
    world.run(job, 2)
    world.step()
    world.controller("Job")["status"] = {"succeeded": 1}
    world.step()
    assert world.ready() == ("True", "Running"), "the Job may know of an end before its pod shows it"
    del world.children["Pod", f"{job['metadata']['name']}-0"]
    world.step()
    assert (world.status["phase"], world.ready()) == ("Running", ("True", "Running"))
    del world.controller("Job")["status"]
    world.step()
    assert world.ready()[0] == "False", "that pod has not ended: it is missing"


def test_a_gang_that_loses_a_pod_starts_again_when_the_old_is_gone() -> None:
    world = training()
    world.step()
    first = world.controller("Job")
    world.run(first, 2)
    world.step()
    world.children["Pod", "digits-worker-1-1"]["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
    plan = world.step()
    assert plan.decision
    assert (world.status["attempt"], world.status["restarts"], world.status["phase"]) == (
        2,
        {"infrastructure": 1},
        "Restarting",
    )
    assert ("Job", "digits-worker-2") not in world.children, "the old gang still ends"
    again = world.step()
    assert not again.decision
    assert again.requeue_after is not None
    world.pods_end()
    world.step()
    assert ("Job", "digits-worker-2") in world.children
    assert world.status["failure"]["reason"] == "PodDeleted"
    world.run(world.controller("Job"), 2)
    world.step()
    assert world.ready() == ("True", "Running")


def test_what_the_program_has_told_outlives_an_attempt() -> None:
    told = {
        "progress": {"step": 8, "percent": 40, "metrics": {"loss": 0.5}, "time": "2026-01-01T00:00:00Z"},
        "checkpoint": {"step": 5, "time": "2026-01-01T00:00:00Z", "uri": "pvc://c/k/5"},
    }
    world = training()
    world.step()
    world.run(world.controller("Job"), 2)
    world.step()
    world.status.update(told)
    world.children["Pod", "digits-worker-1-1"]["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
    for _ in range(3):
        world.step()
        assert {key: world.status[key] for key in told} == told
    jsonschema.validate(world.status, schema(TrainingJob)["properties"]["status"])


def test_pods_of_a_dead_node_are_not_waited_for_for_ever() -> None:
    world = training()
    world.step()
    world.run(world.controller("Job"), 2)
    world.children["Pod", "digits-worker-1-0"]["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
    world.step()
    world.now += timedelta(seconds=61)
    world.step()
    assert ("Job", "digits-worker-2") in world.children


def test_restarts_run_out() -> None:
    world = training()
    for _ in range(12):
        world.step()
        job = world.children.get(("Job", f"digits-worker-{world.status['attempt']}"))
        if job is not None and world.status["phase"] != "Failed":
            world.condition(job, "FailureTarget", "Failed")
        world.pods_end()
    assert (world.status["phase"], world.status["attempt"], world.status["restarts"]) == (
        "Failed",
        4,
        {"infrastructure": 3},
    )
    assert "restarted 3 times" in world.status["conditions"][0]["message"]


def loses_a_pod(world: World) -> Plan:
    """The gang runs, one of its pods is deleted, the operator decides, and the old gang ends."""
    attempt = world.status.get("attempt", 1)
    world.run(world.controller("Job"), 2)
    pod = world.children["Pod", f"digits-worker-{attempt}-1"]
    pod["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
    plan = world.step()
    world.pods_end()
    world.step()
    return plan


def test_a_job_that_gets_on_between_its_failures_may_have_any_number() -> None:
    world = training(failurePolicy={"infrastructure": {"maxRestarts": 1}})
    world.step()
    for step in range(5):
        assert world.status["phase"] != "Failed"
        world.status["checkpoint"] = {"step": step, "time": "2026-01-01T00:00:00Z"}
        loses_a_pod(world)
    assert (world.status["attempt"], world.status["restarts"]) == (6, {"infrastructure": 5})
    assert world.status["restartsCountTowardsMax"] == {"infrastructure": 1}
    loses_a_pod(world)
    assert world.status["phase"] == "Failed", "no new checkpoint since"


def test_a_checkpoint_that_is_told_with_the_last_word_counts() -> None:
    world = training(failurePolicy={"infrastructure": {"maxRestarts": 1}}, checkpoint={"uri": "pvc://c/k"})
    world.step()
    for step in (1, 2, 3):
        saved = (step, world.now, f"step-{step}-attempt-{step}")
        world.report = Report(attempt=step, time=world.now, checkpoint=saved)
        loses_a_pod(world)
        assert (world.status["phase"], world.status["failure"]["checkpointStep"]) == ("Restarting", step)
        assert world.status["checkpoint"]["step"] == step
    loses_a_pod(world)
    assert world.status["phase"] == "Failed", "no new checkpoint since"


def test_the_attempts_after_one_out_of_memory_have_the_remedy() -> None:
    remedy = [{"name": "BATCH", "value": "8"}]
    world = training(
        env=[{"name": "BATCH", "value": "32"}],
        failurePolicy={"outOfMemory": {"maxRestarts": 1, "env": remedy}},
    )
    world.step()
    batches = []
    for attempt in (1, 2):
        job = world.children["Job", f"digits-worker-{attempt}"]
        (trainer,) = job["spec"]["template"]["spec"]["containers"]
        batches += [variable["value"] for variable in trainer["env"] if variable["name"] == "BATCH"]
        world.end(job, 0, 137, **{"class": "outOfMemory", "reason": "OutOfMemory", "message": "m"})
        world.condition(job, "FailureTarget", "Failed")
        world.step()
        world.pods_end()
        world.children = {key: child for key, child in world.children.items() if key[0] != "Pod"}
        world.step()
    assert batches == ["32", "8"]
    assert (world.status["phase"], world.status["restarts"]) == ("Failed", {"outOfMemory": 1})
    assert world.status["failure"]["class"] == "outOfMemory"


def test_a_job_is_suspended_changed_and_resumed() -> None:
    world = training()
    world.step()
    first = world.controller("Job")
    world.run(first, 2)
    world.step()
    world.resource["spec"]["suspend"] = True
    plan = world.step()
    assert plan.decision
    assert [ref.name for ref in plan.delete] == ["digits-worker-1"]
    assert (world.status["phase"], world.ready()) == ("Suspended", ("False", "Suspended"))
    assert "2 pods save and end" in world.status["conditions"][0]["message"]
    world.end(first, 0, 143, **{"class": "infrastructure", "reason": "Terminated", "message": "m"})
    world.end(first, 1, 1, **{"class": "user", "reason": "NonZeroExit", "message": "m"})
    world.condition(first, "FailureTarget", "Failed")
    world.step()
    world.children = {key: child for key, child in world.children.items() if key[0] == "Service"}
    world.resource["spec"]["replicas"] = 3
    plan = world.step()
    assert (plan.decision, plan.apply, plan.delete) == (False, (), ())
    assert "No pods run" in world.status["conditions"][0]["message"]
    del world.resource["spec"]["suspend"]
    assert world.step().decision
    world.step()
    job = world.children["Job", "digits-worker-2"]
    assert (job["spec"]["completions"], world.status["attempt"]) == (3, 2)
    assert not {"restarts", "failure"} & world.status.keys(), "nothing has failed"
    told = [event.reason for event in world.events]
    assert told == ["Running", "Suspended", "Resumed", "Restarting"]


def test_a_job_that_is_suspended_from_the_first_has_not_begun() -> None:
    world = training(suspend=True)
    world.step()
    assert world.children == {}
    assert not {"attempt", "startTime"} & world.status.keys()
    world.resource["spec"]["suspend"] = False
    world.step()
    assert (world.status["attempt"], world.status["phase"]) == (1, "Pending")
    assert ("Job", "digits-worker-1") in world.children


def test_what_was_not_on_record_as_suspended_goes_on() -> None:
    world = training()
    world.step()
    world.run(world.controller("Job"), 2)
    world.step()
    world.resource["spec"]["suspend"] = True
    world.plan()
    world.resource["spec"]["suspend"] = False
    world.step()
    assert (world.status["attempt"], world.status["phase"]) == (1, "Running")


def test_a_job_that_completes_while_it_is_suspended_has_succeeded() -> None:
    world = training()
    world.step()
    job = world.controller("Job")
    world.resource["spec"]["suspend"] = True
    for index in (0, 1):
        world.end(job, index, 0, **{"class": "ok", "reason": "Completed"})
    world.condition(job, "Complete")
    world.step()
    assert world.status["phase"] == "Succeeded"


def after(world: World, **passed: int) -> World:
    """The same world later, looked at once more."""
    world.now += timedelta(**passed)
    world.step()
    return world


def test_a_job_that_does_not_start_in_time_says_what_it_waited_for() -> None:
    world = training(startupDeadline="10m")
    plan = world.step()
    assert plan.requeue_after is not None
    waiting = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    for index in (0, 1):
        world.pod(world.controller("Job"), index, phase="Pending", conditions=[waiting])
    assert after(world, minutes=9).status["phase"] == "Pending"
    assert world.plan().requeue_after is not None
    after(world, minutes=1)
    assert (world.status["phase"], world.ready()) == ("Failed", ("False", "StartupDeadlineExceeded"))
    assert "0/3 nodes" in world.status["conditions"][0]["message"]
    assert "deletionTimestamp" in world.controller("Job")["metadata"]


def test_what_has_started_may_be_without_a_replica_for_a_moment() -> None:
    world = training(startupDeadline="10m")
    world.step()
    world.run(world.controller("Job"), 2)
    assert "startingSince" not in after(world, minutes=5).status
    del world.children["Pod", "digits-worker-1-1"]
    after(world, hours=3)
    assert after(world, minutes=9).status["phase"] == "Initializing"
    assert after(world, minutes=2).status["phase"] == "Failed"


def test_a_gang_that_started_while_no_operator_looked_goes_on() -> None:
    world = training(startupDeadline="10m")
    world.step()
    world.run(world.controller("Job"), 2)
    assert after(world, hours=3).status["phase"] == "Running"
    assert "startingSince" not in world.status


def test_a_job_that_was_queued_while_no_operator_looked_waits() -> None:
    world = training(startupDeadline="10m")
    world.step()
    world.controller("Job")["spec"]["suspend"] = True
    assert after(world, hours=3).status["phase"] == "Queued"


def test_each_attempt_has_time_to_start() -> None:
    world = training(startupDeadline="10m")
    world.step()
    world.run(world.controller("Job"), 1)
    assert after(world, minutes=9).status["phase"] == "Initializing"
    world.children["Pod", "digits-worker-1-0"]["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
    assert after(world, seconds=1).status["phase"] == "Restarting"
    world.pods_end()
    assert after(world, minutes=9).status["phase"] == "Restarting"
    assert after(world, minutes=2).ready() == ("False", "StartupDeadlineExceeded")


def test_what_a_queue_holds_back_has_time() -> None:
    world = training(startupDeadline="10m", activeDeadline="1h")
    world.step()
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    for index in (0, 1):
        world.pod(world.controller("Job"), index, phase="Pending", conditions=[gated])
    world.step()
    assert after(world, hours=9).status["phase"] == "Queued"
    world.run(world.controller("Job"), 2)
    world.step()
    assert after(world, minutes=50).status["phase"] == "Running"
    assert after(world, minutes=11).ready() == ("False", "DeadlineExceeded")


def test_a_job_has_its_time_and_suspension_is_none_of_it() -> None:
    world = training(activeDeadline="1h")
    world.step()
    world.run(world.controller("Job"), 2)
    plan = world.step()
    assert 3500 < (plan.requeue_after or 0) <= 3600
    world.resource["spec"]["suspend"] = True
    assert after(world, minutes=40).status["phase"] == "Suspended"
    world.pods_end()
    assert world.plan().requeue_after is None
    world.now += timedelta(hours=5)
    world.resource["spec"]["suspend"] = False
    world.step()
    world.step()
    world.run(world.controller("Job"), 2)
    assert after(world, minutes=18).status["phase"] == "Running"
    assert 5 * 3600 <= world.status["pausedSeconds"] < 5 * 3600 + 60
    plan = after(world, minutes=2).plan()
    assert (world.status["phase"], world.ready()) == ("Failed", ("False", "DeadlineExceeded"))
    assert (plan.decision, plan.apply) == (False, ())


def test_a_deadline_that_is_raised_is_raised() -> None:
    world = training(activeDeadline="1h")
    world.step()
    world.run(world.controller("Job"), 2)
    world.step()
    world.resource["spec"]["activeDeadline"] = "3h"
    plan = after(world, hours=2).plan()
    assert (world.status["phase"], world.status["attempt"], plan.decision) == ("Running", 1, False)


@pytest.mark.parametrize("code", [0, 3])
def test_what_is_left_of_a_finished_job_goes_and_nothing_comes_back(code: int) -> None:
    world = training(ttlAfterFinished="1h", output=None)
    world.step()
    job = world.controller("Job")
    for index in (0, 1):
        world.end(job, index, code, **{"class": "user" if code else "ok", "reason": "R", "message": "m"})
    world.condition(job, *(["FailureTarget", "Failed"] if code else ["Complete"]))
    world.step()
    finished = copy.deepcopy(world.status)
    plan = world.step()
    assert plan.delete == ()
    assert 3500 < (plan.requeue_after or 0) < 3600
    after(world, hours=1)
    world.pods_end()
    assert world.children == {}
    plan = after(world, hours=9).plan()
    assert (world.status, plan.apply, plan.delete, plan.requeue_after) == (finished, (), (), None)


def test_a_queue_that_takes_the_room_away_is_no_failure() -> None:
    world = training()
    world.step()
    job = world.controller("Job")
    job["spec"]["suspend"] = True
    world.step()
    assert (world.status["phase"], world.ready()) == ("Queued", ("False", "Queued"))
    assert "suspend" not in world.plan().apply[-1]["spec"], "that is the queue's"
    world.run(world.controller("Job"), 2)
    world.step()
    assert world.status["phase"] == "Running"
    world.children["Pod", "digits-worker-1-1"]["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
    world.children["Job", "digits-worker-1"]["spec"]["suspend"] = True
    plan = world.step()
    assert (plan.decision, plan.delete) == (False, ())
    assert (world.status["attempt"], world.status["phase"]) == (1, "Queued")


def test_another_controllers_job_is_left_alone() -> None:
    world = training(managedBy="example.com/other")
    plan = world.step()
    assert (plan.status, plan.apply, plan.events) == ({}, (), ())
    assert training(managedBy="capstan.dev/operator").step().apply


def test_the_pods_of_another_controllers_job_are_left_alone() -> None:
    world = training()
    world.step()
    world.run(world.controller("Job"), 2)
    dead = world.children["Pod", "digits-worker-1-1"]
    dead["metadata"]["deletionTimestamp"] = (world.now - timedelta(hours=1)).isoformat()
    dead["status"]["conditions"] = [
        {"type": "ContainersReady", "status": "True"},
        {"type": "Ready", "status": "False"},
    ]
    assert any(ref.force for ref in world.plan().delete)
    world.resource["spec"]["managedBy"] = "example.com/other"
    assert world.plan().delete == ()


def test_a_node_where_two_attempts_failed_is_avoided_by_the_third() -> None:
    world = training()
    world.step()
    for attempt in (1, 2):
        job = world.children["Job", f"digits-worker-{attempt}"]
        assert "hostname" not in str(job)
        world.run(job, 2)
        pod = world.children["Pod", f"digits-worker-{attempt}-1"]
        pod["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
        taint = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        pod["status"]["conditions"] = [{**taint, "lastTransitionTime": world.now.isoformat()}]
        world.step()
        assert world.status["failedNodes"] == {"n": attempt}
        world.pods_end()
        world.step()
    pod = world.children["Job", "digits-worker-3"]["spec"]["template"]["spec"]
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    expected = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n"]}
    assert required == {"nodeSelectorTerms": [{"matchExpressions": [expected]}]}


def test_one_replicas_success_may_be_the_jobs() -> None:
    world = training(successPolicy={"replica": 0}, priorityClassName="urgent", output=None)
    world.step()
    job = world.controller("Job")
    assert job["spec"]["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert job["spec"]["template"]["spec"]["priorityClassName"] == "urgent"
    world.run(job, 2)
    world.step()
    world.end(job, 0, 0, **{"class": "ok", "reason": "Completed"})
    world.condition(world.children["Job", "digits-worker-1"], "SuccessCriteriaMet")
    world.children["Pod", "digits-worker-1-1"]["metadata"] |= {"deletionTimestamp": world.now.isoformat()}
    assert not world.step().decision, "the other replica's end is no failure"
    assert world.ready() == ("False", "Ending")
    assert "has done what it is for" in world.status["conditions"][0]["message"]
    world.condition(world.children["Job", "digits-worker-1"], "SuccessCriteriaMet", "Complete")
    world.step()
    assert world.status["phase"] == "Succeeded"
    assert "Replica 0 has completed" in world.status["conditions"][0]["message"]


def test_other_budgets_end_no_attempt() -> None:
    world = training()
    world.step()
    world.run(world.controller("Job"), 2)
    world.step()
    world.resource["spec"]["failurePolicy"] = {"infrastructure": {"maxRestarts": 0}}
    assert not world.step().decision
    assert (world.status["attempt"], world.status["phase"]) == (1, "Running")
    loses_a_pod(world)
    assert (world.status["attempt"], world.status["phase"]) == (1, "Failed")


def test_a_users_failure_is_not_repeated() -> None:
    world = training()
    world.step()
    job = world.controller("Job")
    world.end(job, 1, 3, **{"class": "user", "reason": "NonZeroExit", "message": "m", "log": "KeyError"})
    world.condition(job, "FailureTarget", "Failed")
    world.step()
    assert (world.status["phase"], world.status["failure"]["class"]) == ("Failed", "user")
    assert {c["type"]: c["status"] for c in world.status["conditions"]}["Stalled"] == "True"
    assert ("Job", "digits-worker-1") in world.children, "kept for its logs"


def test_a_changed_spec_is_a_new_attempt_also_of_one_that_failed() -> None:
    world = training()
    world.step()
    world.resource["spec"] = {**world.resource["spec"], "image": "other"}
    world.condition(world.controller("Job"), "Failed")
    plan = world.step()
    assert plan.decision
    assert (world.status["attempt"], "restarts" in world.status) == (2, False)
    world.step()
    assert world.controller("Job")["spec"]["template"]["spec"]["containers"][0]["image"] == "other"


def test_a_new_release_restarts_no_job_and_repairs_it_all_the_same() -> None:
    world = training()
    world.step()
    job = world.controller("Job")
    job["spec"]["parallelism"] = 0
    plan = world.step(Settings(agent_image="agent:2", serving_image="serving:2"))
    assert not plan.decision
    assert world.controller("Job")["spec"]["parallelism"] == 2
    assert world.controller("Job")["spec"]["template"]["spec"]["initContainers"][0]["image"] == "agent:1"


def drifted(world: World, plan: Plan) -> list[str]:
    """The children that carrying out a plan would write."""
    live = [(world.children.get((c["kind"], c["metadata"]["name"]), {}), c) for c in plan.apply]
    return [child["kind"] for found, child in live if drift.differs(found, child)]


def test_what_a_new_release_no_longer_renders_is_applied_once_and_so_pruned() -> None:
    world = serving()
    world.step()
    up(world.controller("Deployment"))
    world.step()
    assert drifted(world, world.plan()) == []
    service = world.children["Service", "digits"]
    older = copy.deepcopy(service)
    older["metadata"]["annotations"]["capstan.dev/rendered"] = "of-older"
    older["spec"]["ports"].append({"name": "old", "port": 1})
    world.children["Service", "digits"] = older
    assert drifted(world, world.plan()) == ["Service"]
    world.step()
    assert drifted(world, world.plan()) == []


def test_a_job_made_by_another_release_settles_after_one_write() -> None:
    world, newer = training(), Settings(agent_image="agent:2", serving_image="serving:2")
    world.step()
    before = world.controller("Job")["spec"]
    assert drifted(world, world.plan(newer)) == ["Job"]
    world.step(newer)
    assert world.controller("Job")["spec"] == before
    assert drifted(world, world.plan(newer)) == []


def test_the_deployment_in_use_is_not_written_because_there_is_a_next_one() -> None:
    world = serving()
    world.step()
    first = world.controller("Deployment")
    up(first)
    first["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    world.step()
    world.resource["spec"] = {"model": {"uri": "pvc://c/two.onnx"}}
    world.step()
    assert drifted(world, world.plan()) == []
    del world.children["Deployment", first["metadata"]["name"]]["metadata"]["annotations"]
    assert drifted(world, world.plan()) == [], "nor one that says nothing of how it was rendered"


def test_a_job_deleted_by_hand_is_made_again() -> None:
    world = training()
    world.step()
    del world.children["Job", "digits-worker-1"]
    world.step()
    assert ("Job", "digits-worker-1") in world.children
    assert world.status["attempt"] == 1


@pytest.mark.parametrize("label", [None, "0", "7", "x"])
def test_a_job_whose_label_somebody_edits_is_repaired_and_not_ended(label: str | None) -> None:
    world = training()
    world.step()
    labels = world.controller("Job")["metadata"]["labels"]
    labels.pop("capstan.dev/attempt") if label is None else labels.update({"capstan.dev/attempt": label})
    assert world.step().delete == ()
    assert world.controller("Job")["metadata"]["labels"]["capstan.dev/attempt"] == "1"


@pytest.mark.parametrize("uid", ["uid-owner", "uid-of-its-successor"])
def test_no_gang_begins_beside_one_whose_job_is_gone(uid: str) -> None:
    """Both would have the same host names. The Job was deleted in the background, or its TrainingJob was."""
    world = training()
    world.step()
    world.run(world.controller("Job"), 2)
    world.step()
    if uid != "uid-owner":
        world.resource["metadata"]["uid"] = uid
        del world.resource["status"]
    del world.children["Job", "digits-worker-1"]
    end = world.now + timedelta(seconds=75)
    for key in [key for key in world.children if key[0] == "Pod"]:
        world.children[key]["metadata"]["deletionTimestamp"] = end.isoformat()
    plan = world.step()
    assert ("Job", "digits-worker-1") not in world.children
    assert (plan.requeue_after, plan.decision, world.status["attempt"]) == (30.0, False, 1)
    assert (world.status["phase"], world.ready()) == ("Pending", ("False", "PodsPending"))
    assert "waited for to end" in world.status["conditions"][0]["message"]
    world.pods_end()
    world.step()
    assert ("Job", "digits-worker-1") in world.children


def test_a_dead_nodes_pods_whose_job_is_gone_are_not_waited_for_for_ever() -> None:
    world = training()
    world.step()
    world.run(world.controller("Job"), 2)
    del world.children["Job", "digits-worker-1"]
    for key in [key for key in world.children if key[0] == "Pod"]:
        world.children[key]["metadata"]["deletionTimestamp"] = world.now.isoformat()
    world.now += timedelta(seconds=28)
    world.step()
    assert ("Job", "digits-worker-1") not in world.children
    world.now += timedelta(seconds=1)
    world.step()
    assert ("Job", "digits-worker-1") in world.children


def serving(**model: Any) -> World:
    return World("InferenceService", {"model": model or {"uri": "pvc://c/m.onnx"}})


def up(deployment: Manifest) -> None:
    deployment["status"] = {"observedGeneration": 9, "updatedReplicas": 1, "readyReplicas": 1}


def test_a_revision_takes_over_when_it_is_ready() -> None:
    world = serving()
    world.step()
    first = world.controller("Deployment")
    assert world.ready() == ("False", "PodsPending")
    up(first)
    assert world.step().decision
    stable = world.status["revisions"]["stable"]["hash"]
    assert world.ready() == ("True", "Ready")

    world.resource["spec"] = {"model": {"uri": "pvc://c/two.onnx"}}
    world.step()
    assert (world.ready(), world.status["phase"]) == (("False", "Updating"), "Updating")
    selector = world.children["Service", "digits"]["spec"]["selector"]
    assert selector["capstan.dev/revision"] == stable
    candidate = world.status["revisions"]["candidate"]["hash"]
    up(world.children["Deployment", f"digits-{candidate}"])
    plan = world.step()
    assert plan.decision
    assert world.children["Service", "digits"]["spec"]["selector"]["capstan.dev/revision"] == candidate
    assert list(world.status["revisions"]) == ["stable"]
    assert ("Deployment", f"digits-{stable}") not in world.children
    assert "Promoted" in [event.reason for event in world.events]


def test_going_back_to_the_revision_in_use_needs_no_promotion() -> None:
    world = serving()
    world.step()
    up(world.controller("Deployment"))
    world.step()
    spec = world.resource["spec"]
    world.resource["spec"] = {"model": {"uri": "pvc://c/broken.onnx"}}
    world.step()
    assert len([k for k in world.children if k[0] == "Deployment"]) == 2
    world.resource["spec"] = spec
    assert not world.step().decision
    assert world.ready() == ("True", "Ready")
    assert len([k for k in world.children if k[0] == "Deployment"]) == 1


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"observedGeneration": 1, "updatedReplicas": 2},
        {"observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": 1},
        {"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": 2},
        {"observedGeneration": 0, "updatedReplicas": 2, "readyReplicas": 2},
    ],
)
def test_the_revision_in_use_is_not_deleted_before_the_next_is_ready(status: Manifest) -> None:
    world = serving()
    world.step()
    used = world.controller("Deployment")["metadata"]["name"]
    up(world.controller("Deployment"))
    world.step()
    world.resource["spec"] = {"model": {"uri": "pvc://c/two.onnx"}, "replicas": {"min": 2}}
    for _ in range(2):
        assert not world.step().delete
        (candidate,) = [name for kind, name in world.children if kind == "Deployment" and name != used]
        world.children["Deployment", candidate]["status"] = status
    plan = world.step()
    assert (plan.delete, plan.decision) == ((), False)


def test_the_revision_in_use_keeps_its_replicas_while_the_next_is_broken() -> None:
    world = serving()
    world.step()
    first = world.controller("Deployment")
    up(first)
    world.step()
    world.resource["spec"] = {"model": {"uri": "pvc://c/broken.onnx"}}
    world.step()
    name = first["metadata"]["name"]
    world.children["Deployment", name]["spec"]["replicas"] = 0
    world.step()
    assert world.children["Deployment", name]["spec"]["replicas"] == 1


def test_a_model_is_served_on_when_its_job_is_gone() -> None:
    world = serving(fromTrainingJob={"name": "job"})
    world.step()
    assert world.ready() == ("False", "TrainingJobNotFound")
    job = {
        "kind": "TrainingJob",
        "metadata": {"name": "job"},
        "spec": {"output": {"uri": "pvc://c/m"}},
        "status": {"phase": "Running"},
    }
    world.references = (job,)
    world.step()
    assert world.ready() == ("False", "TrainingJobNotFinished")
    job["status"] = {"phase": "Succeeded", "output": {"uri": "pvc://c/m/model.onnx", "digest": DIGEST}}
    world.step()
    assert world.status["model"]["digest"] == DIGEST
    up(world.controller("Deployment"))
    world.step()
    world.references = ()
    plan = world.step()
    assert (plan.delete, world.ready()) == ((), ("True", "Ready"))
    found = {c["type"]: (c["status"], c["reason"]) for c in world.status["conditions"]}
    assert found["ModelAvailable"] == ("False", "TrainingJobNotFound")


def test_what_pods_have_fetched_makes_no_revision_when_the_job_is_gone() -> None:
    world = serving(fromTrainingJob={"name": "job"})
    output = {"uri": "pvc://c/m/model.onnx"}
    status = {"phase": "Succeeded", "output": output}
    world.references = ({"kind": "TrainingJob", "metadata": {"name": "job"}, "status": status},)
    world.step()
    fetched(world)
    up(world.controller("Deployment"))
    world.step()
    assert "digest" not in world.status["model"], "the job reported none"
    stable = world.status["revisions"]["stable"]
    assert stable["modelDigest"] == DIGEST
    world.references = ()
    world.step()
    assert world.status["revisions"] == {"stable": stable}
    assert world.ready() == ("True", "Ready")


def test_the_digest_of_a_model_that_is_named_is_told_once_it_is_fetched() -> None:
    world = serving()
    world.step()
    fetched(world)
    world.step()
    assert world.status["model"]["digest"] == DIGEST


def fetched(world: World) -> None:
    words = json.dumps({"capstan": 1, "class": "ok", "reason": "Completed", "output": {"digest": DIGEST}})
    state = {"terminated": {"exitCode": 0, "message": words}}
    container = {"name": "fetch", "image": "a", "ready": True, "state": state}
    world.pod(world.controller("Deployment"), 0, phase="Running", initContainerStatuses=[container])


def test_a_model_that_cannot_be_loaded_is_fetched_again_less_and_less_often() -> None:
    world = serving()
    world.step()
    deployment = world.controller("Deployment")
    words = json.dumps({"capstan": 1, "class": "user", "reason": "ModelLoadFailed", "message": "m"})
    last = {"terminated": {"exitCode": 1, "message": words}}
    container = {"name": "server", "image": "s", "ready": False, "state": {"waiting": {}}, "lastState": last}
    ages: list[float] = []
    for _ in range(6):
        pod = world.pod(deployment, 0, phase="Running", containerStatuses=[container])
        born = world.now
        pod["metadata"]["creationTimestamp"] = born.isoformat()
        while ("Pod", pod["metadata"]["name"]) in world.children:
            plan = world.step()
            assert world.ready() == ("False", "ModelLoadFailed")
            world.now += timedelta(seconds=(plan.requeue_after or 1) - 1)
        ages.append((world.now - born).total_seconds())
    assert ages == sorted(ages)
    assert ages[0] < 40 < 60 < ages[-1]


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("Forbidden", 'jobs.batch "x" is forbidden: exceeded quota: q', "QuotaExceeded"),
        ("Forbidden", 'User "u" cannot patch resource "jobs"', "NotAllowed"),
        ("Forbidden", "denied by a policy", "ChildRefused"),
        ("Invalid", "spec.template: no", "ChildRefused"),
        ("BeingDeleted", "it goes", "BeingDeleted"),
        ("not a reason", "m", "ChildRefused"),
    ],
)
def test_what_the_api_server_refuses(reason: str, message: str, expected: str) -> None:
    world = training()
    plan = world.plan()
    ref = ObjectRef("batch/v1", "Job", "ns", "digits-worker-1")
    told = with_rejection(plan, world.resource, ref, reason, message, world.now)
    world.resource["status"] = told.status
    assert world.ready() == ("False", expected)
    assert message in told.status["conditions"][0]["message"]
    assert told.requeue_after is not None
    assert [event.reason for event in told.events] == [expected]


def test_a_conflict_is_told_once_and_heals() -> None:
    world = training()
    ref = ObjectRef("v1", "Service", "ns", "digits-peers")
    told = with_conflict(world.plan(), world.resource, ref, world.now)
    world.resource["status"] = told.status
    assert world.ready() == ("False", "OwnershipConflict")
    assert "digits-peers" in told.status["conditions"][0]["message"]
    again = with_conflict(world.plan(), world.resource, ref, world.now + timedelta(seconds=9))
    assert (again.status, again.events) == (told.status, ())
    assert world.step().events == (), "what is well again is told when it runs"
    assert world.ready() == ("False", "PodsPending")
