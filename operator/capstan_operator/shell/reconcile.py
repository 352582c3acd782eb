"""One pass over one resource, in five verbs: gather, plan, apply, write the status, emit events.

A plan that carries a decision has its status written first: what cannot be derived again must be on record
before anything is done about it. Every error ends in this module, so that one resource's trouble is never
another's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from capstan_operator.core.conflicts import with_conflict, with_rejection
from capstan_operator.core.model import Endpoint, Event, Kind, Manifest, Plan, Settings
from capstan_operator.shell.apply import Applier
from capstan_operator.shell.errors import ChildFailed, Gone, OwnershipConflict, Rejected, Stale, Transient
from capstan_operator.shell.events import Recorder
from capstan_operator.shell.gather import References, mentioned, observed
from capstan_operator.shell.keys import Key
from capstan_operator.shell.metrics import Metrics
from capstan_operator.shell.queue import WorkQueue
from capstan_operator.shell.reports import Reports
from capstan_operator.shell.status import StatusWriter
from capstan_operator.shell.store import Store

logger = logging.getLogger(__name__)

#: Trouble that is called transient and outlasts so many passes is worth a condition.
PATIENCE = 4


@dataclass(slots=True)
class Pass:
    """What became of a pass, for the log line and the metrics."""

    outcome: str = "unchanged"
    generation: int | None = None
    writes: int = 0
    requeue_after: float | None = None
    detail: str = ""
    told: set[Event] = field(default_factory=set)


class Reconciler:
    """Takes keys from the queue and makes the cluster so."""

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        settings: Settings,
        resources: Store,
        children: Store,
        references: References,
        applier: Applier,
        statuses: StatusWriter,
        recorder: Recorder,
        queue: WorkQueue,
        metrics: Metrics,
        now: Callable[[], datetime],
        reports: Reports | None = None,
    ) -> None:
        self._kinds = kinds
        self._settings = settings
        self._resources = resources
        self._children = children
        self._references = references
        self._applier = applier
        self._statuses = statuses
        self._recorder = recorder
        self._queue = queue
        self._metrics = metrics
        self._now = now
        self._reports = reports

    def report_to(self, endpoint: Endpoint) -> None:
        """Let what is made from now on report its progress there."""
        self._settings = replace(self._settings, reports=endpoint)

    async def work(self) -> None:
        """Do one pass after the other until the queue is closed."""
        while (key := await self._queue.get()) is not None:
            try:
                await self.do(key)
            finally:
                self._queue.done(key)
            # A pass that writes nothing waits for nothing: thousands would hold up the Lease and the probes.
            await asyncio.sleep(0)

    async def do(self, key: Key) -> Pass:
        """Do one pass, see to its errors and to when the next one is, and log one line."""
        begun, result = time.monotonic(), Pass()
        try:
            await self._pass(key, result)
            self._queue.succeeded(key)
            if result.requeue_after is not None:
                self._queue.add_after(key, result.requeue_after)
        except Gone as error:
            result.outcome, result.detail = "gone", str(error)
            self._queue.succeeded(key)
        except Stale as error:
            result.outcome, result.detail = "stale", str(error)
            result.requeue_after = self._queue.retry(key)
        except Transient as error:
            result.outcome, result.detail = "transient", str(error)
            result.requeue_after = self._queue.retry(key, at_least=error.retry_after or 0.0)
        except Exception:
            result.outcome = "error"
            result.requeue_after = self._queue.retry(key)
            logger.exception("a bug, met at %s", key)
        seconds = time.monotonic() - begun
        self._metrics.reconciles.labels(kind=key.kind, outcome=result.outcome).inc()
        self._metrics.duration.labels(kind=key.kind).observe(seconds)
        _log(key, result, seconds)
        return result

    async def _pass(self, key: Key, result: Pass) -> None:
        kind, resource = self._kinds[key.kind], self._resources.get(*key)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            self._references.set(key, frozenset())
            if self._reports is not None:
                self._reports.forget(key)
            result.outcome = "gone"
            return
        result.generation = resource["metadata"].get("generation")
        self._references.set(key, mentioned(kind.references(resource)))
        seen = observed(kind, resource, self._resources, self._children)
        if self._reports is not None:
            seen = replace(seen, report=self._reports.of(resource))
        plan = kind.plan(resource, seen, self._now(), self._settings)
        if plan.decision:
            resource = await self._record(resource, plan, result)
        failure: ChildFailed | None = None
        try:
            result.writes += await self._applier.carry_out(plan, resource)
        except ChildFailed as error:
            failure = error
            plan = self._explained(plan, resource, error, key, result)
        await self._record(resource, plan, result)
        result.requeue_after = plan.requeue_after
        if failure is not None and isinstance(failure.cause, Transient):
            raise failure.cause
        if failure is None and result.writes:
            result.outcome = "changed"

    async def _record(self, resource: Manifest, plan: Plan, result: Pass) -> Manifest:
        written = await self._statuses.write(resource, plan.status)
        if written is not resource:
            result.writes += 1
        for event in plan.events:
            if event not in result.told:
                result.told.add(event)
                self._recorder.record(written, event)
        return written

    def _explained(self, plan: Plan, resource: Manifest, error: ChildFailed, key: Key, result: Pass) -> Plan:
        """Return the plan whose status says what stands in the way of a child."""
        result.detail, cause = str(error), error.cause
        if isinstance(cause, OwnershipConflict):
            result.outcome = "conflict"
            return with_conflict(plan, resource, error.ref, self._now())
        if isinstance(cause, Rejected):
            result.outcome = "rejected"
            return with_rejection(plan, resource, error.ref, cause.reason, cause.message, self._now())
        if isinstance(cause, Transient) and self._queue.failures(key) >= PATIENCE:
            return with_rejection(plan, resource, error.ref, cause.reason, str(cause), self._now())
        return plan


def _log(key: Key, result: Pass, seconds: float) -> None:
    logger.log(
        logging.DEBUG if result.outcome in {"unchanged", "gone"} else logging.INFO,
        "reconciled",
        extra={
            "fields": {
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "generation": result.generation,
                "outcome": result.outcome,
                "writes": result.writes,
                "duration": round(seconds, 4),
                "requeueAfter": result.requeue_after,
                "detail": result.detail or None,
            }
        },
    )
