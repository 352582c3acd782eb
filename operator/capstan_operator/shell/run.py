"""The operator put together: what feeds what, in which order it starts, and how it ends.

kopf and the resync fill the store of custom resources, the reflectors the store of children; every change
enqueues its owner; workers start when all is listed, and run only while we lead: before and after, the views
of the cluster are kept. A part that ends without being told to is a bug that ends the process, to be started
again by the kubelet: half an operator is worse than none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from capstan_operator.api import inference_service, training_job
from capstan_operator.core.labels import MANAGED_BY
from capstan_operator.core.model import Endpoint, Kind, Manifest, Settings
from capstan_operator.shell import health, login, reports, reports_tls
from capstan_operator.shell.apply import Applier
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.errors import ShellError
from capstan_operator.shell.events import Recorder
from capstan_operator.shell.fleet import Fleet
from capstan_operator.shell.gather import References
from capstan_operator.shell.handlers import KopfThread
from capstan_operator.shell.keys import Key, Resource, owner_among
from capstan_operator.shell.leader import Elector, Terms, own_identity
from capstan_operator.shell.metrics import Metrics
from capstan_operator.shell.options import Options
from capstan_operator.shell.queue import WorkQueue
from capstan_operator.shell.reconcile import Reconciler
from capstan_operator.shell.reports import Desk, Reports
from capstan_operator.shell.reports_token import Reviewer
from capstan_operator.shell.resync import Resync
from capstan_operator.shell.status import StatusWriter
from capstan_operator.shell.store import Store, version_of
from capstan_operator.shell.watch import Reflector

logger = logging.getLogger(__name__)

SELECTOR = f"{MANAGED_BY}=capstan"
#: Seconds a pass in flight may take after SIGTERM, Events after that, and kopf to end.
GRACE_PASSES, GRACE_EVENTS, GRACE_KOPF = 15.0, 3.0, 8.0
#: Seconds until what stood in the way of taking reports is tried again.
REPORTS_AGAIN = 30.0


#: A part's name and what runs it.
Part = tuple[str, Callable[[], Coroutine[Any, Any, None]]]


class Operator:
    """All parts, made and connected. `run` lives until `stop` is set or a part fails."""

    def __init__(
        self,
        options: Options,
        kinds: Sequence[Kind],
        api: KubernetesApi,
        unfenced: KubernetesApi,
        metrics: Metrics,
        elector: Elector | None,
    ) -> None:
        self._options = options
        self._unfenced = unfenced
        self._metrics = metrics
        self._elector = elector
        self._fleet = Fleet()
        self._queue = queue = WorkQueue(on_add=metrics.queue_adds.inc, on_retry=metrics.queue_retries.inc)
        self._references = References()
        self._resources = Store(changed=self._resource_changed)
        own = {kind.kind: Resource(kind.api_version, kind.kind, kind.plural) for kind in kinds}
        self._children = Store(owner=owner_among(own), changed=self._child_changed)
        child = {c.kind: Resource(c.api_version, c.kind, c.plural) for kind in kinds for c in kind.children}
        self._recorder = Recorder(api, metrics, _now)
        self._reflectors = [
            Reflector(api, self._children, metrics, resource, namespace, SELECTOR)
            for resource in child.values()
            for namespace in options.namespaces or (None,)
        ]
        self._resync = Resync(api, self._resources, queue, own.values(), options.namespaces)
        self._kopf = KopfThread(
            own.values(), options.namespaces, self._log_in, self._heard, self._resync.list_all
        )
        self._reports = Reports(queue.add, time.monotonic)
        self._desk = Desk(
            self._reports,
            Reviewer(api, time.time),
            self._resources,
            self._children,
            metrics,
            lambda: elector is None or elector.leads(),
            _now,
        )
        #: Pods are told where to report when they are made, so work begins once that was tried.
        self._asked = asyncio.Event()
        self._servers: list[web.AppRunner] = []
        self._reconciler = Reconciler(
            kinds={kind.kind: kind for kind in kinds},
            settings=Settings(
                agent_image=options.agent_image,
                serving_image=options.serving_image,
                fetch_allow=options.fetch_allow,
                network_policies=options.network_policies,
            ),
            resources=self._resources,
            children=self._children,
            references=self._references,
            applier=Applier(api, self._children, child),
            statuses=StatusWriter(api, self._resources, own),
            recorder=self._recorder,
            queue=queue,
            metrics=metrics,
            now=_now,
            reports=self._reports,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._workers: list[asyncio.Task[None]] = []

    async def run(self, stop: asyncio.Event) -> bool:
        """Run until `stop`; return False when a part failed instead."""
        self._servers.append(await health.serve(self._application(), self._options.metrics_port))
        stopping = asyncio.create_task(stop.wait())
        for name, part in self._parts():
            self._tasks[name] = asyncio.create_task(part(), name=name)
        self._kopf.start()
        try:
            await asyncio.wait((stopping, *self._tasks.values()), return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in self._tasks.values() if task.done()]
            for task in failed:
                logger.critical("%s has ended", task.get_name(), exc_info=task.exception())
            return not failed
        finally:
            stopping.cancel()
            await self._end()
            for server in self._servers:
                await server.cleanup()

    def _parts(self) -> list[Part]:
        watches: list[Part] = [(str(r), r.run) for r in self._reflectors]
        return [
            *watches,
            ("resync", self._resync.run),
            ("events", self._recorder.run),
            ("reports", self._report),
            ("workers", self._work),
        ]

    async def _listed(self) -> None:
        await self._resync.synced.wait()
        for reflector in self._reflectors:
            await reflector.synced.wait()

    async def _work(self) -> None:
        await self._listed()
        logger.info("the cluster is listed", extra={"fields": {"workers": self._options.workers}})
        await self._asked.wait()
        if self._elector is None:
            await self._lead()
        else:
            await self._elector.run(self._take_over)

    async def _report(self) -> None:
        """Listen for reports, if need be at a later try, and ask for passes because of them."""
        await self._listed()
        while self._options.reports_url and not await self._listens():
            self._asked.set()
            await asyncio.sleep(REPORTS_AGAIN)
        self._asked.set()
        await self._reports.run()

    async def _listens(self) -> bool:
        """Listen for reports. What stands in the way costs jobs that are made their progress, and no more."""
        place = urlsplit(self._options.reports_url)
        secret = (self._options.lease_namespace, self._options.reports_secret)
        try:
            certificate = await reports_tls.kept(self._unfenced, *secret, place.hostname or "", _now())
            self._servers.append(
                await reports.serve(self._desk.application(), place.port or 443, certificate.context())
            )
        except (ShellError, OSError) as error:
            logger.error("no progress is taken for now; it is tried again: %s", error)
            return False
        self._reconciler.report_to(Endpoint(f"{place.geturl()}{reports.PATH}", certificate.certificate))
        return True

    async def _take_over(self) -> None:
        """See for sure what the one before us decided last, and look at everything.

        A place that cannot be listed, as its namespace or its CRD is gone, keeps nobody from the others.
        """
        await self._resync.list_all(tries=3)
        self._resync.look_at_all()
        await self._lead()

    async def _lead(self) -> None:
        """Work until the queue is closed and the last Events are posted; cancelled when we lead no more."""
        self._workers = [
            asyncio.create_task(self._reconciler.work(), name=f"worker {n}")
            for n in range(self._options.workers)
        ]
        try:
            await asyncio.gather(*self._workers)
            await asyncio.wait_for(self._recorder.flush(), GRACE_EVENTS)
        except TimeoutError:
            logger.warning("some Events were not posted in time")
        finally:
            for worker in self._workers:
                worker.cancel()
            self._workers = []

    async def _end(self) -> None:
        """Let the passes in flight end, then everything else; every step is bounded."""
        self._queue.close()
        if self._workers:
            await asyncio.wait((self._tasks["workers"],), timeout=GRACE_PASSES + GRACE_EVENTS)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._kopf.stop(GRACE_KOPF)

    def _application(self) -> web.Application:
        return health.application(self, self._scrape)

    async def alive(self) -> Mapping[str, bool]:
        """See health.Checks."""
        parts = {task.get_name(): not task.done() for task in (*self._tasks.values(), *self._workers)}
        if self._elector is not None:
            parts["election"] = self._elector.turning()
        return parts | {"kopf": await self._kopf.alive()}

    def synced(self) -> Mapping[str, bool]:
        """See health.Checks."""
        listed = {f"{reflector} listed": reflector.synced.is_set() for reflector in self._reflectors}
        return listed | {"custom resources listed": self._resync.synced.is_set()}

    def _scrape(self) -> bytes:
        leads = self._elector is None or self._elector.leads()
        self._metrics.leader.set(leads)
        self._metrics.queue_depth.set(len(self._queue) if leads else 0)  # nobody waits for who stands by
        for kind, count in (self._resources.count() | self._children.count()).items():
            self._metrics.store_objects.labels(kind=kind).set(count)
        if not leads:  # one tells about the fleet
            return self._metrics.render()
        jobs, services = (self._resources.of_kind(m.KIND) for m in (training_job, inference_service))
        return self._metrics.render() + self._fleet.exposition(jobs, services).encode()

    async def _log_in(self) -> Any:
        return await login.connection(
            await login.configuration(self._options.kubeconfig, self._options.context)
        )

    def _heard(self, what: str | None, obj: Manifest) -> None:
        if what == "DELETED":
            self._resources.remove(obj, version_of(obj))
        else:
            self._resources.put(obj)

    def _resource_changed(self, key: Key) -> None:
        if not self._stands_by():
            self._queue.add(key)
            for referrer in self._references.to(key):
                self._queue.add(referrer)

    def _child_changed(self, key: Key) -> None:
        if not self._stands_by():
            self._queue.add_batched(key)

    def _stands_by(self) -> bool:
        """Say whether nobody would take from the queue: it would only grow. Who takes over looks at all."""
        return self._elector is not None and not self._workers


def _now() -> datetime:
    return datetime.now(UTC)


async def run(options: Options, kinds: Sequence[Kind], stop: asyncio.Event) -> bool:
    """Log in, run the operator until `stop`; return False when it failed."""
    metrics = Metrics()
    configuration = await login.configuration(options.kubeconfig, options.context)
    async with AsyncExitStack() as stack:
        unfenced = KubernetesApi(configuration, metrics)
        stack.push_async_callback(unfenced.close)
        elector = _elector(options, unfenced)
        api = KubernetesApi(configuration, metrics, elector.leads if elector else None)
        stack.push_async_callback(api.close)
        return await Operator(options, kinds, api, unfenced, metrics, elector).run(stop)


def _elector(options: Options, api: KubernetesApi) -> Elector | None:
    if not options.leader_elect:
        return None
    terms = Terms(options.lease_duration)
    return Elector(api, options.lease_namespace, options.lease_name, terms, own_identity())
