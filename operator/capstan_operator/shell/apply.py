"""The third verb: make the children what the plan says, with as few requests as that takes.

A child that already is as desired costs nothing. A name that the store does not know is looked up before it
is applied to, because apply would silently take over somebody else's object. If it is ours, the plan was made
without it, for somebody has taken its labels away: it gets them back, and the next plan is made with it.
What we write is put into the store at once: the next plan sees it whether or not the watch has caught up.
"""

from __future__ import annotations

from collections.abc import Mapping

from capstan_operator.core.drift import differs
from capstan_operator.core.model import Manifest, ObjectRef, Plan
from capstan_operator.shell.client import Api
from capstan_operator.shell.errors import ChildFailed, OwnershipConflict, ShellError, Stale, Transient
from capstan_operator.shell.keys import Resource, controller_of, ref_of
from capstan_operator.shell.store import FOREVER, Store


class Applier:
    """Applies and prunes children of the kinds that were declared."""

    def __init__(self, api: Api, children: Store, kinds: Mapping[str, Resource]) -> None:
        self._api = api
        self._children = children
        self._kinds = kinds

    async def carry_out(self, plan: Plan, owner: Manifest) -> int:
        """Apply and delete what the plan says, in its order; return how many writes. Raises ChildFailed."""
        writes = 0
        for desired in plan.apply:
            try:
                writes += await self._apply(desired, owner)
            except ShellError as error:
                raise ChildFailed(ref_of(desired), error) from error
        for ref in plan.delete:
            try:
                writes += await self._delete(ref)
            except ShellError as error:
                raise ChildFailed(ref, error) from error
        return writes

    async def _apply(self, desired: Manifest, owner: Manifest) -> int:
        ref, resource = ref_of(desired), self._kinds[desired["kind"]]
        live = self._children.get(ref.kind, ref.namespace, ref.name)
        if live is None:
            live = await self._api.get(resource, ref.namespace, ref.name)
            if live is not None:
                await self._recognize(live, desired, owner)
        if live is not None:
            _check_ownership(live, owner)
            if not differs(live, desired):
                return 0
        self._children.put(await self._api.apply(resource, desired))
        return 1

    async def _recognize(self, live: Manifest, desired: Manifest, owner: Manifest) -> None:
        """See to it that a child which the plan could not see is seen by the next: it has lost its labels."""
        _check_ownership(live, owner)
        ref, labels = ref_of(live), desired["metadata"].get("labels", {})
        patch = {"metadata": {"labels": labels}}
        labelled = await self._api.merge(self._kinds[ref.kind], ref.namespace, ref.name, patch)
        self._children.put({"apiVersion": ref.api_version, "kind": ref.kind} | labelled)
        raise Stale(f"{ref.kind} {ref.name} had lost its labels: it is planned with anew")

    async def _delete(self, ref: ObjectRef) -> int:
        left = await self._api.delete(self._kinds[ref.kind], ref)
        if left is not None:
            self._children.put(left)
            return 1
        gone = self._children.get(ref.kind, ref.namespace, ref.name)
        if gone is not None and ref.uid in {None, gone["metadata"].get("uid")}:
            self._children.remove(gone, FOREVER)
        return 1


def _check_ownership(live: Manifest, owner: Manifest) -> None:
    """Raise unless the live object is this owner's and here to stay."""
    ref, controller = ref_of(live), controller_of(live)
    uid = owner["metadata"]["uid"]
    theirs = controller is None or controller.get("uid") != uid
    predecessors = (
        theirs
        and controller is not None
        and (controller.get("kind"), controller.get("name")) == (owner["kind"], owner["metadata"]["name"])
    )
    if predecessors or live["metadata"].get("deletionTimestamp"):
        # It is on its way out: by its own deletion, or by garbage collection after its owner's.
        raise Transient(f"{ref.kind} {ref.name} is still being deleted", reason="BeingDeleted")
    if theirs:
        raise OwnershipConflict(f"{ref.kind} {ref.name} is not controlled by this resource")
