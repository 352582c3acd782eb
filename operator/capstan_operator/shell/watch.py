"""Keep the store true to the cluster for one kind of child: list, then watch, for ever.

The one place beside kopf that knows about watches. A stream that ends is taken up where it stopped; one that
is broken, too; 410, or trouble that does not end, leads to a new list, whose difference to the store is what
was missed. The store refuses old news, so nothing here has to care about order or repetition.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from capstan_operator.core.model import Manifest
from capstan_operator.shell.client import Api
from capstan_operator.shell.errors import ShellError, Transient
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.metrics import Metrics
from capstan_operator.shell.queue import backoff
from capstan_operator.shell.store import Identity, Store, version_of

logger = logging.getLogger(__name__)

#: A new list after so many seconds, however well the watch goes: nothing missed is missed for longer.
RELIST_EVERY = 900.0
#: Nothing that is wrong keeps us from looking again for longer, in seconds: workers plan from what we see.
LONGEST_PAUSE = 15.0
#: So many broken streams in a row without one event between them, and we list anew.
PATIENCE = 5


async def relist(
    api: Api, store: Store, resource: Resource, namespace: str | None, selector: str | None = None
) -> str:
    """Make the store agree with a new list, taken in page by page; return that list's resourceVersion."""
    listed: set[Identity] = set()
    since = ""
    async with aclosing(api.pages(resource, namespace, selector)) as pages:
        async for objects, version in pages:
            listed |= store.take(objects)
            since = version
    store.retain(resource, namespace, listed, int(since) if since.isdecimal() else 0)
    return since


class Expired(Exception):
    """The version to watch from is too old (410), or leads nowhere: only a list helps."""


class Reflector:
    """One kind, in one namespace or in all. `run` never returns and survives every answer of the API."""

    def __init__(
        self,
        api: Api,
        store: Store,
        metrics: Metrics,
        resource: Resource,
        namespace: str | None,
        selector: str,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.synced = asyncio.Event()
        self._api = api
        self._store = store
        self._metrics = metrics
        self._resource = resource
        self._namespace = namespace
        self._selector = selector
        self._pause = pause
        self._failures = 0

    def __str__(self) -> str:
        return f"watch of {self._resource.plural} in {self._namespace or 'all namespaces'}"

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                since = await self._list()
                async with asyncio.timeout(RELIST_EVERY * random.uniform(0.9, 1.1)):
                    await self._follow(since)
            except TimeoutError:
                self._count("resync")
            except Expired as error:
                logger.info("%s: listing anew: %s", self, error)
                self._count("expired")
            except ShellError as error:
                await self._trouble("list", error)

    async def _list(self) -> str:
        since = await relist(self._api, self._store, self._resource, self._namespace, self._selector)
        self.synced.set()
        return since

    async def _follow(self, since: str) -> None:
        while True:
            try:
                before = since
                stream = self._api.watch(self._resource, self._namespace, since, self._selector)
                async with aclosing(stream):
                    async for event in stream:
                        since = self._take_in(event, since)
                        self._failures = 0
                self._count("ended")
                self._failures += since == before  # not one event, not even a bookmark
                await self._pause(self._delay() if self._failures else 0.1)
            except ShellError as error:
                if isinstance(error, Transient) and error.status == 410:
                    if self._failures:  # the last list has not helped: why should the next one, at once?
                        await self._pause(self._delay())
                    self._failures += 1
                    raise Expired(str(error)) from error
                await self._trouble("watch", error)
                if self._failures >= PATIENCE:
                    raise Expired("the watch does not recover") from error

    def _take_in(self, event: Manifest, since: str) -> str:
        what, obj = event["type"], event["object"]
        if what == "ERROR":
            raise Transient(str(obj.get("message") or obj), status=obj.get("code"))
        metadata = obj.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not isinstance(version, str) or not version.isdecimal():
            raise Transient(f"a {what} event without a resourceVersion")
        if what != "BOOKMARK":
            if not (metadata.get("name") and metadata.get("uid")):
                raise Transient(f"a {what} event of nothing in particular")
            obj = obj | {"apiVersion": self._resource.api_version, "kind": self._resource.kind}
            if what == "DELETED":
                self._store.remove(obj, version_of(obj))
            else:
                self._store.put(obj)
        return max(since, version, key=int)

    async def _trouble(self, doing: str, error: ShellError) -> None:
        self._failures += 1
        self._count(doing)
        delay = self._delay()
        if isinstance(error, Transient) and error.retry_after:
            delay = max(delay, error.retry_after)
        logger.warning("%s: %s failed, again in %.1f s: %s", self, doing, delay, error)
        await self._pause(delay)

    def _delay(self) -> float:
        return backoff(self._failures, random.random(), LONGEST_PAUSE)

    def _count(self, reason: str) -> None:
        self._metrics.watch_restarts.labels(kind=self._resource.kind, reason=reason).inc()
