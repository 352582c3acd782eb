"""Why pods do not run, in sentences that say what to do."""

from datetime import UTC, datetime
from typing import Any

import pytest
from capstan_operator.core.policies import pending
from capstan_operator.core.policies.pending import Asked

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
NO_MATCH = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
PULLING = 'Back-off pulling image "trainer:1": ErrImagePull: rpc error: code = NotFound desc = not found'
PLACED = [{"type": "PodScheduled", "status": "True"}]


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def unplaced(message: str) -> list[dict[str, Any]]:
    return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]


@pytest.mark.parametrize(
    ("state", "reason", "sentence"),
    [
        (
            waiting("ErrImagePull", "not found"),
            "ImagePullFailed",
            "trainer:1 cannot be pulled: not found. Correct spec.image",
        ),
        (
            waiting("ImagePullBackOff", PULLING),
            "ImagePullFailed",
            "trainer:1 cannot be pulled: not found. Correct spec.image",
        ),
        (waiting("InvalidImageName"), "ImagePullFailed", "no reason given"),
        (
            waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
            "ImageRunsAsRoot",
            "USER that is a number",
        ),
        (
            waiting("CreateContainerConfigError", 'secret "s" not found'),
            "ContainerConfigInvalid",
            'secret "s" not found',
        ),
        (waiting("RunContainerError", "no such device"), "ContainerCannotStart", "no such device"),
        ({"running": {}}, "Initializing", "not ready yet"),
        (waiting("PodInitializing"), "Initializing", "images are pulled"),
    ],
)
def test_what_a_container_waits_for(make_pod: Any, state: dict[str, Any], reason: str, sentence: str) -> None:
    found = pending.why([make_pod(phase="Pending", conditions=PLACED, trainer=state)], Asked())
    assert (found.reason, sentence in found.message) == (reason, True), found


@pytest.mark.parametrize("container", ["fetch", "fetch-train-set"])
def test_a_secret_that_is_not_there_is_named(make_pod: Any, container: str) -> None:
    init = {container: waiting("CreateContainerConfigError", 'secret "bucket" not found')}
    found = pending.why([make_pod(phase="Pending", conditions=PLACED, init=init)], Asked())
    assert found.reason == "ContainerConfigInvalid"
    assert found.message == (
        f'The container {container} cannot be made: secret "bucket" not found. Create what is missing, or'
        " correct credentials.secretRef."
    )


@pytest.mark.parametrize(
    ("message", "accelerator", "reason", "sentence"),
    [
        (
            "0/3 nodes: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes",
            None,
            "Unschedulable",
            "Insufficient nvidia.com/gpu. Ask for less",
        ),
        (NO_MATCH, "testium-9000", "Unschedulable", "accelerator=testium-9000"),
        (NO_MATCH, None, "Unschedulable", "spec.template"),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint {x: }.",
            None,
            "Unschedulable",
            "toleration",
        ),
        (
            '0/1 nodes are available: persistentvolumeclaim "nowhere" not found.',
            None,
            "ClaimNotFound",
            "PersistentVolumeClaim nowhere",
        ),
        ('persistentvolumeclaim "old" is being deleted', None, "ClaimNotFound", "old is being deleted"),
        ("pod has unbound immediate PersistentVolumeClaims", None, "ClaimNotBound", "kubectl describe pvc"),
    ],
)
def test_what_the_scheduler_says(
    make_pod: Any, message: str, accelerator: str, reason: str, sentence: str
) -> None:
    found = pending.why([make_pod(phase="Pending", conditions=unplaced(message))], Asked(accelerator))
    assert (found.reason, sentence in found.message) == (reason, True), found


def test_what_a_fetch_says_in_its_own_words(make_pod: Any, ended: Any) -> None:
    words = {"class": "user", "reason": "ModelNotFound", "message": "There is no x.onnx."}
    for state in (
        ended(1, **words),
        {**waiting("CrashLoopBackOff"), "last": ended(1, **words)},
        {"running": {}, "last": ended(1, **words)},
    ):
        found = pending.why([make_pod(phase="Pending", conditions=PLACED, init={"fetch": state})], Asked())
        assert (found.reason, found.message) == ("ModelNotFound", "There is no x.onnx.")


def test_a_server_that_dies_without_a_word(make_pod: Any, ended: Any) -> None:
    state = {**waiting("CrashLoopBackOff"), "last": ended(139)}
    assert "code 139" in pending.why([make_pod(conditions=PLACED, server=state)], Asked()).message
    state = {**waiting("CrashLoopBackOff"), "last": ended(137, because="OOMKilled")}
    assert pending.why([make_pod(conditions=PLACED, server=state)], Asked()).reason == "OutOfMemory"


def test_what_needs_somebody_is_told_before_what_needs_time(make_pod: Any) -> None:
    slow = make_pod(0, phase="Pending", conditions=PLACED, trainer=waiting("ContainerCreating"))
    stuck = make_pod(1, phase="Pending", conditions=PLACED, trainer=waiting("ErrImagePull"))
    assert pending.why([slow, stuck], Asked()).reason == "ImagePullFailed"
    assert pending.why([slow, make_pod(1, phase="Pending")], Asked()).reason == "PodsPending"


def test_a_controller_that_is_refused_its_pods() -> None:
    young = {"kind": "Job", "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:09:55Z"}}
    assert pending.refused(young, NOW) is None
    assert pending.silence_left(young, NOW) == 5
    old = {"kind": "Job", "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:09:00Z"}}
    found = pending.refused(old, NOW)
    assert found is not None
    assert "kubectl describe job j" in found.message
    said = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": 'violates PodSecurity "restricted:latest": x',
    }
    found = pending.refused({**young, "status": {"conditions": [said]}}, NOW)
    assert found is not None
    assert found.reason == "PodsRefused"
    assert "restricted:latest" in found.message
