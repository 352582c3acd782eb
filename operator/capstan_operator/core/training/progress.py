"""How far a program is: from what its runner reports to the job's status.

Reports come from users' pods, so anything may be in one: it is taken whole, or refused with a sentence.
Which pod may speak for a job is decided here, too: replica 0 of its present attempt, known by the chain of
its owners' uids, which nobody but the API server writes. An earlier attempt's pod that still lives has
nothing to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from capstan_operator.core import conditions, get, names, observed
from capstan_operator.core.conditions import TRUE, UNKNOWN, Condition
from capstan_operator.core.model import Manifest, Report
from capstan_operator.core.training import children

REPORTED: Final = "ProgressReported"
HEARD: Final = "Heard"
NOTHING_HEARD: Final = "NothingHeard"

METRICS: Final = 16
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,62}")
_CHECKPOINT: Final = re.compile(r"step-\d{1,15}-attempt-\d{1,9}")
_LATEST: Final = 1 << 37  # the year 6325
_LARGEST: Final = 1 << 53


def parsed(body: Any, attempt: int, now: datetime) -> Report:
    """The report in a request's body. ValueError, with a sentence, when it is none."""
    if not isinstance(body, dict):
        raise ValueError("a report is a JSON object")
    whole = {name: _whole(body.get(name), name) for name in ("step", "total", "remaining")}
    metrics = body.get("metrics", {})
    if not isinstance(metrics, dict) or len(metrics) > METRICS:
        raise ValueError(f"metrics must be an object of {METRICS} numbers at most")
    return Report(
        attempt,
        now,
        **whole,
        metrics={name: _metric(name, value) for name, value in metrics.items()},
        checkpoint=_checkpoint(body.get("checkpoint")),
    )


def _checkpoint(found: Any) -> tuple[int, datetime, str] | None:
    if found is None:
        return None
    step, time = (_whole(get.mapping(found).get(name), f"checkpoint.{name}") for name in ("step", "time"))
    name = get.text(found, "name")
    if step is None or time is None or time > _LATEST or not _CHECKPOINT.fullmatch(name):
        raise ValueError("a checkpoint has a step, a time and a name such as step-1200-attempt-1")
    return step, datetime.fromtimestamp(time, UTC), name


def _whole(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{name} must be a whole number from 0 to {_LARGEST}")
    return value


def _metric(name: str, value: Any) -> float:
    if not _NAME.fullmatch(name):
        raise ValueError("metrics have names of letters, digits and _ . / -, 63 at most")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e308:
        raise ValueError(f"{name} must be a finite number")
    return float(value)


def attempt_of(pod: Manifest, job: Manifest | None, resource: Manifest | None) -> int | None:
    """The attempt that a pod may report for; None when it has nothing to say.

    `job` and `resource` are what has the name of the pod's controller, and of that one's, now.
    """
    if job is None or resource is None or observed.index(pod) != 0 or observed.terminal(pod):
        return None
    attempt = max(1, get.number(resource, "status", "attempt"))
    name = names.job(get.name(resource), children.ROLE, attempt)
    if _controlled(pod, job) and _controlled(job, resource) and get.name(job) == name:
        return attempt
    return None


def _controlled(child: Manifest, by: Manifest) -> bool:
    uid = get.text(by, "metadata", "uid")
    owners: Sequence[Manifest] = get.items(child, "metadata", "ownerReferences")
    return bool(uid) and any(owner.get("uid") == uid and owner.get("controller") is True for owner in owners)


def told(
    old: Manifest, report: Report | None, attempt: int, *, running: bool, folder: str | None = None
) -> Manifest:
    """The status' `progress` and `checkpoint`: the report's, if it is news, else as they were.

    `eta` is for what runs. `folder` is the address of the job's checkpoints.
    """
    found = {name: get.mapping(old, name) for name in ("progress", "checkpoint")}
    if report is not None and report.attempt == attempt and _is_news(report, found["progress"]):
        if report.step is not None:
            found["progress"] = _progress(report, report.step)
        if report.checkpoint is not None and folder is not None:
            step, time, name = report.checkpoint
            uri = f"{folder.rstrip('/')}/{name}"
            found["checkpoint"] = {"step": step, "time": get.timestamp(time), "uri": uri}
    if not running:
        found["progress"] = {key: value for key, value in found["progress"].items() if key != "eta"}
    return {name: value for name, value in found.items() if value}


def _is_news(report: Report, found: Manifest) -> bool:
    """Who leads again after another has may still have what was reported long ago."""
    before = get.time(found, "time")
    return before is None or report.time >= before


def _progress(report: Report, step: int) -> Manifest:
    result: Manifest = {"step": step, "time": get.timestamp(report.time), "summary": str(step)}
    if report.total:
        percent = min(100, 100 * step // report.total)
        result |= {
            "totalSteps": report.total,
            "percent": percent,
            "summary": f"{step}/{report.total} {percent}%",
        }
    if report.remaining is not None and report.remaining < timedelta(days=3650).total_seconds():
        result["eta"] = get.timestamp(report.time + timedelta(seconds=report.remaining))
    if report.metrics:
        result["metrics"] = {name: _short(value) for name, value in sorted(report.metrics.items())}
    return result


def _short(value: float) -> float:
    """Six digits: what a person reads."""
    return float(f"{value:.6g}") if math.isfinite(value) else 0.0


def condition(old: Manifest, report: Report | None, attempt: int) -> Condition:
    """Whether this attempt has been heard of, also by who led before."""
    before = conditions.find(old, REPORTED)
    known = get.number(old, "attempt") == attempt and before.get("status") == TRUE
    if known or (report is not None and report.attempt == attempt):
        return Condition(REPORTED, TRUE, HEARD, "The program's progress arrives.")
    return Condition(
        REPORTED,
        UNKNOWN,
        NOTHING_HEARD,
        "The program has reported no progress. If it writes to CAPSTAN_PROGRESS_FILE, the log of replica 0"
        " says why that does not arrive; the job runs on without.",
    )
