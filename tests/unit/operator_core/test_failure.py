"""Whose failure it is, pod by pod, and which pod is asked."""

from typing import Any

import pytest
from capstan_operator.core.policies import failure

USER = {"class": "user", "reason": "NonZeroExit", "message": "code 3", "log": "KeyError"}
ASKED = {"class": "infrastructure", "reason": "Terminated", "message": "asked to stop"}
DISRUPTED = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "EvictionByEvictionAPI",
    "message": "evicted",
    "lastTransitionTime": "2026-01-01T00:02:00Z",
}


def test_running_pods_have_not_failed(make_pod: Any) -> None:
    assert failure.first([make_pod(trainer={"running": {}}), make_pod(1, phase="Succeeded")]) is None


@pytest.mark.parametrize(
    ("code", "reason", "words", "expected"),
    [
        (3, "Error", USER, ("user", "NonZeroExit")),
        (137, "OOMKilled", {}, ("outOfMemory", "OutOfMemory")),
        (
            1,
            "Error",
            {"class": "outOfMemory", "reason": "OutOfMemory", "message": "m"},
            ("outOfMemory", "OutOfMemory"),
        ),
        (
            137,
            "OOMKilled",
            {"class": "infrastructure", "reason": "Killed", "message": "m"},
            ("outOfMemory", "OutOfMemory"),
        ),
        (143, "Error", ASKED, ("infrastructure", "Terminated")),
        (3, "Error", {}, ("user", "NonZeroExit")),
        (137, "Error", {}, ("infrastructure", "Killed")),
        (143, "Error", {}, ("infrastructure", "Killed")),
        (128, "StartError", {}, ("user", "ContainerCannotStart")),
        (137, "ContainerStatusUnknown", {}, ("infrastructure", "PodLost")),
        (3, "Error", {"class": "nonsense"}, ("user", "NonZeroExit")),
    ],
)
def test_the_class_of_an_end(
    make_pod: Any, ended: Any, code: int, reason: str, words: Any, expected: Any
) -> None:
    found = failure.first([make_pod(phase="Failed", trainer=ended(code, because=reason, **words))])
    assert found is not None
    assert (found.class_, found.reason) == expected
    assert (found.pod, found.node, found.container, found.exit_code) == ("job-0", "node-1", "trainer", code)


@pytest.mark.parametrize("reason", ["Evicted", "NodeLost", "OutOfcpu", "UnexpectedAdmissionError"])
def test_what_the_kubelet_gives_up_is_the_infrastructures(make_pod: Any, ended: Any, reason: str) -> None:
    found = failure.first([make_pod(phase="Failed", reason=reason, trainer=ended(1, **USER))])
    assert found is not None
    assert (found.class_, found.reason) == ("infrastructure", reason)


def test_a_disruption_comes_before_the_errors_it_causes(make_pod: Any, ended: Any) -> None:
    peer = make_pod(0, phase="Failed", trainer=ended(1, "2026-01-01T00:02:01Z", **USER))
    evicted = make_pod(1, conditions=[DISRUPTED], deleted="2026-01-01T00:03:00Z", trainer={"running": {}})
    found = failure.first([peer, evicted])
    assert found is not None
    assert (found.pod, found.class_, found.reason) == ("job-1", "infrastructure", "EvictionByEvictionAPI")


def test_an_error_comes_before_the_deletions_it_causes(make_pod: Any, ended: Any) -> None:
    culprit = make_pod(1, phase="Failed", trainer=ended(3, "2026-01-01T00:02:00Z", **USER))
    asked = make_pod(
        0, phase="Failed", deleted="2026-01-01T00:02:30Z", trainer=ended(143, "2026-01-01T00:02:00Z", **ASKED)
    )
    for pods in ([asked, culprit], [culprit, asked]):
        found = failure.first(pods)
        assert found is not None
        assert (found.pod, found.log) == ("job-1", "KeyError")


def test_the_earliest_end_is_asked(make_pod: Any, ended: Any) -> None:
    late = make_pod(0, phase="Failed", trainer=ended(1, "2026-01-01T00:02:05Z", **USER))
    early = make_pod(1, phase="Failed", trainer=ended(9, "2026-01-01T00:02:01Z", **USER))
    found = failure.first([late, early])
    assert found is not None
    assert found.exit_code == 9


def test_a_pod_deleted_by_hand(make_pod: Any) -> None:
    found = failure.first([make_pod(deleted="2026-01-01T00:03:00Z", trainer={"running": {}})])
    assert found is not None
    assert (found.class_, found.reason, found.exit_code) == ("infrastructure", "PodDeleted", None)


def test_the_runner_that_could_not_be_installed(make_pod: Any, ended: Any) -> None:
    found = failure.first([make_pod(phase="Failed", init={"capstan-agent": ended(1)})])
    assert found is not None
    assert (found.class_, found.reason) == ("infrastructure", "AgentFailed")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"class": "user", "reason": "DigestMismatch", "message": "m"}, ("user", "DigestMismatch")),
        (
            {"class": "infrastructure", "reason": "SourceUnavailable", "message": "m"},
            ("infrastructure", "SourceUnavailable"),
        ),
        ({}, ("infrastructure", "AgentFailed")),
    ],
)
def test_data_that_could_not_be_fetched(make_pod: Any, ended: Any, words: Any, expected: Any) -> None:
    init = {"capstan-agent": ended(0), "fetch-train": ended(1, **words)}
    found = failure.first([make_pod(phase="Failed", init=init, trainer={"waiting": {}})])
    assert found is not None
    assert (found.class_, found.reason) == expected
    assert (found.container, found.exit_code) == ("fetch-train", 1)


def test_pods_that_are_gone_leave_the_jobs_words() -> None:
    job = {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "pod x failed"}]}}
    found = failure.lost(job)
    assert (found.class_, found.reason) == ("infrastructure", "PodLost")
    assert "pod x failed" in found.message
    assert failure.lost({}).message.endswith(".")


def test_only_what_is_known_is_in_the_status() -> None:
    assert failure.lost({}).json(2) == {
        "class": "infrastructure",
        "attempt": 2,
        "reason": "PodLost",
        "message": "A replica's pod is gone, and with it what it had to say.",
    }
