"""Questions about observed pods, asked by several policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from capstan_operator.core import get, labels
from capstan_operator.core.model import Manifest, ObjectRef, Observed


@dataclass(frozen=True, slots=True)
class Container:
    """A container's status. `init` for those that run before the main ones."""

    name: str
    image: str
    ready: bool
    restarts: int
    state: Manifest
    last: Manifest
    init: bool

    @property
    def waiting(self) -> Manifest:
        """Why it waits, when it does."""
        return get.mapping(self.state, "waiting")

    @property
    def failed(self) -> Manifest:
        """The terminated state of its last failure, when it has not been well since."""
        if self.ready:
            return {}
        for state in (self.state, self.last):
            ended = get.mapping(state, "terminated")
            if ended:
                return ended if get.number(ended, "exitCode") else {}
        return {}

    @property
    def ended_well(self) -> bool:
        """Whether it has done what it was to do."""
        ended = get.mapping(self.state, "terminated")
        return bool(ended) and get.number(ended, "exitCode") == 0


def of_kind(seen: Observed, kind: str) -> list[Manifest]:
    """The children of a kind, by name, so that nothing depends on the order they came in."""
    found = (child for child in seen.children if child.get("kind") == kind)
    return sorted(found, key=lambda child: (get.name(child), get.text(child, "metadata", "uid")))


def pods(seen: Observed, label: str, value: str) -> list[Manifest]:
    """The pods with a label, by index and name."""
    return sorted(
        (pod for pod in of_kind(seen, "Pod") if get.labels(pod).get(label) == value),
        key=lambda pod: (index(pod), get.name(pod)),
    )


def index(pod: Manifest) -> int:
    """A pod's index in its Job; -1 when it has none."""
    found = get.labels(pod).get(labels.COMPLETION_INDEX) or get.text(
        pod, "metadata", "annotations", labels.COMPLETION_INDEX
    )
    return int(found) if isinstance(found, str) and found.isdecimal() and len(found) < 10 else -1


def containers(pod: Manifest) -> Iterator[Container]:
    """The statuses of all containers, in the order they start."""
    for field, init in (("initContainerStatuses", True), ("containerStatuses", False)):
        for status in get.items(pod, "status", field):
            yield Container(
                name=get.text(status, "name"),
                image=get.text(status, "image"),
                ready=status.get("ready") is True,
                restarts=get.number(status, "restartCount"),
                state=get.mapping(status, "state"),
                last=get.mapping(status, "lastState"),
                init=init,
            )


def condition(obj: Manifest, kind: str) -> Manifest:
    """A condition in an object's status, or an empty mapping."""
    return next((c for c in get.items(obj, "status", "conditions") if c.get("type") == kind), {})


def is_true(obj: Manifest, kind: str) -> bool:
    """Whether an object's condition holds."""
    return condition(obj, kind).get("status") == "True"


def phase(pod: Manifest) -> str:
    """A pod's phase."""
    return get.text(pod, "status", "phase")


def terminal(pod: Manifest) -> bool:
    """Whether a pod has ended, well or badly."""
    return phase(pod) in {"Succeeded", "Failed"}


def deleted(obj: Manifest) -> bool:
    """Whether somebody has asked for the object's end."""
    return bool(get.text(obj, "metadata", "deletionTimestamp"))


def deletion_asked(obj: Manifest) -> datetime | None:
    """When an object's deletion was asked for: its timestamp is when the grace is over."""
    end = get.time(obj, "metadata", "deletionTimestamp")
    grace = min(get.number(obj, "metadata", "deletionGracePeriodSeconds"), 10**6)
    return end - timedelta(seconds=grace) if end else None


def reference(obj: Manifest) -> ObjectRef:
    """An object as the one it is now."""
    return ObjectRef(
        get.text(obj, "apiVersion"),
        get.text(obj, "kind"),
        get.text(obj, "metadata", "namespace"),
        get.name(obj),
        get.text(obj, "metadata", "uid") or None,
    )


def count(flags: Iterable[bool]) -> int:
    """How many are true."""
    return sum(1 for flag in flags if flag)
