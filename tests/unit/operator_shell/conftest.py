"""A small API server to be hostile with, and the parts of the shell connected to it.

It keeps objects with resourceVersions and a history to watch from, like the real one. Faults are queued: each
answers the next request that it fits. Watches can be made to lie, repeat, shuffle, stall and hang up.
"""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from capstan_operator.core.model import ChildKind, Kind, Manifest, Observed, Plan, Settings
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.metrics import Metrics
from kubernetes.aio.client import Configuration

from .running import start

__all__ = ["start"]

Mangler = Callable[[list[bytes]], list[bytes]]

PATH = re.compile(
    r"^/(?:api|apis)/(?P<gv>v1|[^/]+/v1[a-z0-9]*)(?:/namespaces/(?P<ns>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>status))?$"
)


@dataclass
class Fault:
    """Answers the next `times` requests whose "METHOD path?query" matches."""

    pattern: str
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    delay: float = 0


class Cluster:
    """The server's state and what the tests do to it."""

    def __init__(self) -> None:
        self.version = itertools.count(101)
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.history: dict[str, list[tuple[int, bytes, Manifest]]] = {}
        self.compacted = 0
        self.kinds: dict[str, tuple[str, str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.bodies: list[Any] = []
        self.tokens: list[str | None] = []
        self.url = ""
        self.watches = 0
        self.mangle: Mangler = lambda lines: lines
        self.deaf = asyncio.Event()
        self._news = asyncio.Event()
        self._closing = False

    def writes(self) -> list[str]:
        return [line for line in self.requests if not line.startswith("GET")]

    def fail(self, pattern: str, status: int, **more: Any) -> None:
        self.faults.append(Fault(pattern, status, **more))

    def put(self, plural: str, obj: Manifest) -> Manifest:
        """Create or replace an object, as somebody else would."""
        metadata = obj["metadata"]
        place = (plural, metadata.get("namespace", "ns"), metadata["name"])
        old = self.objects.get(place)
        version = next(self.version)
        new = json.loads(json.dumps(obj))
        new["metadata"] |= {"namespace": place[1], "resourceVersion": str(version)}
        new["metadata"].setdefault("uid", old["metadata"]["uid"] if old else f"uid-{version}")
        new["metadata"].setdefault("generation", 1)
        self.objects[place] = new
        self._publish(plural, version, "MODIFIED" if old else "ADDED", new)
        return new

    def delete(self, plural: str, namespace: str, name: str) -> Manifest:
        old = self.objects.pop((plural, namespace, name))
        version = next(self.version)
        self._publish(
            plural,
            version,
            "DELETED",
            old | {"metadata": old["metadata"] | {"resourceVersion": str(version)}},
        )
        return old

    def vanish(self, plural: str, namespace: str, name: str) -> None:
        """Delete without anybody hearing of it."""
        del self.objects[plural, namespace, name]
        next(self.version)

    def compact(self) -> None:
        """Forget the history: who watches from before gets 410."""
        self.compacted = next(self.version)
        self.history.clear()
        self.hang_up()

    def hang_up(self) -> None:
        """End every watch there is."""
        self.deaf.set()
        self.deaf = asyncio.Event()

    def close(self) -> None:
        self._closing = True
        self.hang_up()

    def listed(self, plural: str) -> list[Manifest]:
        return [obj for (p, _, _), obj in sorted(self.objects.items()) if p == plural]

    def _publish(self, plural: str, version: int, what: str, obj: Manifest) -> None:
        line = json.dumps({"type": what, "object": obj}).encode() + b"\n"
        self.history.setdefault(plural, []).append((version, line, obj))
        self._news.set()
        self._news = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        self.requests.append(line)
        self.tokens.append(request.headers.get("Authorization"))
        raw = await request.text()
        body = json.loads(raw) if raw else None
        self.bodies.append(body)
        for fault in self.faults:
            if re.search(fault.pattern, line):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                await asyncio.sleep(fault.delay)
                if fault.status == 0:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                return _status(fault.status, fault.body, fault.headers)
        match = PATH.match(request.path)
        if match is None:
            return self._discovery(request.path)
        plural, namespace, name = match["plural"], match["ns"], match["name"]
        if plural not in self.kinds:
            return _status(404)
        if name is None and request.method == "GET":
            if request.query.get("watch"):
                return await self._watch(request, plural, namespace)
            return self._list(request, plural, namespace)
        if request.method == "POST":
            assert body is not None
            if (plural, namespace, body["metadata"]["name"]) in self.objects:
                return _status(409, {"reason": "AlreadyExists"})
            return web.json_response(self.put(plural, body), status=201)
        assert namespace is not None
        method = "MERGE" if "merge-patch" in request.content_type else request.method
        return self._one(method, plural, namespace, name, match["sub"], body)

    def _one(
        self, method: str, plural: str, namespace: str, name: str, sub: str | None, body: Any
    ) -> web.Response:
        old = self.objects.get((plural, namespace, name))
        if method == "PATCH":
            merged = _merged(old or {}, body)
            if merged == old:
                return web.json_response(old)
            return web.json_response(self.put(plural, merged), status=200 if old else 201)
        if old is None:
            return _status(404)
        if method == "MERGE":
            return web.json_response(self.put(plural, _merged(old, body)))
        if method == "DELETE":
            wanted = ((body or {}).get("preconditions") or {}).get("uid")
            if wanted not in (None, old["metadata"]["uid"]):
                return _status(409, {"reason": "Conflict"})
            self.delete(plural, namespace, name)
            return web.json_response({"kind": "Status", "status": "Success"})
        if method == "PUT":
            given = body["metadata"]
            if (given["resourceVersion"], given["uid"]) != (
                old["metadata"]["resourceVersion"],
                old["metadata"]["uid"],
            ):
                return _status(409, {"reason": "Conflict"})
            part = "status" if sub == "status" else "spec"
            return web.json_response(self.put(plural, old | {part: body[part]}))
        return web.json_response(old)

    def _selected(self, request: web.Request, namespace: str | None, obj: Manifest) -> bool:
        if namespace not in (None, obj["metadata"]["namespace"]):
            return False
        selector = request.query.get("labelSelector")
        if not selector:
            return True
        name, _, value = selector.partition("=")
        return bool((obj["metadata"].get("labels") or {}).get(name) == value)

    def _list(self, request: web.Request, plural: str, namespace: str | None) -> web.Response:
        found = [obj for obj in self.listed(plural) if self._selected(request, namespace, obj)]
        start = int(request.query.get("continue", "0"))
        limit = min(int(request.query.get("limit", "500")), 2)  # small pages, so that there are several
        metadata = {"resourceVersion": str(next(self.version))}
        if start + limit < len(found):
            metadata["continue"] = str(start + limit)
        items = [{k: v for k, v in o.items() if k not in ("kind", "apiVersion")} for o in found]
        api_version, kind = self.kinds[plural]
        return web.json_response(
            {
                "kind": f"{kind}List",
                "apiVersion": api_version,
                "metadata": metadata,
                "items": items[start : start + limit],
            }
        )

    async def _watch(self, request: web.Request, plural: str, namespace: str | None) -> web.StreamResponse:
        self.watches += 1
        since, deaf = int(request.query["resourceVersion"]), self.deaf
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self.compacted:
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
            await response.write(json.dumps(gone).encode() + b"\n")
            return response
        while not deaf.is_set() and not self._closing:
            news = self._news
            fresh = [
                (version, line)
                for version, line, obj in self.history.get(plural, ())
                if version > since and self._selected(request, namespace, obj)
            ]
            if fresh:
                since = fresh[-1][0]
                for line in self.mangle([line for _, line in fresh]):
                    await response.write(line)
                continue
            waits = [asyncio.create_task(event.wait()) for event in (news, deaf)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return response

    def _discovery(self, path: str) -> web.Response:
        groups = {version for version, _ in self.kinds.values() if "/" in version}
        groups.add("apiextensions.k8s.io/v1")
        if path == "/api":
            return web.json_response({"versions": ["v1"]})
        if path == "/apis":
            return web.json_response(
                {
                    "groups": [
                        {
                            "name": group.split("/")[0],
                            "versions": [{"version": group.split("/")[1]}],
                            "preferredVersion": {"version": group.split("/")[1]},
                        }
                        for group in sorted(groups)
                    ]
                }
            )
        version = path.removeprefix("/apis/").removeprefix("/api/")
        served = {plural: kind for plural, (gv, kind) in self.kinds.items() if gv == version}
        if version == "v1":
            served |= {"namespaces": "Namespace", "events": "Event"}
        if version.startswith("apiextensions"):
            served |= {"customresourcedefinitions": "CustomResourceDefinition"}
        return web.json_response(
            {
                "resources": [
                    {
                        "name": plural,
                        "kind": kind,
                        "singularName": kind.lower(),
                        "namespaced": plural not in ("namespaces", "customresourcedefinitions"),
                        "verbs": ["get", "list", "watch", "patch"],
                    }
                    for plural, kind in served.items()
                ]
            }
        )


def _status(code: int, body: Any = None, headers: dict[str, str] | None = None) -> web.Response:
    if isinstance(body, bytes):
        return web.Response(status=code, body=body, headers=headers)
    status = {"kind": "Status", "status": "Failure", "code": code} | (body or {})
    return web.json_response(status, status=code, headers=headers)


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


# What the fake kind does: a ConfigMap for each of spec.children, and a status that counts them.

LABELS = {"app.kubernetes.io/managed-by": "capstan", "capstan.dev/kind": "Widget"}
CONFIGMAPS = Resource("v1", "ConfigMap", "configmaps")
WIDGETS = Resource("test.dev/v1", "Widget", "widgets")


def child_of(widget: Manifest, name: str, data: str = "x") -> Manifest:
    metadata = widget["metadata"]
    owner = {
        "apiVersion": WIDGETS.api_version,
        "kind": WIDGETS.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": LABELS | {"capstan.dev/name": metadata["name"]},
            "ownerReferences": [owner],
        },
        "data": {"value": data},
    }


def widget_plan(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
    del now, settings
    wanted = resource["spec"].get("children", [])
    return Plan(
        status={
            "children": sorted(c["metadata"]["name"] for c in seen.children if c["kind"] == "ConfigMap"),
            "references": sorted(r["metadata"]["name"] for r in seen.references),
        },
        apply=tuple(child_of(resource, name) for name in wanted),
    )


def kind_of(**changes: Any) -> Kind:
    parts: dict[str, Any] = {
        "api_version": WIDGETS.api_version,
        "kind": WIDGETS.kind,
        "plural": WIDGETS.plural,
        "children": (ChildKind("v1", "ConfigMap", "configmaps"),),
        "plan": widget_plan,
        "references": lambda _: (),
    }
    return Kind(**(parts | changes))


@pytest.fixture
def make_kind() -> Callable[..., Kind]:
    return kind_of


@pytest.fixture
def make_child() -> Callable[..., Manifest]:
    return child_of


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    state = Cluster()
    state.kinds = {
        "widgets": ("test.dev/v1", "Widget"),
        "configmaps": ("v1", "ConfigMap"),
        "events": ("v1", "Event"),
        "leases": ("coordination.k8s.io/v1", "Lease"),
    }
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", state.answer)
    server = TestServer(app)
    await server.start_server()
    state.url = str(server.make_url("")).rstrip("/")
    yield state
    state.close()
    await server.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def api(cluster: Any, metrics: Metrics) -> AsyncIterator[KubernetesApi]:
    client = KubernetesApi(Configuration(host=cluster.url), metrics)
    yield client
    await client.close()


@pytest.fixture
def widget(cluster: Cluster) -> Callable[..., Manifest]:
    def make(name: str = "w", **spec: Any) -> Manifest:
        return cluster.put(
            "widgets",
            {"apiVersion": "test.dev/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec},
        )

    return make


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a condition: the tests' only clock."""

    async def wait(condition: Callable[[], Any], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  (there is no event: the other side is an operator)
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def clock() -> Callable[[], datetime]:
    return lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
