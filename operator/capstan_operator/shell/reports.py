"""Where the runners of training pods report progress: one route, over TLS, to the operator that leads.

A report is taken from replica 0 of a job's present attempt, by the pod's own token; how often, how large
and what it may hold is bounded. The latest of each job is kept in memory for the next pass over it, which
is asked for now and then, so that a fleet that reports every second is written every ten. Who does not lead
sends callers to the others.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import cast

from aiohttp import web

from capstan_operator.api import training_job
from capstan_operator.core.model import Manifest, Report
from capstan_operator.core.training import progress
from capstan_operator.shell.errors import Rejected, Transient
from capstan_operator.shell.keys import Key, controller_of
from capstan_operator.shell.metrics import Metrics
from capstan_operator.shell.reports_token import Claims, Reviewer, claims_of
from capstan_operator.shell.store import Store

PATH = "/v1/progress"
#: Bytes a report may have; seconds it may take to arrive; seconds between two of a pod.
BODY, PATIENCE, LEAST = 4096, 5.0, 1.0
#: Seconds between two passes over a job because of its progress, and such passes a second.
EVERY, RATE = 10.0, 20
#: Seconds after its last report for which a job counts as one that reports.
_REPORTING = 600.0


class Reports:
    """The latest report of each job, and which jobs are due for a pass because of it."""

    def __init__(self, due: Callable[[Key], None], clock: Callable[[], float]) -> None:
        self._due = due
        self._clock = clock
        self._latest: dict[Key, tuple[str, Report]] = {}
        self._heard: dict[Key, float] = {}
        self._asked: dict[Key, float] = {}
        self._waiting: dict[Key, None] = {}
        #: Seconds after which a job's next report is of use: sooner, it would not be written.
        self.interval = EVERY

    def put(self, key: Key, uid: str, report: Report) -> bool:
        """Take a report; False when it comes too soon after the last one."""
        now = self._clock()
        if now - self._heard.get(key, -LEAST) < LEAST:
            return False
        self._heard[key] = now
        self._latest[key] = (uid, report)
        self._waiting.setdefault(key)
        return True

    def of(self, resource: Manifest) -> Report | None:
        """The latest of this incarnation of a job."""
        metadata = resource["metadata"]
        key = Key(resource["kind"], metadata.get("namespace", ""), metadata["name"])
        uid, report = self._latest.get(key, ("", None))
        return report if uid == metadata.get("uid") else None

    def forget(self, key: Key) -> None:
        """The job is no more."""
        for known in (self._latest, self._heard, self._asked, self._waiting):
            known.pop(key, None)

    def turn(self) -> None:
        """Ask for passes over those that have waited longest, once a second."""
        now = self._clock()
        reporting = sum(now - heard < _REPORTING for heard in self._heard.values())
        self.interval = max(EVERY, reporting / RATE)
        ready = [key for key in self._waiting if now - self._asked.get(key, -EVERY) >= EVERY]
        for key in ready[:RATE]:
            del self._waiting[key]
            self._asked[key] = now
            self._due(key)

    async def run(self) -> None:
        """Turn for ever."""
        while True:
            await asyncio.sleep(1)
            self.turn()


class Desk:
    """Takes the requests."""

    def __init__(
        self,
        reports: Reports,
        reviewer: Reviewer,
        resources: Store,
        children: Store,
        metrics: Metrics,
        leads: Callable[[], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._reports = reports
        self._reviewer = reviewer
        self._resources = resources
        self._children = children
        self._metrics = metrics
        self._leads = leads
        self._now = now

    def application(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=BODY)
        app.router.add_post(PATH, self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        status, text = 413, f"a report has {BODY} bytes at most\n"
        try:
            status, text = await self._take(request)
        except web.HTTPRequestEntityTooLarge:
            pass
        except TimeoutError:
            status, text = 408, "the report did not arrive in time\n"
        self._metrics.reports.labels(code=str(status)).inc()
        headers = {"Retry-After": str(round(self._reports.interval))} if status == 204 else {}
        headers |= {"Retry-After": "1"} if status in {429, 503} else {}
        response = web.Response(status=status, text=text, headers=headers)
        response.force_close()  # the next report is ten seconds away, and there are thousands
        return response

    async def _take(self, request: web.Request) -> tuple[int, str]:
        if not self._leads():
            return 503, "this operator does not lead: ask another one\n"
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        claims = claims_of(token) if scheme.lower() == "bearer" else None
        if claims is None:
            return 401, "a token of a pod for capstan.dev is needed\n"
        async with asyncio.timeout(PATIENCE):
            body = await request.read()
        found = self._job(claims)
        if found is None:
            return 403, "only replica 0 of a TrainingJob's present attempt reports\n"
        try:
            if not await self._reviewer.vouches(token, claims):
                return 401, "the API server does not know this token\n"
        except (Transient, Rejected):
            return 503, "the token cannot be reviewed at the moment\n"
        job, attempt = found
        try:
            report = progress.parsed(json.loads(body), attempt, self._now())
        except (ValueError, RecursionError) as error:
            return 400, f"{error}\n"
        key = Key(job["kind"], claims.namespace, job["metadata"]["name"])
        if not self._reports.put(key, job["metadata"]["uid"], report):
            return 429, "a report a second is enough\n"
        return 204, ""

    def _job(self, claims: Claims) -> tuple[Manifest, int] | None:
        """The TrainingJob that the pod of a token may report for, and its attempt."""
        pod = self._children.get("Pod", claims.namespace, claims.pod)
        if pod is None or pod["metadata"].get("uid") != claims.uid:
            return None
        job = self._controller(self._children, "Job", pod)
        resource = self._controller(self._resources, training_job.KIND, job) if job else None
        attempt = progress.attempt_of(pod, job, resource)
        return (resource, attempt) if resource is not None and attempt is not None else None

    def _controller(self, store: Store, kind: str, child: Manifest) -> Manifest | None:
        controller = controller_of(child) or {}
        if controller.get("kind") != kind:
            return None
        return store.get(kind, child["metadata"].get("namespace", ""), controller.get("name", ""))


async def serve(
    app: web.Application, port: int, context: ssl.SSLContext, patience: float = 2 * PATIENCE
) -> web.AppRunner:
    """Listen on all interfaces; the caller cleans the runner up.

    A connection is for one report: so many seconds for TLS, and so many for all the rest. By itself aiohttp
    waits for a request for as long as the other side likes.
    """
    loop, runner = asyncio.get_running_loop(), web.AppRunner(app, access_log=None)

    async def close(_: web.Application) -> None:
        listening.close()

    app.on_shutdown.append(close)
    await runner.setup()
    requests = cast("web.Server", runner.server)

    def accepted() -> asyncio.Protocol:
        handler = requests()
        loop.call_later(2 * patience, handler.force_close)
        return handler

    listening = await loop.create_server(
        accepted,
        port=port,
        ssl=context,
        ssl_handshake_timeout=patience,
        ssl_shutdown_timeout=patience,
    )
    return runner
