"""List the custom resources at the start and every few minutes; have all of them looked at once an hour.

kopf sends no DELETED for what vanished while its watch was down, and hides its relists: this is what closes
the gap, and what waits for the CRDs where they are not installed yet. It also makes a watch that has gone
deaf an inconvenience of minutes and not a mystery. What a list shows to be new is looked at; to look at
thousands that have not changed costs more than all else that an operator at rest does.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from math import inf

from capstan_operator.shell.client import Api
from capstan_operator.shell.errors import Gone, ShellError
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.queue import WorkQueue, backoff
from capstan_operator.shell.store import Store
from capstan_operator.shell.watch import relist

logger = logging.getLogger(__name__)

#: Seconds between two lists.
RESYNC_EVERY = 300.0
#: After so many lists all are looked at, changed or not: against what nobody has thought of.
LISTS_PER_LOOK = 12
#: Nobody should wait long for the operator after installing the CRDs, in seconds.
PATIENCE = 5.0


class Resync:
    """The custom kinds, in one namespace, several or all."""

    def __init__(
        self,
        api: Api,
        store: Store,
        queue: WorkQueue,
        resources: Iterable[Resource],
        namespaces: tuple[str, ...],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.synced = asyncio.Event()
        self._api = api
        self._store = store
        self._queue = queue
        self._places: list[tuple[Resource, str | None]] = [
            (resource, namespace) for resource in resources for namespace in namespaces or (None,)
        ]
        self._pause = pause

    async def run(self) -> None:
        """List for ever, every few minutes."""
        while True:
            for _ in range(LISTS_PER_LOOK):
                await self.list_all()
                await self._pause(RESYNC_EVERY * random.uniform(0.9, 1.1))
            self.look_at_all()

    async def list_all(self, tries: float = inf) -> None:
        """List everything once, by default however long that takes; the store has what is new looked at."""
        for resource, namespace in self._places:
            failures = 0
            while not await self._list(resource, namespace, failures):
                failures += 1
                if failures >= tries:
                    break
                await self._pause(min(PATIENCE, backoff(failures, random.random())))
        self.synced.set()

    def look_at_all(self) -> None:
        """Enqueue all there is."""
        for kind in {resource.kind for resource, _ in self._places}:
            for key in self._store.keys(kind):
                self._queue.add(key)

    async def _list(self, resource: Resource, namespace: str | None, failures: int) -> bool:
        try:
            await relist(self._api, self._store, resource, namespace)
        except Gone:
            self._store.drop(resource, namespace)
            if failures == 0:
                logger.warning("the CRD of %s is not installed: waiting for it", resource.plural)
        except ShellError as error:
            logger.warning("listing %s failed, trying again: %s", resource.plural, error)
        else:
            return True
        return False
