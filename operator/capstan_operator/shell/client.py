"""The Kubernetes API as the shell uses it: raw dicts in and out, our error tree, nothing of a model.

The generated methods of kubernetes.aio validate everything with pydantic; `ApiClient.call_api` does not.
`Api` is the protocol the other modules depend on, so that tests can put something else in its place.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from copy import copy
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from capstan_operator.core.model import Manifest, ObjectRef
from capstan_operator.shell.errors import Fenced, Gone, Rejected, ShellError, Stale, Transient
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.metrics import Metrics

FIELD_MANAGER = "capstan-operator"
#: Seconds a single request may take, from the connection to the last byte.
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
#: A watch is silent for at most a minute when it is alive (bookmarks); longer than this it is dead.
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=75)
#: Objects a page when listing.
PAGE = 500

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"


class Api(Protocol):
    """Every request the shell makes. Errors are those of errors.py."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None when there is none."""

    def pages(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> AsyncGenerator[tuple[list[Manifest], str], None]:
        """Yield pages of objects, each with the list's resourceVersion. Gone: the kind is not installed."""

    def watch(
        self, resource: Resource, namespace: str | None, since: str, selector: str | None = None
    ) -> AsyncGenerator[Manifest, None]:
        """Yield raw watch events (type, object) after `since` until the server ends the stream."""

    async def apply(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Server-side apply a complete child; return what the cluster now has."""

    async def delete(self, resource: Resource, ref: ObjectRef) -> Manifest | None:
        """Delete exactly this incarnation, its dependents first; return what is left of it."""

    async def put_status(self, resource: Resource, obj: Manifest, status: Manifest) -> Manifest:
        """Replace the status of exactly this version of the object; Stale when it has moved on."""

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Create an object."""

    async def replace(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Replace exactly the version that the manifest names; Stale when it has moved on."""

    async def merge(self, resource: Resource, namespace: str, name: str, patch: Manifest) -> Manifest:
        """JSON-merge-patch an object."""


class KubernetesApi:
    """The real thing, on one pool of connections of the official client.

    `fence` says whether we may write. It is asked when a connection is there and the request's first byte is
    about to be sent, each time: aiohttp sends some requests again by itself.
    """

    def __init__(
        self, configuration: Configuration, metrics: Metrics, fence: Callable[[], bool] | None = None
    ) -> None:
        configuration = copy(configuration)
        configuration.trace_configs = [_fenced(fence)] if fence else None
        self._client = ApiClient(configuration)
        self._client.user_agent = FIELD_MANAGER
        self._host = configuration.host.rstrip("/")
        self._metrics = metrics

    async def close(self) -> None:
        """Close the connections, at once: what waits for TLS to end politely outlives the event loop."""
        pool = self._client.rest_client.pool_manager
        if pool is not None and pool.connector is not None:
            await pool.connector.close(abort_ssl=True)
        await self._client.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """See Api."""
        try:
            return await self._json("get", "GET", resource.path(namespace, name))
        except Gone:
            return None

    async def pages(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> AsyncGenerator[tuple[list[Manifest], str], None]:
        """See Api. The pages are of one consistent snapshot; items get the kind that lists leave out."""
        query = {"limit": str(PAGE)} | _selecting(selector)
        while True:
            page = await self._json("list", "GET", resource.path(namespace), query)
            metadata = page.get("metadata") or {}
            items = page.get("items") or ()
            kind = {"apiVersion": resource.api_version, "kind": resource.kind}
            yield [item | kind for item in items], str(metadata.get("resourceVersion", ""))
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def watch(
        self, resource: Resource, namespace: str | None, since: str, selector: str | None = None
    ) -> AsyncGenerator[Manifest, None]:
        """See Api. A line that is not an event is a broken stream: Transient."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": since} | _selecting(
            selector
        )
        try:
            response = await self._request(
                "watch", "GET", resource.path(namespace), query, limits=WATCH_TIMEOUT
            )
            async with response:
                await _check(response)
                async with aclosing(_lines(response.content)) as lines:
                    async for line in lines:
                        yield _event(line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Transient(f"watch of {resource.plural} broke: {error!r}") from error

    async def apply(self, resource: Resource, manifest: Manifest) -> Manifest:
        """See Api. Forced: what we render is ours, whoever else has written it."""
        metadata = manifest["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._json("apply", "PATCH", path, query, manifest, APPLY_PATCH)

    async def delete(self, resource: Resource, ref: ObjectRef) -> Manifest | None:
        """See Api. None: it is gone. A Stale uid means that this incarnation is gone, too.

        In the foreground: a Job stays until its pods are gone, so that plans see those and can wait for them.
        By force: a pod goes at once, whatever runs on its node.
        """
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        if ref.force:
            options |= {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
        if ref.uid:
            options["preconditions"] = {"uid": ref.uid}
        try:
            left = await self._json("delete", "DELETE", resource.path(ref.namespace, ref.name), {}, options)
        except (Gone, Stale):
            return None
        return left if left.get("kind") == resource.kind else None

    async def put_status(self, resource: Resource, obj: Manifest, status: Manifest) -> Manifest:
        """See Api. PUT, not apply: the status is exactly this, and on the version it was planned from."""
        metadata = obj["metadata"]
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {field: metadata[field] for field in ("name", "namespace", "uid", "resourceVersion")},
            "status": status,
        }
        path = resource.path(metadata["namespace"], metadata["name"], "status")
        return await self._json("update_status", "PUT", path, {"fieldManager": FIELD_MANAGER}, body)

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """See Api."""
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._json("create", "POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def replace(self, resource: Resource, manifest: Manifest) -> Manifest:
        """See Api."""
        metadata = manifest["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        return await self._json("update", "PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def merge(self, resource: Resource, namespace: str, name: str, patch: Manifest) -> Manifest:
        """See Api."""
        path = resource.path(namespace, name)
        return await self._json("patch", "PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, MERGE_PATCH)

    async def _json(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
    ) -> Manifest:
        try:
            response = await self._request(verb, method, path, query, body, content_type)
            async with response:
                await _check(response)
                result = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Transient(f"{method} {path}: {error!r}") from error
        except ValueError as error:
            raise Transient(f"{method} {path}: the answer is not JSON: {error}") from error
        if not isinstance(result, dict):
            raise Transient(f"{method} {path}: the answer is not an object")
        return result

    async def _request(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        url = self._host + path + ("?" + urlencode(query) if query else "")
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": FIELD_MANAGER}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        code = "error"
        try:
            answer = await self._client.call_api(
                method, url, headers, body, _request_timeout=limits or REQUEST_TIMEOUT
            )
            response: aiohttp.ClientResponse = answer.response
            code = str(response.status)
            return response
        except Fenced:
            code = "fenced"
            raise
        finally:
            self._metrics.api_requests.labels(verb=verb, code=code).inc()


def _fenced(fence: Callable[[], bool]) -> aiohttp.TraceConfig:
    async def check(_: object, __: object, about: aiohttp.TraceRequestHeadersSentParams) -> None:
        if about.method != "GET" and not fence():
            raise Fenced("not sent: this operator does not lead any more")

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(check)
    return trace


def _selecting(selector: str | None) -> dict[str, str]:
    return {"labelSelector": selector} if selector else {}


def _event(line: bytes) -> Manifest:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise Transient(f"a line of the watch is not JSON: {line[:100]!r}") from error
    if not (
        isinstance(event, dict)
        and isinstance(event.get("type"), str)
        and isinstance(event.get("object"), dict)
    ):
        raise Transient(f"a line of the watch is not an event: {line[:100]!r}")
    return event


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Yield lines of any length: an event can be larger than aiohttp's own limit on a line."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                if line.strip():
                    yield line


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 300:
        return
    raise error_of(response.status, await response.read(), response.headers.get("Retry-After"))


def error_of(code: int, body: bytes, retry_after: str | None = None) -> ShellError:
    """Return the error of our tree for an answer that is not 2xx; `body` usually is a metav1.Status."""
    try:
        status: Any = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        status = {"message": body[:200].decode(errors="replace")}
    reason, message = str(status.get("reason") or "Unknown"), str(status.get("message") or f"HTTP {code}")
    if code in {404, 405}:
        return Gone(message)
    if code == 409 and reason == "Conflict":
        return Stale(message, reason=reason, status=code)
    if code in {401, 408, 410, 429} or code >= 500 or code < 400:
        wait = retry_after or (status.get("details") or {}).get("retryAfterSeconds")
        seconds = float(str(wait)) if str(wait).isdecimal() else None
        return Transient(f"HTTP {code}: {message}", reason=reason, status=code, retry_after=seconds)
    return Rejected(reason, message, status=code)
