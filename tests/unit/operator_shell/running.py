"""The whole operator as a task of the test's, with its HTTP port."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from capstan_operator.shell import run as shell
from capstan_operator.shell.options import Options, options, parser


class Running:
    """An operator at work and its HTTP port."""

    def __init__(self, cluster: Any, until: Any, arguments: Options, kinds: Any) -> None:
        self.until = until
        self.cluster, self.begun = cluster, len(cluster.requests)
        self.stop = asyncio.Event()
        self.port = arguments.metrics_port
        self.task = asyncio.create_task(shell.run(arguments, kinds, self.stop))

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return response.status, await response.text()
        except aiohttp.ClientConnectionError as error:
            return 0, str(error)

    async def sample(self, name: str, labels: str = "") -> float:
        """Return the sum of a metric's samples whose labels contain this."""
        lines = (await self.get("/metrics"))[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and labels in line)

    async def shows(self, name: str, value: float) -> None:
        async with asyncio.timeout(20):
            while await self.sample(name) != value:  # noqa: ASYNC110  (there is no event)
                await asyncio.sleep(0.02)

    async def becomes(self, path: str, status: int) -> str:
        async with asyncio.timeout(20):
            while True:
                code, text = await self.get(path)
                if code == status:
                    return text
                await asyncio.sleep(0.02)

    async def heard_of(self) -> None:
        """Wait until kopf watches: told to stop while it scans, it takes five seconds to end."""
        await self.until(
            lambda: any("/widgets?watch=true" in r for r in self.cluster.requests[self.begun :]), 20
        )

    async def end(self) -> bool:
        await self.heard_of()
        self.stop.set()
        return await asyncio.wait_for(self.task, 20)


@pytest.fixture
async def start(
    cluster: Any, until: Any, tmp_path: Path, unused_tcp_port: int, make_kind: Any
) -> AsyncIterator[Callable[..., Running]]:
    kubeconfig = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "c", "user": {"token": "secret"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    started: list[Running] = []

    def begin(*arguments: str, kinds: Any = None) -> Running:
        given = ["run", "--kubeconfig", str(kubeconfig), "--metrics-port", str(unused_tcp_port), *arguments]
        it = Running(cluster, until, options(parser({}).parse_args(given)), kinds or [make_kind()])
        started.append(it)
        return it

    yield begin
    for it in started:
        if not it.task.done():
            await it.end()
