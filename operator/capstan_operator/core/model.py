"""What the core and the shell say to each other.

The shell gathers an `Observed`, calls `Kind.plan` and carries the `Plan` out. Everything here is data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

#: A Kubernetes object, as its JSON.
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object by name; with a uid, one incarnation of it. `force`: deleted without waiting for its node."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell about the owner, once."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the program of an attempt has said last of its progress, checked for its shape."""

    attempt: int
    time: datetime
    step: int | None = None
    total: int | None = None
    #: Seconds that are left, at the pace so far.
    remaining: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    #: The newest checkpoint: its step, when it was saved, its folder's name.
    checkpoint: tuple[int, datetime, str] | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """The world as one resource should see it: its children, what it refers to, what its program said."""

    children: tuple[Manifest, ...] = ()
    references: tuple[Manifest, ...] = ()
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be.

    `apply` is server-side applied in its order, `delete` deleted after it. With `decision`, the status is
    written first, on the resourceVersion the plan was made from, and nothing is done unless that succeeds.
    """

    status: Manifest
    apply: tuple[Manifest, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    events: tuple[Event, ...] = ()
    #: Look again after so many seconds even if nothing changes.
    requeue_after: float | None = None
    decision: bool = False


#: Where models and data may come from when nobody says otherwise.
FETCH_ALLOW: Final = ("pvc", "s3", "gs", "az", "https", "hf")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where programs' progress is reported to: an https address, and what its certificate is verified by."""

    url: str
    authority: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator is started with and manifests depend on."""

    agent_image: str
    serving_image: str
    #: What fetches are allowed, as SCHEME[://HOST-GLOB[:PORT]]. Always told to the agent: where it is told
    #: nothing, its environment decides, and that is a Secret of the user's.
    fetch_allow: tuple[str, ...] = FETCH_ALLOW
    #: Whether NetworkPolicies are made.
    network_policies: bool = True
    #: Where the runners report progress; None: they do not.
    reports: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class ChildKind:
    """A kind of object that plans create, or that those create."""

    api_version: str
    kind: str
    plural: str


Planner = Callable[[Manifest, Observed, datetime, Settings], Plan]


@dataclass(frozen=True, slots=True)
class Kind:
    """A custom resource: where it is served, what to watch for it, how to plan it, what it refers to."""

    api_version: str
    kind: str
    plural: str
    children: tuple[ChildKind, ...]
    plan: Planner
    references: Callable[[Manifest], tuple[ObjectRef, ...]]
