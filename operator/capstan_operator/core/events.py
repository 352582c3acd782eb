"""Events, from what has changed between the old status and the new: each is told once."""

from __future__ import annotations

from typing import Final

from capstan_operator.core import conditions, get
from capstan_operator.core.model import Event, Manifest

#: What every start goes through: the scheduler and the kubelet tell of it, at the pods.
_PASSING: Final = frozenset({"PodsPending", "Initializing"})
#: Other reasons of a Ready condition that is not True and that nobody need be warned of.
_CALM: Final = frozenset(
    {
        "Restarting",
        "Resumed",
        "Suspended",
        "Queued",
        "SchedulingGated",
        "Updating",
        "Ending",
        "TrainingJobNotFinished",
        "Running",
        "Succeeded",
    }
)


def transitions(old: Manifest, new: Manifest) -> tuple[Event, ...]:
    """What there is to tell: why the resource is ready, or is not, if that is news."""
    before, after = conditions.find(old, conditions.READY), conditions.find(new, conditions.READY)
    reason = get.text(after, "reason")
    if not reason or reason in _PASSING:
        return ()
    if (before.get("status"), before.get("reason")) == (after.get("status"), reason):
        return ()
    calm = after.get("status") == conditions.TRUE or reason in _CALM
    return (Event("Normal" if calm else "Warning", reason, get.text(after, "message")),)
