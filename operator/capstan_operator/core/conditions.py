"""metav1.Conditions: derived anew on each pass, with the time of the last change kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from capstan_operator.core import get
from capstan_operator.core.model import Manifest

READY: Final = "Ready"
TRUE: Final = "True"
FALSE: Final = "False"
UNKNOWN: Final = "Unknown"

_MESSAGE_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Condition:
    """What is so, why, and what to do."""

    type: str
    status: str
    reason: str
    message: str


def find(status: Manifest, kind: str) -> Manifest:
    """A condition of a status, or an empty mapping."""
    return next((c for c in get.items(status, "conditions") if c.get("type") == kind), {})


def since(status: Manifest, kind: str) -> datetime | None:
    """When a condition last changed."""
    return get.time(find(status, kind), "lastTransitionTime")


def merged(old: Manifest, new: Iterable[Condition], generation: int, now: datetime) -> list[Manifest]:
    """The conditions to write. Those of `old` that are not in `new` are no more."""
    result = []
    for condition in new:
        before = find(old, condition.type)
        unchanged = before.get("status") == condition.status and get.text(before, "lastTransitionTime")
        result.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": _shortened(condition.message),
                "lastTransitionTime": unchanged or get.timestamp(now),
                "observedGeneration": generation,
            }
        )
    return result


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"
