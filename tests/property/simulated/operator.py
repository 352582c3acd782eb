"""The real shell and the real plans on the simulated API server, with everything between them unreliable.

Watch events wait until they are delivered, in any order, twice, or never; requests fail before or after they
have had their effect; the process dies between any two writes and begins anew with nothing remembered.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from capstan_operator.core.kinds import KINDS
from capstan_operator.core.labels import MANAGED_BY
from capstan_operator.core.model import Event, Kind, Manifest, ObjectRef, Observed, Plan, Settings
from capstan_operator.shell.apply import Applier
from capstan_operator.shell.errors import Gone, Rejected, Stale, Transient
from capstan_operator.shell.gather import References
from capstan_operator.shell.keys import Key, Resource, owner_among
from capstan_operator.shell.metrics import Metrics
from capstan_operator.shell.queue import WorkQueue
from capstan_operator.shell.reconcile import Reconciler
from capstan_operator.shell.status import StatusWriter
from capstan_operator.shell.store import Store, version_of

from tests.property.simulated.cluster import Cluster, Refused, over

SETTINGS = Settings(agent_image="agent:1", serving_image="serving:1")
OWN = {kind.kind: Resource(kind.api_version, kind.kind, kind.plural) for kind in KINDS}
CHILDREN = {c.kind: Resource(c.api_version, c.kind, c.plural) for kind in KINDS for c in kind.children}

Result = TypeVar("Result")


class Crash(BaseException):
    """The process is killed."""


@dataclass(frozen=True)
class Fault:
    """What becomes of a write: the `at`-th from now, before or after it has had its effect."""

    at: int
    after: bool
    crash: bool


class Api:
    """The Api protocol on the simulated cluster. `watchdog` sees every write before it is done."""

    def __init__(self, cluster: Cluster, watchdog: Callable[[str, Manifest], str | None]) -> None:
        self._cluster = cluster
        self._watchdog = watchdog
        self.fault: Fault | None = None
        self.writes = 0
        self.broken: list[str] = []

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        return self._cluster.get(resource.kind, name)

    async def apply(self, resource: Resource, manifest: Manifest) -> Manifest:
        def do() -> Manifest:
            try:
                return self._cluster.apply(manifest)
            except Refused as error:
                raise Rejected("Invalid", str(error), status=422) from error

        return self._write("apply", manifest, do)

    async def delete(self, resource: Resource, ref: ObjectRef) -> Manifest | None:
        live = self._cluster.get(ref.kind, ref.name)
        if live is None or ref.uid not in (None, live["metadata"]["uid"]):
            return None
        if ref.force:
            return self._write("delete", live, lambda: self._cluster.end(live))
        return self._write("delete", live, lambda: self._cluster.delete(ref.kind, ref.name, foreground=True))

    async def put_status(self, resource: Resource, obj: Manifest, status: Manifest) -> Manifest:
        live = self._cluster.get(resource.kind, obj["metadata"]["name"])
        if live is None:
            raise Gone("404")
        for field in ("uid", "resourceVersion"):
            if live["metadata"][field] != obj["metadata"][field]:
                raise Stale("409", reason="Conflict", status=409)
        return self._write(
            "status", {**live, "status": status}, lambda: self._cluster.set_status(live, status)
        )

    def _write(self, verb: str, obj: Manifest, do: Callable[[], Result]) -> Result:
        self.writes += 1
        fault = self.fault if self.fault is not None and self.fault.at == 0 else None
        if self.fault is not None:
            self.fault = None if fault else replace(self.fault, at=self.fault.at - 1)
        if fault is None or fault.after:
            problem = self._watchdog(verb, obj)
            if problem:
                self.broken.append(problem)
            result = do()
        if fault is None:
            return result
        raise Crash if fault.crash else Transient("no answer", status=503)

    def pages(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> AsyncGenerator[tuple[list[Manifest], str], None]:
        raise NotImplementedError

    def watch(
        self, resource: Resource, namespace: str | None, since: str, selector: str | None = None
    ) -> AsyncGenerator[Manifest, None]:
        raise NotImplementedError

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        raise NotImplementedError

    async def merge(self, resource: Resource, namespace: str, name: str, patch: Manifest) -> Manifest:
        live = self._cluster.get(resource.kind, name)
        if live is None:
            raise Gone("404")
        return self._write("merge", live, lambda: self._cluster.write(over(live, patch)))


class Told:
    """In place of the Recorder."""

    def record(self, about: Manifest, event: Event) -> None:
        assert event.reason
        assert event.message


class Operator:
    """One process after the other."""

    def __init__(self, cluster: Cluster, watchdog: Callable[[str, Manifest], str | None]) -> None:
        self._cluster = cluster
        self.api = Api(cluster, watchdog)
        self.pending: list[tuple[str, Manifest]] = []
        self.outcomes: set[str] = set()
        self._metrics = Metrics()
        cluster.listeners.append(self._hear)
        self.start()

    def start(self) -> None:
        """Begin anew: nothing is known but what is listed."""
        self.pending.clear()
        self.api.fault = None
        self._begun = self._cluster.now
        self._queue = WorkQueue(clock=self._seconds, dice=lambda: 0.5)
        self._references = References()
        self._resources = Store(changed=self._resource_changed)
        self._children = Store(owner=owner_among(OWN), changed=self._queue.add_batched)
        self._reconciler = Reconciler(
            kinds={kind.kind: replace(kind, plan=_checked(kind)) for kind in KINDS},
            settings=SETTINGS,
            resources=self._resources,
            children=self._children,
            references=self._references,
            applier=Applier(self.api, self._children, CHILDREN),
            statuses=StatusWriter(self.api, self._resources, OWN),
            recorder=Told(),  # type: ignore[arg-type]
            queue=self._queue,
            metrics=self._metrics,
            now=lambda: self._cluster.now,
        )
        for kind in (*OWN, *CHILDREN):
            self.relist(kind)

    def relist(self, kind: str) -> None:
        """List one kind, as a watch that is begun anew does, and look at every resource."""
        store = self._resources if kind in OWN else self._children
        resource = (OWN | CHILDREN)[kind]
        found = [obj for obj in self._cluster.of(kind) if kind in OWN or _selected(obj)]
        store.retain(resource, None, store.take(found), self._cluster.version)
        for own in OWN:
            for key in self._resources.keys(own):
                self._queue.add(key)

    def deliver(self, number: int, *, again: bool = False) -> None:
        """Have one of the waiting watch events heard; `again`: it will come once more."""
        if not self.pending:
            return
        number %= len(self.pending)
        what, obj = self.pending[number] if again else self.pending.pop(number)
        store = self._resources if obj["kind"] in OWN else self._children
        if what == "DELETED":
            store.remove(obj, version_of(obj))
        else:
            store.put(obj)

    def work(self, fault: Fault | None = None) -> bool:
        """One pass over the next resource, if there is one to look at."""
        due = self._queue._schedule.next_due()
        if not len(self._queue) and (due is None or due > self._seconds()):
            return False
        self.api.fault = fault
        key = _driven(self._queue.get())
        assert key is not None
        try:
            result = _driven(self._reconciler.do(key))
            self._queue.done(key)
            self.outcomes.add(result.outcome)
            assert result.outcome != "error", "a pass met a bug: see the log"
        except Crash:
            self.start()
        self.api.fault = None
        assert not self.api.broken, self.api.broken
        return True

    def _hear(self, what: str, obj: Manifest) -> None:
        if obj["kind"] in OWN or (obj["kind"] in CHILDREN and _selected(obj)):
            self.pending.append((what, obj))
        elif obj["kind"] in CHILDREN:  # it left the selector: to a watch that is a deletion
            self.pending.append(("DELETED", obj))

    def _resource_changed(self, key: Key) -> None:
        self._queue.add(key)
        for referrer in self._references.to(key):
            self._queue.add(referrer)

    def _seconds(self) -> float:
        return (self._cluster.now - self._begun).total_seconds()


def _selected(obj: Manifest) -> bool:
    return bool(obj["metadata"].get("labels", {}).get(MANAGED_BY) == "capstan")


def _checked(kind: Kind) -> Callable[[Manifest, Observed, datetime, Settings], Plan]:
    """The plan, which must be the same whatever the order of what is observed."""

    def plan(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
        result = kind.plan(resource, seen, now, settings)
        mirrored = Observed(tuple(reversed(seen.children)), tuple(reversed(seen.references)))
        assert kind.plan(resource, mirrored, now, settings) == result
        return result

    return plan


def _driven(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never has to wait."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")
