"""The fourth verb: write the status, once, and only if it changed.

It is always a PUT on the version the plan was made from. So a decision that is in the status was made from
what was then true, and of two operators that decide at once, one is refused and looks again.
"""

from __future__ import annotations

from collections.abc import Mapping

from capstan_operator.core.model import Manifest
from capstan_operator.shell.client import Api
from capstan_operator.shell.errors import Gone, Rejected, Stale, Transient
from capstan_operator.shell.keys import Resource, key_of
from capstan_operator.shell.store import Store


class StatusWriter:
    """Writes to /status and keeps the store of custom resources in step."""

    def __init__(self, api: Api, resources: Store, kinds: Mapping[str, Resource]) -> None:
        self._api = api
        self._resources = resources
        self._kinds = kinds

    async def write(self, obj: Manifest, status: Manifest) -> Manifest:
        """Write the status if it differs; return the object as it then is.

        Raises Stale when the object has moved on (the store then has what it has become), Gone when it is no
        more (the store then knows), Transient when the API is away or will not let us.
        """
        if (obj.get("status") or {}) == status:
            return obj
        kind = self._kinds[obj["kind"]]
        try:
            written = await self._api.put_status(kind, obj, status)
        except Stale:
            await self._look_again(kind, obj)
            raise
        except Gone:
            self._resources.remove(obj)
            raise
        except Rejected as error:
            raise Transient(f"the status was refused: {error}", status=error.status) from error
        written = {"apiVersion": kind.api_version, "kind": kind.kind} | written
        self._resources.put(written)
        return written

    async def _look_again(self, kind: Resource, obj: Manifest) -> None:
        key = key_of(obj)
        try:
            fresh = await self._api.get(kind, key.namespace, key.name)
        except Rejected as error:
            raise Transient(f"{key} cannot be looked at: {error}", status=error.status) from error
        if fresh is None:
            self._resources.remove(obj)
            raise Gone(f"{key} is gone")
        self._resources.put(fresh)
