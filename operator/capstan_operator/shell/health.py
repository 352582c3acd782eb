"""The one HTTP server of the operator: /metrics, /healthz and /readyz.

It runs on the same event loop as everything else, so that an answer is itself proof that the loop is alive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from aiohttp import web


class Checks(Protocol):
    """What the probes ask."""

    async def alive(self) -> Mapping[str, bool]:
        """Return every part that must run, and whether it does."""

    def synced(self) -> Mapping[str, bool]:
        """Return every view of the cluster that must be complete before any work, and whether it is."""


def application(checks: Checks, metrics: Callable[[], bytes]) -> web.Application:
    """Return the web application; `metrics` is what a scrape gets."""

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def healthz(_: web.Request) -> web.Response:
        return _report(await checks.alive())

    async def readyz(_: web.Request) -> web.Response:
        return _report({**await checks.alive(), **checks.synced()})

    app = web.Application()
    routes: dict[str, Callable[[web.Request], Awaitable[web.Response]]] = {
        "/metrics": scrape,
        "/healthz": healthz,
        "/readyz": readyz,
    }
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    return app


async def serve(app: web.Application, port: int) -> web.AppRunner:
    """Listen on all interfaces; the caller cleans the runner up."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner


def _report(parts: Mapping[str, bool]) -> web.Response:
    """One line a part, as Kubernetes' own components do it."""
    lines = [f"[{'+' if good else '-'}] {name}" for name, good in sorted(parts.items())]
    good = all(parts.values())
    return web.Response(status=200 if good else 503, text="\n".join([*lines, "ok" if good else "failed", ""]))
