"""Whose failure it is: the first pod of a gang that failed, and the class its restart is charged to.

When one replica dies, its peers fail a moment later, with errors that look like the user's. So pods are
ordered by when they began to fail, and only the first is asked why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from capstan_operator.core import fetch, get, observed, termination
from capstan_operator.core.model import Manifest
from capstan_operator.core.observed import Container

USER: Final = "user"
OUT_OF_MEMORY: Final = "outOfMemory"
INFRASTRUCTURE: Final = "infrastructure"
HANG: Final = "hang"
Class = Literal["user", "outOfMemory", "infrastructure", "hang"]

POD_LOST: Final = "PodLost"
POD_DELETED: Final = "PodDeleted"
DISRUPTED: Final = "DisruptionTarget"
OOM_KILLED: Final = "OutOfMemory"
NOT_STARTED: Final = "ContainerCannotStart"
NON_ZERO_EXIT: Final = "NonZeroExit"
KILLED: Final = "Killed"
AGENT_FAILED: Final = "AgentFailed"

#: Why the kubelet itself fails a pod, in the pod's own reason. All are about the node, not the program.
_KUBELET: Final = frozenset(
    {
        "Evicted",
        "NodeLost",
        "NodeShutdown",
        "Shutdown",
        "Terminated",
        "UnexpectedAdmissionError",
        "NodeAffinity",
    }
)
_SIGKILL, _SIGTERM = 128 + 9, 128 + 15
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed."""

    class_: Class
    reason: str
    message: str
    pod: str = ""
    pod_uid: str = ""
    node: str = ""
    container: str = ""
    exit_code: int | None = None
    log: str = ""

    def json(self, attempt: int) -> Manifest:
        """The status' `failure`."""
        result: Manifest = {
            "class": self.class_,
            "attempt": attempt,
            "reason": self.reason,
            "message": self.message,
        }
        optional = {
            "pod": self.pod,
            "podUID": self.pod_uid,
            "node": self.node,
            "container": self.container,
            "exitCode": self.exit_code,
            "log": self.log,
        }
        return result | {key: value for key, value in optional.items() if value not in ("", None)}


@dataclass(frozen=True, slots=True)
class _Case:
    """One failed pod, with the container that failed first in it."""

    pod: Manifest
    container: Container | None

    def failure(self, class_: Class, reason: str, message: str, log: str = "") -> Failure:
        code = get.number(self.container.failed, "exitCode") if self.container else None
        return Failure(
            class_=class_,
            reason=reason,
            message=message,
            pod=get.name(self.pod),
            pod_uid=get.text(self.pod, "metadata", "uid"),
            node=get.text(self.pod, "spec", "nodeName"),
            container=self.container.name if self.container else "",
            exit_code=code,
            log=log,
        )


def first(pods: Sequence[Manifest]) -> Failure | None:
    """Why the first of these pods failed; None when none of them has, or was asked to go."""
    failed = [pod for pod in pods if began(pod) is not None]
    if not failed:
        return None
    pod = min(failed, key=_order)
    case = _Case(pod, _failed_container(pod))
    return next(found for check in _CHECKS if (found := check(case)) is not None)


def lost(job: Manifest) -> Failure:
    """Why a Job failed whose pods are gone: only the Job's own words are left."""
    said = get.text(observed.condition(job, "Failed") or observed.condition(job, "FailureTarget"), "message")
    message = "A replica's pod is gone, and with it what it had to say"
    return Failure(INFRASTRUCTURE, POD_LOST, f"{message}. The Job says: {said}" if said else f"{message}.")


def began(pod: Manifest) -> datetime | None:
    """When a pod began to fail: its disruption, its deletion, or its container's end. None: it has not."""
    times = [
        get.time(observed.condition(pod, DISRUPTED), "lastTransitionTime")
        if observed.is_true(pod, DISRUPTED)
        else None,
        observed.deletion_asked(pod),
    ]
    if observed.phase(pod) == "Failed":
        container = _failed_container(pod)
        times.append((get.time(container.failed, "finishedAt") if container else None) or _NEVER)
    elif observed.phase(pod) == "Succeeded":
        return None
    return min((time for time in times if time is not None), default=None)


def _order(pod: Manifest) -> tuple[datetime, bool, int, str]:
    """Times are in whole seconds: of two in one, that which was not merely asked to stop came first."""
    container = _failed_container(pod)
    said = termination.of(container.failed) if container else None
    asked = observed.deleted(pod) or (said is not None and said.class_ == INFRASTRUCTURE)
    asked = asked and not observed.is_true(pod, DISRUPTED)
    return began(pod) or _NEVER, asked, observed.index(pod), get.name(pod)


def _failed_container(pod: Manifest) -> Container | None:
    failed = [container for container in observed.containers(pod) if container.failed]
    return min(
        failed, key=lambda c: (get.time(c.failed, "finishedAt") or _NEVER, not c.init, c.name), default=None
    )


def _disrupted(case: _Case) -> Failure | None:
    if not observed.is_true(case.pod, DISRUPTED):
        return None
    condition = observed.condition(case.pod, DISRUPTED)
    message = get.text(condition, "message") or "the cluster took its node away"
    return case.failure(
        INFRASTRUCTURE, get.text(condition, "reason") or DISRUPTED, f"The pod was disrupted: {message}"
    )


def _by_kubelet(case: _Case) -> Failure | None:
    reason = get.text(case.pod, "status", "reason")
    if reason not in _KUBELET and not reason.startswith("OutOf"):
        return None
    message = get.text(case.pod, "status", "message") or reason
    return case.failure(INFRASTRUCTURE, reason, f"The node gave the pod up: {message}")


def _out_of_memory(case: _Case) -> Failure | None:
    if case.container is None or get.text(case.container.failed, "reason") != "OOMKilled":
        return None
    said = termination.of(case.container.failed)
    return case.failure(
        OUT_OF_MEMORY,
        OOM_KILLED,
        "The container passed its memory limit and was killed: raise spec.resources.limits.memory, or lower"
        " the batch"
        " size or the number of data loader workers.",
        said.log if said else "",
    )


def _in_its_own_words(case: _Case) -> Failure | None:
    said = termination.of(case.container.failed) if case.container else None
    if said is None or said.class_ == "ok" or case.container is None:
        return None
    return case.failure(said.class_, said.reason, said.message or said.reason, said.log)


def _deleted(case: _Case) -> Failure | None:
    if not observed.deleted(case.pod):
        return None
    return case.failure(INFRASTRUCTURE, POD_DELETED, "The pod was deleted.")


def _by_exit_code(case: _Case) -> Failure | None:
    if case.container is None:
        return None
    ended, name = case.container.failed, case.container.name
    code, reason = get.number(ended, "exitCode"), get.text(ended, "reason")
    # Without the agent, the end of the container's log may be in the message (terminationMessagePolicy).
    log = get.text(ended, "message")
    if reason in {"StartError", "ContainerCannotRun"}:
        return case.failure(
            USER,
            NOT_STARTED,
            f"The container {name} cannot be started: {log or reason}. Correct spec.command.",
        )
    if reason == "ContainerStatusUnknown":
        return case.failure(INFRASTRUCTURE, POD_LOST, f"The node lost track of the container {name}.")
    if case.container.init and name == "capstan-agent":
        return case.failure(
            INFRASTRUCTURE, AGENT_FAILED, f"The runner could not be put into the pod: exit code {code}.", log
        )
    if case.container.init and fetch.is_fetch(name):
        return case.failure(
            INFRASTRUCTURE,
            AGENT_FAILED,
            f"The container {name} failed without a word: exit code {code}.",
            log,
        )
    if code in {_SIGKILL, _SIGTERM}:
        return case.failure(INFRASTRUCTURE, KILLED, f"The container {name} was killed from outside.", log)
    return case.failure(
        USER, NON_ZERO_EXIT, f"The container {name} exited with code {code}: see its log.", log
    )


def _nobody_knows(case: _Case) -> Failure | None:
    message = get.text(case.pod, "status", "message")
    return case.failure(INFRASTRUCTURE, POD_LOST, message or "The pod failed without saying why.")


_CHECKS: Final[tuple[Callable[[_Case], Failure | None], ...]] = (
    _disrupted,
    _by_kubelet,
    _out_of_memory,
    _in_its_own_words,
    _deleted,
    _by_exit_code,
    _nobody_knows,
)
