"""Which of the observed Jobs and pods are an attempt's, and which must end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from capstan_operator.core import get, labels, names, observed
from capstan_operator.core.model import Manifest, ObjectRef, Observed
from capstan_operator.core.policies.lost import PATIENCE
from capstan_operator.core.training import children


def job(resource: Manifest, seen: Observed, attempt: int) -> Manifest | None:
    """The Job of an attempt."""
    name = names.job(resource["metadata"]["name"], children.ROLE, attempt)
    return next((job for job in observed.of_kind(seen, "Job") if get.name(job) == name), None)


def pods(seen: Observed, attempt: int, controller: Manifest | None) -> Sequence[Manifest]:
    """The pods of the attempt's Job; not those of one that had its name before."""
    uid = get.text(controller, "metadata", "uid")
    return [
        pod
        for pod in observed.pods(seen, labels.ATTEMPT, str(attempt))
        if controller is not None
        and any(get.text(owner, "uid") == uid for owner in get.items(pod, "metadata", "ownerReferences"))
    ]


def number(job: Manifest) -> int:
    """A Job's attempt, by its name: a label can be edited, and the gang would be ended for it."""
    found = get.name(job).rpartition("-")[2]
    return int(found) if found.isascii() and found.isdecimal() and len(found) < 10 else 0


def earlier(seen: Observed, attempt: int) -> tuple[ObjectRef, ...]:
    """The Jobs of the attempts before, that nobody has deleted yet."""
    return tuple(
        observed.reference(job)
        for job in observed.of_kind(seen, "Job")
        if number(job) < attempt and not observed.deleted(job)
    )


def unfinished(seen: Observed, attempt: int) -> tuple[ObjectRef, ...]:
    """What still runs of a job that has failed for good. A Job that has ended is kept for its logs."""
    last = (
        observed.reference(job)
        for job in observed.of_kind(seen, "Job")
        if number(job) == attempt
        and not observed.deleted(job)
        and not any(observed.is_true(job, condition) for condition in ("Failed", "FailureTarget", "Complete"))
    )
    return (*earlier(seen, attempt), *last)


def all_children(seen: Observed) -> tuple[ObjectRef, ...]:
    """Everything that was made for the job; pods go with their Jobs."""
    return tuple(
        observed.reference(child)
        for kind in ("Job", "Service", "NetworkPolicy")
        for child in observed.of_kind(seen, kind)
        if not observed.deleted(child)
    )


def left_behind(seen: Observed, now: datetime) -> float | None:
    """Seconds until pods, when there is no Job, are looked at again; None when there is nothing to wait for.

    They hold accelerators and may still write a checkpoint, and those of a Job that was deleted in the
    background have the next one's host names: the two gangs would meet. A dead node's pods end when somebody
    says so, and are not waited for.
    """
    waits = []
    for pod in observed.of_kind(seen, "Pod"):
        if observed.terminal(pod):
            continue
        end = get.time(pod, "metadata", "deletionTimestamp")
        left = (end + timedelta(seconds=PATIENCE) - now).total_seconds() if end else PATIENCE
        if left > 0:
            waits.append(left)
    return max(1.0, min(*waits, PATIENCE)) if waits else None
