"""The fifth verb: Kubernetes Events about a resource, for `kubectl describe`.

An Event is a courtesy: it is posted in the background, the same one again only counts up, and when it cannot
be posted that is logged and forgotten. Nothing waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from capstan_operator.core.model import Event, Manifest
from capstan_operator.shell.client import FIELD_MANAGER, Api
from capstan_operator.shell.errors import Gone, ShellError
from capstan_operator.shell.keys import Key, Resource, key_of
from capstan_operator.shell.metrics import Metrics

logger = logging.getLogger(__name__)

EVENTS = Resource("v1", "Event", "events")
#: Limits of the API server on an Event, in bytes and in characters.
MESSAGE_LIMIT, NAME_LIMIT = 1024, 200
#: How many kinds of Event are remembered to count them up, and how many may wait to be posted.
MEMORY, BACKLOG = 4096, 1000


@dataclass(slots=True)
class _Series:
    """One Event of the cluster and how often it was meant."""

    name: str
    first: str
    count: int = 0


class Recorder:
    """Posts Events, one after the other, from a task of its own."""

    def __init__(self, api: Api, metrics: Metrics, now: Callable[[], datetime]) -> None:
        self._api = api
        self._metrics = metrics
        self._now = now
        self._instance = os.environ.get("POD_NAME") or socket.gethostname()
        self._backlog: asyncio.Queue[tuple[Manifest, Event]] = asyncio.Queue(BACKLOG)
        self._known: OrderedDict[tuple[str, Event], _Series] = OrderedDict()

    def record(self, about: Manifest, event: Event) -> None:
        """Have an Event posted about a resource. Never waits and never fails."""
        try:
            self._backlog.put_nowait((about, event))
        except asyncio.QueueFull:
            self._metrics.events.labels(result="dropped").inc()
            logger.warning(
                "too many Events wait to be posted, dropped %s about %s", event.reason, key_of(about)
            )

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            about, event = await self._backlog.get()
            try:
                await self._post(about, event)
                self._metrics.events.labels(result="posted").inc()
            except ShellError as error:
                self._metrics.events.labels(result="failed").inc()
                logger.warning("the Event %s about %s was not posted: %s", event.reason, key_of(about), error)
            finally:
                self._backlog.task_done()

    async def flush(self) -> None:
        """Wait until everything recorded so far has been posted or given up."""
        await self._backlog.join()

    async def _post(self, about: Manifest, event: Event) -> None:
        key, now = key_of(about), self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        series = self._series(about, event, now)
        series.count += 1
        if series.count > 1:
            try:
                counted = {"count": series.count, "lastTimestamp": now}
                await self._api.merge(EVENTS, key.namespace, series.name, counted)
                return
            except Gone:  # Events expire after an hour or so; this one begins anew
                series.count, series.first = 1, now
        await self._api.create(EVENTS, self._manifest(about, event, key, series))

    def _series(self, about: Manifest, event: Event, now: str) -> _Series:
        uid = str(about["metadata"]["uid"])
        series = self._known.get((uid, event))
        if series is None:
            text = "\0".join((uid, event.type, event.reason, event.message, now, self._instance))
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            series = _Series(f"{about['metadata']['name'][:NAME_LIMIT]}.{digest}", now)
            self._known[uid, event] = series
            if len(self._known) > MEMORY:
                self._known.popitem(last=False)
        self._known.move_to_end((uid, event))
        return series

    def _manifest(self, about: Manifest, event: Event, key: Key, series: _Series) -> Manifest:
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": series.name, "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": about["metadata"]["uid"],
                "resourceVersion": about["metadata"].get("resourceVersion", ""),
            },
            "type": event.type,
            "reason": event.reason,
            "message": _shortened(event.message),
            "count": series.count,
            "firstTimestamp": series.first,
            "lastTimestamp": series.first,
            "source": {"component": FIELD_MANAGER, "host": self._instance},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
        }


def _shortened(message: str) -> str:
    raw = message.encode()
    if len(raw) <= MESSAGE_LIMIT:
        return message
    return raw[: MESSAGE_LIMIT - 3].decode(errors="ignore") + "..."
