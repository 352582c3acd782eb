"""Whether a failed attempt is tried again: a budget for each class of failure.

What was not the program's fault is tried again, on other nodes if need be; what was would mostly fail again.
A job that gets on between its failures may have any number of them: a checkpoint newer than the one that the
last failure left behind gives all budgets back.
"""

from __future__ import annotations

from typing import Final

from capstan_operator.api.training_policies import FailurePolicy
from capstan_operator.core import get
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies.failure import HANG, INFRASTRUCTURE, OUT_OF_MEMORY, USER, Class, Failure

CLASSES: Final[tuple[Class, ...]] = (USER, OUT_OF_MEMORY, INFRASTRUCTURE, HANG)


def maximum(policy: FailurePolicy, class_: Class) -> int:
    """The restarts a class has."""
    budgets = {
        USER: policy.user,
        OUT_OF_MEMORY: policy.out_of_memory,
        INFRASTRUCTURE: policy.infrastructure,
        HANG: policy.hang,
    }
    return budgets[class_].max_restarts


def counted(status: Manifest) -> dict[str, int]:
    """The restarts of each class that count towards its maximum."""
    if _newest(status) > _left_behind(status):
        return {}
    # An older release knew one count only.
    field = "restartsCountTowardsMax" if "restartsCountTowardsMax" in status else "restarts"
    return _counts(status, field)


def allowed(status: Manifest, failure: Failure, policy: FailurePolicy) -> bool:
    """Whether there is a restart left for this failure."""
    return counted(status).get(failure.class_, 0) < maximum(policy, failure.class_)


def charged(status: Manifest, failure: Failure) -> Manifest:
    """What the status says of restarts, with one more."""
    fields = {"restarts": _counts(status, "restarts"), "restartsCountTowardsMax": counted(status)}
    return {
        name: counts | {failure.class_: counts.get(failure.class_, 0) + 1} for name, counts in fields.items()
    }


def checkpoint_step(status: Manifest) -> int | None:
    """The newest checkpoint's step that a failure now leaves behind; a program may fall behind it again."""
    step = max(_newest(status), _left_behind(status))
    return step if step >= 0 else None


def _counts(status: Manifest, field: str) -> dict[str, int]:
    return {name: count for name in CLASSES if (count := get.number(status, field, name))}


def _newest(status: Manifest) -> int:
    return get.number(status, "checkpoint", "step") if get.mapping(status, "checkpoint") else -1


def _left_behind(status: Manifest) -> int:
    known = "checkpointStep" in get.mapping(status, "failure")
    return get.number(status, "failure", "checkpointStep") if known else -1
