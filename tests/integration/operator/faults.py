"""Stands between the operator and the API server: counts what is asked, and misbehaves as it is told."""

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

HOP = {"host", "connection", "content-length", "transfer-encoding", "content-encoding", "accept-encoding"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    at: float
    method: str
    path: str
    watch: bool
    agent: str


#: What becomes of a request: None to pass it on, else the answer instead of the server's.
Fault = Callable[["Proxy", web.Request], Awaitable[web.StreamResponse | None]]


class Proxy:
    """A reverse proxy with a thread and an event loop of its own."""

    def __init__(self, server: str, authority: bytes) -> None:
        self._server = server
        self._trust = ssl.create_default_context(cadata=authority.decode())
        self._open: list[web.Request] = []
        self.fault: Fault | None = None
        self.asked: list[Asked] = []
        self.url = ""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.wait(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def since(self, moment: float) -> list[Asked]:
        return [asked for asked in self.asked if asked.at >= moment]

    def cut_watches(self) -> None:
        """Close every connection on which something is under way: the watches."""
        self._loop.call_soon_threadsafe(lambda: [abort(request) for request in self._open])

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        (address,) = runner.addresses
        self.url = f"http://127.0.0.1:{address[1]}"
        connector = aiohttp.TCPConnector(ssl=self._trust, limit=0)
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            skip_auto_headers=("Content-Type", "Accept-Encoding"),
        ) as self._session:
            ready.set()
            await self._stop.wait()
            await runner.cleanup()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:  # connecting still, for somebody who has gone
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await connector.close(abort_ssl=True)  # gracefully, it would outlive the loop
            for _ in range(3):
                await asyncio.sleep(0)  # in which the transports close

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        watch = "watch" in request.query
        agent = request.headers.get("User-Agent", "")
        self.asked.append(Asked(time.monotonic(), request.method, request.path, watch, agent))
        if self.fault is not None:
            instead = await self.fault(self, request)
            if instead is not None:
                return instead
        return await self.relay(request)

    async def relay(self, request: web.Request, *, tell: bool = True) -> web.StreamResponse:
        """Pass the request on, and the answer back as it comes, or, untold, nothing of it."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        asked = self._session.request(
            request.method,
            self._server + request.raw_path,
            headers=headers,
            data=await request.read() or None,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        async with asked as theirs:
            kept = {name: value for name, value in theirs.headers.items() if name.lower() not in HOP}
            ours = web.StreamResponse(status=theirs.status, headers=kept)
            if not tell:
                await theirs.read()
                return ours
            await ours.prepare(request)
            self._open.append(request)
            try:
                with contextlib.suppress(ConnectionError):  # whoever asked has gone
                    async for chunk in theirs.content.iter_any():
                        await ours.write(chunk)
            finally:
                self._open.remove(request)
            return ours


def abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def status(code: int, reason: str, **headers: str) -> web.Response:
    body: dict[str, Any] = {
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": f"made up by the test: {reason}",
    }  # fmt: skip
    return web.json_response(body, status=code, headers=headers)
