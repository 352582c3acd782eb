"""kopf, which authenticates and watches the custom resources, and does nothing else for us.

It runs in a thread and an event loop of its own: at its end kopf cancels every task of its loop that is
younger than itself, and in the main thread it takes the signals over. Its one handler hands each event to our
loop. No handlers of other kinds, no finalizers, no annotations, no peering, no posting, no scanning of
namespaces or CRDs (which would need more rights); when kopf gives up (the CRD is gone, the API stays away, a
right was taken), it is begun anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import kopf
from kopf._cogs.structs.references import Insights  # an argument of kopf.operator() without a public name

from capstan_operator.core.model import Manifest
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.queue import backoff

logger = logging.getLogger(__name__)

Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


def registry_of(
    resources: Iterable[Resource], login: Login, heard: Callable[[str | None, Manifest], None]
) -> kopf.OperatorRegistry:
    """Return a registry with our login and one silent handler for each kind."""
    registry = kopf.OperatorRegistry()

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    async def hear(*, event: Any, **_: Any) -> None:
        heard(event["type"], event["object"])

    kopf.on.login(id="log-in", registry=registry)(log_in)
    for resource in resources:
        group, _, version = resource.api_version.partition("/")
        kopf.on.event(group, version, resource.plural, id="hear", registry=registry)(hear)
    return registry


def settings_of() -> kopf.OperatorSettings:
    """Return kopf's settings: everything off that keeps state or talks."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None  # the process is ours to end
    settings.execution.default_backoff = 5  # before logging in is tried again
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = (1, 2, 4)  # then it gives up, and we begin it anew
    settings.networking.trust_env = True  # as our own client does
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0  # before it lists anew, when its watch has expired
    return settings


class KopfThread:
    """kopf, supervised. `listed` is awaited in our loop before each start: it waits for the CRDs."""

    def __init__(
        self,
        resources: Iterable[Resource],
        namespaces: tuple[str, ...],
        login: Login,
        heard: Callable[[str | None, Manifest], None],
        listed: Callable[[], Awaitable[None]],
    ) -> None:
        self._resources = tuple(resources)
        self._namespaces = namespaces
        self._login = login
        self._heard = heard
        self._listed = listed
        self._ours = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self, grace: float) -> None:
        """Ask kopf to end and wait for it, `grace` seconds at most."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, grace)

    async def alive(self) -> bool:
        """Say whether the thread runs and its event loop turns."""
        if self._loop is None or not self._thread.is_alive():
            return False
        turned: asyncio.Future[None] = self._ours.create_future()
        self._loop.call_soon_threadsafe(self._ours.call_soon_threadsafe, _settle, turned)
        done, _ = await asyncio.wait((turned,), timeout=2)
        return bool(done)

    def _run(self) -> None:
        try:
            asyncio.run(self._supervise())
        except Exception:
            logger.critical("kopf's thread has ended", exc_info=True)  # /healthz fails from now on

    async def _supervise(self) -> None:
        self._loop, self._stop, failures = asyncio.get_running_loop(), asyncio.Event(), 0
        self._loop.set_exception_handler(self._lost)
        registry = registry_of(self._resources, self._login, self._tell)
        stopped = asyncio.create_task(self._stop.wait())
        while not self._stop.is_set():
            listed = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._wait_listed(), self._ours))
            await asyncio.wait((listed, stopped), return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                listed.cancel()
                return
            begun, insights = self._loop.time(), Insights()
            over = asyncio.create_task(self._over(stopped, insights))
            try:
                await kopf.operator(
                    registry=registry,
                    settings=settings_of(),
                    insights=insights,
                    standalone=True,
                    clusterwide=not self._namespaces,
                    namespaces=self._namespaces,
                    stop_flag=over,
                )
                if not self._stop.is_set():
                    raise RuntimeError("it ended by itself")
            except Exception as error:  # noqa: BLE001  (whatever it was: the watch has to go on)
                failures = 1 if self._loop.time() - begun > 60 else failures + 1
                delay = backoff(failures, random.random())
                logger.warning("kopf gave up, beginning anew in %.1f s: %r", delay, error)
                await asyncio.wait((stopped,), timeout=delay)
            finally:
                over.cancel()

    async def _over(self, stopped: asyncio.Future[Any], insights: Insights) -> None:
        """Return when kopf has to end: told to, or without all kinds, for which it would never look again."""
        scanned = asyncio.create_task(insights.ready_resources.wait())
        await asyncio.wait((stopped, scanned), return_when=asyncio.FIRST_COMPLETED)
        if len(insights.watched_resources) == len(self._resources):
            await asyncio.wait((stopped,))

    def _lost(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep quiet about the requests that kopf abandons when it is told to stop."""
        if self._stop is None or not self._stop.is_set():
            loop.default_exception_handler(context)

    async def _wait_listed(self) -> None:
        await self._listed()

    def _tell(self, what: str | None, obj: Manifest) -> None:
        self._ours.call_soon_threadsafe(self._heard, what, obj)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
