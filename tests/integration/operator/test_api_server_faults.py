"""The API server misbehaves in every way it knows: then all is made right, and it was not besieged."""

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from capstan_demo.kube import Kube, until
from capstan_operator.shell.client import FIELD_MANAGER

from .faults import Fault, Proxy, abort, status
from .test_shell_on_kubernetes import ours, whole

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    # A connection that the proxy was making when it was closed is no concern of these tests.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WIDGETS, SIZE = 3, 3
#: Seconds that it goes on.
TROUBLE = 6.0
#: The back-off's shortest delays are 1/8, 1/4, ... s: so many passes in the time of the trouble.
PASSES = 1 + sum(0.125 * (2**n - 1) <= TROUBLE for n in range(1, 20))
#: A pass that fails makes few requests before; one that does not is one of few.
REQUESTS = 3
#: Three watches, kopf's among them, that begin anew and list before.
WATCHES = 3 * 2 * PASSES
#: Passes that fail back off; each child that is written is one more reason for a pass. Then there are Events.
BOUND = WIDGETS * (PASSES + SIZE + 3) * REQUESTS + WIDGETS + WATCHES
DICE = random.Random(7)


@pytest.fixture
def proxy(bare: Kube) -> Iterator[Proxy]:
    flat = json.loads(bare.run("config", "view", "--raw", "--minify", "-o", "json"))
    cluster = flat["clusters"][0]["cluster"]
    made = Proxy(cluster["server"], base64.b64decode(cluster["certificate-authority-data"]))
    yield made
    made.close()


def some(*answers: Callable[[], web.Response], share: float = 0.6) -> Fault:
    """One of these, for a share of the requests."""

    async def fault(_: Proxy, __: web.Request) -> web.StreamResponse | None:
        return DICE.choice(answers)() if DICE.random() < share else None

    return fault


async def slow(_: Proxy, __: web.Request) -> None:
    """Two seconds for every answer."""
    await asyncio.sleep(2)


async def lost(proxy: Proxy, request: web.Request) -> web.StreamResponse | None:
    """What was asked is done, and the connection is cut before that can be said."""
    if DICE.random() < 0.5:
        return None
    if "watch" not in request.query:
        await proxy.relay(request, tell=False)
    abort(request)
    return web.Response()


async def expired(_: Proxy, request: web.Request) -> web.StreamResponse | None:
    """Every watch begins too late, whatever was listed before it."""
    if "watch" not in request.query:
        return None
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    return web.Response(body=json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")


async def empty(_: Proxy, request: web.Request) -> web.StreamResponse | None:
    """Every watch of ours ends as soon as it has begun. (kopf would begin its own again without a pause.)"""
    our = request.headers["User-Agent"] == FIELD_MANAGER
    return web.Response() if our and "watch" in request.query else None


FAULTS = {
    "refused": some(
        lambda: status(409, "Conflict"), lambda: status(410, "Expired"), lambda: status(422, "Invalid")
    ),
    "busy": some(
        lambda: status(429, "TooManyRequests", **{"Retry-After": "1"}),
        *(lambda code=code: status(code, "InternalError") for code in (500, 502, 503, 504)),
    ),
    "slow": slow,
    "lost": lost,
    "expired": expired,
    "empty": empty,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_trouble_ends_and_nothing_was_lost_or_asked_too_often(
    bare: Kube, namespace: str, operator: Any, widget: Any, settled: Any, proxy: Proxy, fault: Fault
) -> None:
    process = operator(proxy.url).ready()
    names = [f"w{n}" for n in range(WIDGETS)]
    widget("1", size=SIZE, name="w0")
    until(lambda: len(ours(bare, "configmaps", namespace)) == SIZE, seconds=30)
    proxy.fault, begun = fault, time.monotonic()
    for name in names:
        widget("2", size=SIZE, name=name)
    until(lambda: time.monotonic() - begun > TROUBLE / 2, seconds=TROUBLE)
    proxy.cut_watches()
    until(lambda: time.monotonic() - begun > TROUBLE, seconds=TROUBLE)
    asked = proxy.since(begun)
    proxy.fault, seconds = None, time.monotonic() - begun
    kinds = Counter(f"{a.agent[:7]} {a.method}{' watch' if a.watch else ''}" for a in asked)
    print(f"{len(asked)} requests in {seconds:.1f} s, of {BOUND} at most: {dict(kinds)}")
    assert len(asked) < BOUND
    assert sum(a.watch for a in asked) < WATCHES
    assert process.status("/healthz") == 200
    for name in names:
        found = whole(bare, namespace, "2", size=SIZE, name=name)
        history = found["status"]["history"]
        assert history == (["1", "2"] if name == "w0" else ["2"]), "each version is decided on once"
    settled(process)
    attempts = sorted([f"{name}-{2 if name == 'w0' else 1}" for name in names])
    assert sorted(ours(bare, "jobs", namespace)) == attempts
    assert len(proxy.since(time.monotonic() - 2)) < 10, "at rest nearly nothing is asked"


def test_a_child_refused_for_ever_is_told_and_asked_for_seldom(
    bare: Kube, namespace: str, operator: Any, widget: Any, proxy: Proxy
) -> None:
    operator(proxy.url).ready()

    async def invalid(_: Proxy, request: web.Request) -> web.StreamResponse | None:
        refused = request.method == "PATCH" and request.path.endswith("/configmaps/w-c1")
        return status(422, "Invalid") if refused else None

    proxy.fault = invalid
    widget()
    kind = "widget.shell.test.capstan.dev"
    bare.wait(kind, "w", namespace, lambda w: "made up by the test" in str(w.get("status")), seconds=30)
    told = time.monotonic()
    until(lambda: time.monotonic() - told > 5, seconds=10)
    assert sum(asked.path.endswith("/w-c1") for asked in proxy.since(told)) <= 4
    proxy.fault = None
    whole(bare, namespace, "1", attempt=1)
