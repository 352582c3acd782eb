"""What the cluster said to a child: its name is another's, or it is refused. Both become conditions.

The shell finds these out while it carries a plan out, and asks here what to tell the user.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from capstan_operator.core import conditions, events, get
from capstan_operator.core.conditions import Condition
from capstan_operator.core.model import Manifest, ObjectRef, Plan
from capstan_operator.core.policies.finding import Finding

OWNERSHIP_CONFLICT: Final = "OwnershipConflict"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
CHILD_REFUSED: Final = "ChildRefused"
NOT_ALLOWED: Final = "NotAllowed"

#: Seconds until what is in the way is looked at again: nobody tells us when it goes.
RETRY: Final = 15.0


def with_conflict(plan: Plan, resource: Manifest, ref: ObjectRef, now: datetime) -> Plan:
    """The plan, saying that an object of somebody else's has a child's name."""
    return _explained(
        plan,
        resource,
        Finding(
            OWNERSHIP_CONFLICT,
            f"The {ref.kind} {ref.name} exists and is not this {resource['kind']}'s, so it is left alone:"
            " delete or rename"
            f" it, or give this {resource['kind']} another name.",
        ),
        now,
    )


def with_rejection(
    plan: Plan, resource: Manifest, ref: ObjectRef, reason: str, message: str, now: datetime
) -> Plan:
    """The plan, saying that the API server will not have a child, and why (its reason and message)."""
    return _explained(plan, resource, _rejection(ref, reason, message), now)


def _rejection(ref: ObjectRef, reason: str, message: str) -> Finding:
    what = f"The {ref.kind} {ref.name}"
    if "exceeded quota" in message:
        return Finding(
            QUOTA_EXCEEDED,
            f"{what} does not fit into the namespace's quota: {message}. Ask for less, or raise it.",
        )
    if reason == "Forbidden" and "cannot" in message:
        return Finding(
            NOT_ALLOWED,
            f"The operator may not make {what[4:]}: {message}. Give its service account the permission (the"
            " chart's"
            " ClusterRole has it).",
        )
    if reason in {"Forbidden", "Invalid", "BadRequest", "UnprocessableEntity", "RequestEntityTooLarge"}:
        return Finding(
            CHILD_REFUSED, f"The API server refuses {what[0].lower()}{what[1:]}: {message}. Correct the spec."
        )
    known = reason if reason.isidentifier() else CHILD_REFUSED
    return Finding(known, f"{what} cannot be made so: {message}. It is tried again.")


def _explained(plan: Plan, resource: Manifest, finding: Finding, now: datetime) -> Plan:
    old = get.mapping(resource, "status")
    others = [
        Condition(c["type"], c["status"], c["reason"], c["message"])
        for c in get.items(plan.status, "conditions")
        if c["type"] != conditions.READY
    ]
    ready = Condition(conditions.READY, conditions.FALSE, finding.reason, finding.message)
    generation = get.number(resource, "metadata", "generation")
    status = {**plan.status, "conditions": conditions.merged(old, [ready, *others], generation, now)}
    soon = min(RETRY, plan.requeue_after) if plan.requeue_after else RETRY
    return replace(plan, status=status, events=events.transitions(old, status), requeue_after=soon)
