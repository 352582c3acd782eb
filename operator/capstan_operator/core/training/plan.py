"""The plan of a TrainingJob: one attempt after the other, until it has succeeded or failed for good.

Decided, recorded, done: a new attempt is in the status before the old one's Job is deleted, and the end is
final. Everything else is derived anew on each pass.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from capstan_operator.api.training_job import MANAGER, TrainingJobSpec
from capstan_operator.core import conditions, events, get, labels, observed, origin
from capstan_operator.core import spec as specs
from capstan_operator.core.model import Event, Manifest, ObjectRef, Observed, Plan, Settings
from capstan_operator.core.policies import attempt as attempts
from capstan_operator.core.policies import deadline, failure, lost, nodes, pending, restart
from capstan_operator.core.policies.failure import Failure
from capstan_operator.core.policies.finding import Finding
from capstan_operator.core.training import children, gang, status

ENDING: Final = "Ending"
RESTARTING: Final = "Restarting"
SPEC_CHANGED: Final = "SpecChanged"
RESUMED: Final = "Resumed"


def references(resource: Manifest) -> tuple[ObjectRef, ...]:
    """A TrainingJob refers to no other object."""
    del resource
    return ()


def plan(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
    """What should become of a TrainingJob now."""
    if observed.deleted(resource) or get.text(resource, "spec", "managedBy") not in ("", MANAGER):
        return Plan(status=get.mapping(resource, "status"))
    result = _planned(resource, seen, now, settings)
    dead, look_again = lost.given_up(observed.of_kind(seen, "Pod"), now)
    delete, requeue_after = (*result.delete, *dead), _sooner(result, look_again)
    return replace(result, delete=delete, requeue_after=requeue_after)


def _planned(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
    old = get.mapping(resource, "status")
    if get.text(old, "phase") in status.FINAL:
        return _finished(resource, old, seen, now)
    spec = specs.parsed(TrainingJobSpec, resource)
    if isinstance(spec, Finding):
        return _told(old, Plan(status=status.invalid(resource, spec, now)))
    result = _active(resource, spec, seen, now, settings)
    if result.status["phase"] not in status.FINAL:
        result = replace(result, requeue_after=_sooner(result, deadline.look_again(spec, result.status, now)))
    return _told(old, result)


def _active(
    resource: Manifest, spec: TrainingJobSpec, seen: Observed, now: datetime, settings: Settings
) -> Plan:
    attempt = max(1, get.number(resource, "status", "attempt"))
    resource = status.informed(resource, spec, attempt, seen.report)
    service = children.peers_service(resource)
    live = gang.job(resource, seen, attempt)
    pods = gang.pods(seen, attempt, live)
    facts = status.Facts(resource, spec, attempt, pods, live, now, seen.report)
    wants_output = spec.output is not None and children.supervised(spec)
    standing = attempts.standing(live, pods, wants_output, now)

    if standing.state == "succeeded":
        # Nothing is applied: what the cluster said to it would be the last word of a job that has ended well.
        return Plan(status=status.succeeded(facts), decision=True)
    if spec.suspend:
        return _suspended(facts, seen)
    if get.text(resource, "status", "phase") == status.SUSPENDED and get.number(
        resource, "status", "attempt"
    ):
        reason = Finding(RESUMED, f"The job is resumed: attempt {attempt + 1} begins.")
        return _next_attempt(facts, reason, service, seen, {})
    if live is not None and _changed(resource, spec, live):
        # Also when it has failed: the spec that failed is no longer asked for.
        reason = Finding(
            SPEC_CHANGED, f"The spec has changed: attempt {attempt + 1} begins with the new one."
        )
        return _next_attempt(facts, reason, service, seen, {})
    if standing.state == "failed" and standing.failure is not None:
        return _failed(facts, standing.failure, service, seen)
    if standing.state == "ending":
        finding = Finding(ENDING, "A replica has ended, and the others are waited for.")
        return Plan(status.active(facts, finding), apply=(service,), requeue_after=standing.look_again)

    wait = gang.left_behind(seen, now) if standing.state == "absent" else None
    finding, look_again = _why(facts) if wait is None else (_waiting(attempt), wait)
    told = status.active(facts, finding)
    # By the clocks as they are now: what was on record may be from before the gang ran, or was held back.
    over = deadline.exceeded(spec, told, finding, now)
    if over is not None:
        return _ended(facts, over, seen)
    if wait is not None:
        return Plan(told, apply=(service,), delete=gang.earlier(seen, attempt), requeue_after=wait)
    desired = children.job(resource, spec, attempt, settings, live)
    if live is not None and standing.state == "active":
        desired = children.kept(desired, live)
    return Plan(
        status=told,
        apply=(service, desired),
        delete=gang.earlier(seen, attempt),
        requeue_after=look_again,
    )


def _waiting(attempt: int) -> Finding:
    message = f"Pods of an earlier gang are waited for to end; then attempt {attempt} begins."
    return Finding(RESTARTING if attempt > 1 else pending.PODS_PENDING, message)


def _why(facts: status.Facts) -> tuple[Finding, float | None]:
    """What an active attempt is doing, and when to look again."""
    if facts.job is None:
        if facts.attempt > 1:
            return Finding(RESTARTING, f"Attempt {facts.attempt} begins."), None
        return Finding(pending.PODS_PENDING, "The job's pods are being made."), None
    held_back = pending.queued(facts.job)
    if held_back is not None:
        return held_back, None
    if observed.is_true(facts.job, "SuccessCriteriaMet"):
        return Finding(ENDING, "The job has done what it is for, and its last pods end."), None
    if any(failure.began(pod) for pod in facts.pods):
        return Finding(ENDING, "A replica has failed, and the others are ended."), None
    if facts.started == facts.spec.replicas:
        return Finding("Running", f"{facts.started} of {facts.spec.replicas} replicas have started."), None
    if not facts.pods:
        refused = pending.refused(facts.job, facts.now)
        if refused:
            return refused, None
        left = max(1.0, pending.silence_left(facts.job, facts.now))
        return Finding(pending.PODS_PENDING, "The job's pods are being made."), left
    avoided = nodes.avoided(get.mapping(facts.resource, "status"))
    asked = pending.Asked(facts.spec.accelerator.type if facts.spec.accelerator else None, tuple(avoided))
    return pending.why(facts.pods, asked), None


def _suspended(facts: status.Facts, seen: Observed) -> Plan:
    """Record that the job stands still, then end its gang: what becomes of that is nobody's failure."""
    going = observed.count(not observed.terminal(pod) for pod in observed.of_kind(seen, "Pod"))
    return Plan(
        status=status.suspended(facts, going),
        delete=gang.earlier(seen, facts.attempt + 1),
        decision=get.text(facts.resource, "status", "phase") != status.SUSPENDED,
    )


def _failed(facts: status.Facts, why: Failure, service: Manifest, seen: Observed) -> Plan:
    old = get.mapping(facts.resource, "status")
    if not restart.allowed(old, why, facts.spec.failure_policy):
        return _ended(facts, why, seen)
    reason = Finding(
        RESTARTING, f"Attempt {facts.attempt} failed ({why.reason}) and is tried again: {why.message}"
    )
    update = restart.charged(old, why) | {"failure": status.failure_of(facts, why)}
    if failed := nodes.counted(old, why):
        update["failedNodes"] = failed
    return _next_attempt(facts, reason, service, seen, update)


def _ended(facts: status.Facts, why: Failure, seen: Observed) -> Plan:
    """The job has failed for good."""
    return Plan(status=status.failed(facts, why), delete=gang.unfinished(seen, facts.attempt), decision=True)


def _next_attempt(
    facts: status.Facts, reason: Finding, service: Manifest, seen: Observed, update: Manifest
) -> Plan:
    """Record that there is another attempt, then end this one. The next Job is made when pods are gone."""
    new = status.restarting(facts, reason) | update
    return Plan(
        status=new,
        apply=(service,),
        delete=gang.earlier(seen, facts.attempt + 1),
        events=(Event("Warning" if update else "Normal", reason.reason, reason.message),),
        decision=True,
        requeue_after=1.0,
    )


def _finished(resource: Manifest, old: Manifest, seen: Observed, now: datetime) -> Plan:
    """Nothing is made any more. What was decided to go goes, and the rest when its time is up."""
    attempt = get.number(old, "attempt")
    told = {**old, "observedGeneration": get.number(resource, "metadata", "generation")}
    left = deadline.kept_for(resource, now)
    if left is not None and left <= 0:
        return Plan(told, delete=gang.all_children(seen))
    ended = gang.earlier(seen, attempt) if old["phase"] == "Succeeded" else gang.unfinished(seen, attempt)
    return Plan(told, delete=ended, requeue_after=left)


def _sooner(plan: Plan, seconds: float | None) -> float | None:
    return min((s for s in (plan.requeue_after, seconds) if s is not None), default=None)


def _told(old: Manifest, new: Plan) -> Plan:
    """The plan, with events for what is new in its status."""
    told = events.transitions(old, new.status)
    known = {event.reason for event in new.events}
    extra = tuple(event for event in told if event.reason not in known)
    return Plan(new.status, new.apply, new.delete, new.events + extra, new.requeue_after, new.decision)


def _changed(resource: Manifest, spec: TrainingJobSpec, job: Manifest) -> bool:
    """Whether what is asked for is not what the Job was made from."""
    asked, made = children.asked(resource, spec), origin.of(job)
    if made:
        return not asked.same(made)
    # Release 0.1.0 made it. Its hash is of the fields that it knew; what it has seen, it has acted upon,
    # unless it could not make sense of it.
    before = get.text(job, "metadata", "annotations", labels.SPEC_HASH)
    refused = observed.condition(resource, conditions.READY).get("reason") == specs.INVALID_SPEC
    return before not in {"", asked.spec} and (refused or not origin.seen(resource))
