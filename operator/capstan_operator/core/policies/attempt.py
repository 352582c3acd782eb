"""How an attempt stands, from its Job and its pods.

A Job's conditions and its pods come by different watches, so when a Job is finished its pods may not look it
yet: what they have to say is waited for, a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from capstan_operator.core import get, observed
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies import failure, pending
from capstan_operator.core.policies.failure import Failure

State = Literal["absent", "active", "ending", "succeeded", "failed"]

#: Seconds for which the pods of a finished Job are waited for.
PATIENCE: Final = 15.0
#: Seconds after which a Job that fails and cannot finish (a dead node holds a pod) counts as failed.
STUCK: Final = 60.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands; with `failed`, why; with `ending`, when to look again (seconds)."""

    state: State
    failure: Failure | None = None
    look_again: float | None = None


def standing(job: Manifest | None, pods: Sequence[Manifest], wants_output: bool, now: datetime) -> Standing:
    """How an attempt stands. `wants_output`: what replica 0 says at its end is needed."""
    if job is None:
        return Standing("absent")
    if observed.is_true(job, "Complete"):
        seen = [pod for pod in pods if observed.index(pod) == 0 and observed.phase(pod) == "Succeeded"]
        return _waited(job, "Complete", bool(seen) or not wants_output, Standing("succeeded"), now)
    if observed.is_true(job, "Failed"):
        ended = Standing("failed", failure.first(pods) or failure.lost(job))
        return _waited(job, "Failed", all(map(observed.terminal, pods)), ended, now)
    if observed.is_true(job, "FailureTarget"):
        patience = STUCK + max((_grace(pod) for pod in pods), default=0)
        ended = Standing("failed", failure.first(pods) or failure.lost(job))
        return _waited(job, "FailureTarget", False, ended, now, patience)
    if observed.deleted(job):
        return Standing("absent")
    if pending.queued(job) is not None:
        # A queue that takes a Job's room away ends its pods, and gives it back later: nothing has failed.
        return Standing("active")
    going = [pod for pod in pods if observed.deleted(pod) and not observed.terminal(pod)]
    found = failure.first(pods) if going and not _has_succeeded(job, pods) else None
    if found is not None and found.class_ == failure.INFRASTRUCTURE:
        # A gang without one of its replicas is no gang: it need not be waited for until the others notice.
        return Standing("failed", found)
    return Standing("active")


def _has_succeeded(job: Manifest, pods: Sequence[Manifest]) -> bool:
    """Whether its other pods are ended for its success: theirs may be seen before its condition is."""
    enough = {get.text(rule, "succeededIndexes") for rule in get.items(job, "spec", "successPolicy", "rules")}
    return observed.is_true(job, "SuccessCriteriaMet") or any(
        observed.phase(pod) == "Succeeded" and str(observed.index(pod)) in enough for pod in pods
    )


def _waited(
    job: Manifest, condition: str, complete: bool, then: Standing, now: datetime, patience: float = PATIENCE
) -> Standing:
    since = get.time(observed.condition(job, condition), "lastTransitionTime")
    left = patience - (now - since).total_seconds() if since else 0
    return then if complete or left <= 0 else Standing("ending", look_again=max(1.0, min(left, patience)))


def _grace(pod: Manifest) -> int:
    return min(get.number(pod, "spec", "terminationGracePeriodSeconds"), 10**6)
