"""The status of a TrainingJob, from what is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from capstan_operator.api.training_job import TrainingJobSpec
from capstan_operator.core import conditions, get, observed, termination
from capstan_operator.core.conditions import FALSE, READY, TRUE, UNKNOWN, Condition
from capstan_operator.core.model import Manifest, Report
from capstan_operator.core.policies import deadline, pending, restart
from capstan_operator.core.policies.failure import Failure
from capstan_operator.core.policies.finding import Finding
from capstan_operator.core.training import children, progress, reporting

SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"
FINAL: Final = frozenset({SUCCEEDED, FAILED})
SUSPENDED: Final = "Suspended"
SUPERVISED: Final = "Supervised"
#: kstatus: it will not become ready by itself.
STALLED: Final = "Stalled"
#: What outlives a pass: it was decided before, or the program has told it.
_KEPT: Final = ("restarts", "restartsCountTowardsMax", "failure", "failedNodes", "progress", "checkpoint")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status is made from: the resource, and its current attempt as observed."""

    resource: Manifest
    spec: TrainingJobSpec
    attempt: int
    pods: Sequence[Manifest]
    job: Manifest | None
    now: datetime
    report: Report | None = None

    @property
    def started(self) -> int:
        """How many replicas' programs have started, whatever has become of them."""
        return observed.count(_has_started(pod) for pod in self.pods) + self._cleaned_away

    @property
    def _cleaned_away(self) -> int:
        """How many replicas have ended well, as their Job has counted, and have no pod any more."""
        succeeded = observed.count(observed.phase(pod) == "Succeeded" for pod in self.pods)
        missing = self.spec.replicas - len(self.pods)
        return max(0, min(get.number(self.job, "status", "succeeded") - succeeded, missing))


def informed(resource: Manifest, spec: TrainingJobSpec, attempt: int, report: Report | None) -> Manifest:
    """The resource as if the last report were on record, for a failure comes right behind it."""
    old = get.mapping(resource, "status")
    heard = progress.told(old, report, attempt, running=True, folder=_folder(spec))
    return {**resource, "status": {**old, **heard}} if heard else resource


def active(facts: Facts, finding: Finding) -> Manifest:
    """An attempt is going on; `finding` says how."""
    running = finding.reason == "Running"
    return _status(
        facts,
        _phase(finding.reason, facts.job is not None),
        [
            Condition(READY, TRUE if running else FALSE, finding.reason, finding.message),
            Condition(SUCCEEDED, UNKNOWN, "NotFinished", "The job has not ended yet."),
            Condition(FAILED, FALSE, "NotFailed", "The job has not failed for good."),
        ],
    )


def restarting(facts: Facts, reason: Finding) -> Manifest:
    """The next attempt has been decided on."""
    following = Facts(facts.resource, facts.spec, facts.attempt + 1, (), None, facts.now)
    return {**active(following, reason), "phase": "Restarting"}


def suspended(facts: Facts, going: int) -> Manifest:
    """Nothing is to run; `going` pods still do. What has not begun has no attempt, and no beginning."""
    what = f"{going} pods save and end" if going else "No pods run"
    result = _status(
        facts,
        SUSPENDED,
        [
            Condition(READY, FALSE, SUSPENDED, f"{what}, as spec.suspend says. Set it to false to go on."),
            Condition(SUCCEEDED, UNKNOWN, "NotFinished", "The job has not ended yet."),
            Condition(FAILED, FALSE, "NotFailed", "The job has not failed for good."),
        ],
    )
    begun = get.number(facts.resource, "status", "attempt") or facts.job
    return result if begun else {k: v for k, v in result.items() if k not in ("attempt", "startTime")}


def succeeded(facts: Facts) -> Manifest:
    """All replicas have ended well."""
    output = _output(facts)
    policy = facts.spec.success_policy
    message = (
        f"Replica {policy.replica} has completed, which is what spec.successPolicy asks for."
        if policy
        else f"{facts.spec.replicas} of {facts.spec.replicas} replicas have completed."
    )
    if output:
        message += f" The model is at {output['uri']}."
    result = _status(
        facts,
        SUCCEEDED,
        [
            Condition(READY, TRUE, SUCCEEDED, message),
            Condition(SUCCEEDED, TRUE, SUCCEEDED, message),
            Condition(FAILED, FALSE, "NotFailed", "The job has not failed."),
        ],
    )
    result |= {"completionTime": get.timestamp(_ended(facts) or facts.now)}
    return result | ({"output": output} if output else {})


def failed(facts: Facts, failure: Failure) -> Manifest:
    """The job has failed for good."""
    where = f"{failure.pod}: " if failure.pod else ""
    spent = restart.counted(get.mapping(facts.resource, "status")).get(failure.class_, 0)
    again = f" It has been restarted {spent} times, and is not any more." if spent else ""
    message = f"{where}{failure.message}{again} To try again, delete this TrainingJob and create it anew."
    result = _status(
        facts,
        FAILED,
        [
            Condition(READY, FALSE, failure.reason, message),
            Condition(SUCCEEDED, FALSE, failure.reason, message),
            Condition(FAILED, TRUE, failure.reason, message),
            Condition(STALLED, TRUE, failure.reason, message),
        ],
    )
    return result | {
        "failure": failure_of(facts, failure),
        "completionTime": get.timestamp(facts.now),
    }


def failure_of(facts: Facts, failure: Failure) -> Manifest:
    """What is on record of an attempt's failure: whose it was, and which Job's and pod's."""
    uid = get.text(facts.job, "metadata", "uid")
    step = restart.checkpoint_step(get.mapping(facts.resource, "status"))
    optional = {"jobUID": uid or None, "checkpointStep": step}
    return failure.json(facts.attempt) | {k: v for k, v in optional.items() if v is not None}


def invalid(resource: Manifest, finding: Finding, now: datetime) -> Manifest:
    """The spec is none. What runs is let run; nothing is made until the spec is corrected."""
    old = get.mapping(resource, "status")
    generation = get.number(resource, "metadata", "generation")
    told = [
        Condition(READY, FALSE, finding.reason, finding.message),
        Condition(STALLED, TRUE, finding.reason, finding.message),
    ]
    return {
        "phase": "Pending",
        **old,
        "conditions": conditions.merged(old, told, generation, now),
        "observedGeneration": generation,
    }


def _status(facts: Facts, phase: str, told: list[Condition]) -> Manifest:
    old = get.mapping(facts.resource, "status")
    generation = get.number(facts.resource, "metadata", "generation")
    kept = {key: found for key in _KEPT if (found := get.mapping(old, key))}
    return {
        "phase": phase,
        "conditions": conditions.merged(
            old, [*told, _supervision(facts.spec), *_reporting(facts)], generation, facts.now
        ),
        "observedGeneration": generation,
        "attempt": facts.attempt,
        "replicas": {children.ROLE: _replicas(facts)},
        **deadline.clocks(old, phase, facts.attempt, facts.spec, facts.now),
        **kept,
        **progress.told(
            old,
            facts.report,
            facts.attempt,
            running=phase == "Running",
            folder=_folder(facts.spec),
        ),
    }


def _folder(spec: TrainingJobSpec) -> str | None:
    return spec.checkpoint.uri if spec.checkpoint else None


def _reporting(facts: Facts) -> list[Condition]:
    """What is known of progress, in jobs whose pods were made to report it."""
    if facts.job is None or not reporting.wanted(facts.job):
        return []
    return [progress.condition(get.mapping(facts.resource, "status"), facts.report, facts.attempt)]


def _phase(reason: str, has_job: bool) -> str:
    if reason == "Running":
        return "Running"
    if reason == "Restarting":
        return "Restarting"
    if reason == "Ending":
        return "Running"
    if reason in pending.HELD_BACK:
        return "Queued"
    return "Pending" if reason in pending.UNPLACED or not has_job else "Initializing"


def _supervision(spec: TrainingJobSpec) -> Condition:
    if not spec.supervise:
        return Condition(SUPERVISED, FALSE, "NotWanted", "spec.supervise is false.")
    if spec.command is None:
        return Condition(
            SUPERVISED,
            FALSE,
            "NoCommand",
            "The image's own entry point runs, so failures are told by their exit code only, and no digest"
            " of the model is"
            " taken: set spec.command for more.",
        )
    return Condition(SUPERVISED, TRUE, "RunnerInjected", "The command runs under Capstan's runner.")


def _replicas(facts: Facts) -> Manifest:
    told = get.mapping(facts.job, "status")
    return {
        "desired": facts.spec.replicas,
        "ready": observed.count(
            observed.phase(pod) == "Running" and observed.is_true(pod, "Ready") and not observed.deleted(pod)
            for pod in facts.pods
        ),
        # Pods that have ended may be gone; their Job has counted them.
        "succeeded": max(
            observed.count(observed.phase(pod) == "Succeeded" for pod in facts.pods),
            get.number(told, "succeeded"),
        ),
        "failed": max(
            observed.count(observed.phase(pod) == "Failed" for pod in facts.pods), get.number(told, "failed")
        ),
    }


def _has_started(pod: Manifest) -> bool:
    if observed.terminal(pod):
        return True
    # A container that has ended is seen before its pod has.
    return any(
        container.name == children.TRAINER and {"running", "terminated"} & container.state.keys()
        for container in observed.containers(pod)
    )


def _output(facts: Facts) -> Manifest:
    uri = children.output_file(facts.spec)
    if uri is None:
        return {}
    first = next((pod for pod in facts.pods if observed.index(pod) == 0), {})
    for container in observed.containers(first):
        if container.name == children.TRAINER:
            said = termination.of(get.mapping(container.state, "terminated"))
            if said and said.digest:
                return {"uri": uri, "digest": said.digest}
    return {"uri": uri}


def _ended(facts: Facts) -> datetime | None:
    return get.time(facts.job, "status", "completionTime")
