"""Whether a failed attempt is tried again: a budget for each class of failure.

What was not the program's fault is tried again, on other nodes if need be; what was would only fail again.
"""

from __future__ import annotations

from typing import Final

from capstan_operator.core import get
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies.failure import INFRASTRUCTURE, OUT_OF_MEMORY, USER, Failure

#: Restarts for each class, over the life of a TrainingJob.
BUDGETS: Final[dict[str, int]] = {USER: 0, OUT_OF_MEMORY: 0, INFRASTRUCTURE: 3}


def spent(status: Manifest, class_: str) -> int:
    """How many restarts of a class a job has had."""
    return get.number(status, "restarts", class_)


def allowed(status: Manifest, failure: Failure) -> bool:
    """Whether there is a restart left for this failure."""
    return spent(status, failure.class_) < BUDGETS[failure.class_]


def charged(status: Manifest, failure: Failure) -> Manifest:
    """The restarts, with one more."""
    restarts = {name: count for name in BUDGETS if BUDGETS[name] and (count := spent(status, name))}
    return restarts | {failure.class_: spent(status, failure.class_) + 1}
