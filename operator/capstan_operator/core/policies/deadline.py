"""How much time a TrainingJob has left, by the clocks in its status.

One clock runs while replicas are missing, one from the job's beginning; both stand while the job is suspended
or held back by a queue, for then the time it takes is not its own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from capstan_operator.api.training_job import TrainingJobSpec
from capstan_operator.core import durations, get
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies.failure import USER, Failure
from capstan_operator.core.policies.finding import Finding

DEADLINE_EXCEEDED: Final = "DeadlineExceeded"
STARTUP_DEADLINE_EXCEEDED: Final = "StartupDeadlineExceeded"

_PAUSED: Final = frozenset({"Suspended", "Queued"})
_STARTING: Final = frozenset({"Pending", "Initializing", "Restarting"})


def clocks(old: Manifest, phase: str, attempt: int, spec: TrainingJobSpec, now: datetime) -> Manifest:
    """What the status says of time from now on."""
    start = get.text(old, "startTime")
    result: Manifest = {"startTime": start or get.timestamp(now)}
    paused, since = get.number(old, "pausedSeconds"), get.time(old, "pausedSince")
    if phase in _PAUSED:
        result["pausedSince"] = get.text(old, "pausedSince") or get.timestamp(now)
    elif since and start:
        paused += max(0, int((now - since).total_seconds()))
    if paused:
        result["pausedSeconds"] = paused
    if spec.startup_deadline and phase in _STARTING:
        same = get.number(old, "attempt") == attempt
        result["startingSince"] = (same and get.text(old, "startingSince")) or get.timestamp(now)
    return result


def exceeded(spec: TrainingJobSpec, status: Manifest, why: Finding, now: datetime) -> Failure | None:
    """The deadline that is over, as a failure. `why`: what a job that does not run is waiting for."""
    left = _active(spec, status, now)
    if left is not None and left <= 0:
        return Failure(
            USER,
            DEADLINE_EXCEEDED,
            f"It was not done within {spec.active_deadline}, and has no more time (spec.activeDeadline).",
        )
    left = _startup(spec, status, now)
    if left is not None and left <= 0:
        return Failure(
            USER,
            STARTUP_DEADLINE_EXCEEDED,
            f"Not all replicas were running within {spec.startup_deadline} (spec.startupDeadline):"
            f" {why.message}",
        )
    return None


def look_again(spec: TrainingJobSpec, status: Manifest, now: datetime) -> float | None:
    """Seconds until the next deadline is over."""
    left = [_active(spec, status, now), _startup(spec, status, now)]
    return min((max(1.0, seconds) for seconds in left if seconds is not None), default=None)


def kept_for(resource: Manifest, now: datetime) -> float | None:
    """Seconds for which the children of a job that has finished are kept; None: as long as the job is."""
    end, ttl = get.time(resource, "status", "completionTime"), get.text(resource, "spec", "ttlAfterFinished")
    return durations.seconds(ttl) - (now - end).total_seconds() if end and ttl else None


def _active(spec: TrainingJobSpec, status: Manifest, now: datetime) -> float | None:
    start = get.time(status, "startTime")
    if spec.active_deadline is None or start is None or "pausedSince" in status:
        return None
    active = (now - start).total_seconds() - get.number(status, "pausedSeconds")
    return durations.seconds(spec.active_deadline) - active


def _startup(spec: TrainingJobSpec, status: Manifest, now: datetime) -> float | None:
    since = get.time(status, "startingSince")
    if spec.startup_deadline is None or since is None:
        return None
    return durations.seconds(spec.startup_deadline) - (now - since).total_seconds()
