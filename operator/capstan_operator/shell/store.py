"""What the cluster looks like, as far as we have heard: objects by identity and by owner.

The store is fed by watches, by relists and by our own writes, in any order, repeated or late. It only ever
moves forward: an object is replaced by a newer resourceVersion (numbers that only grow, per KEP-5504) and
what is known to be deleted is not brought back by news that is older. It does no I/O and knows no clock.

Objects are kept as JSON, and read anew each time they are asked for: a fleet at rest is read seldom, and as
Python's objects each would take ten times as much memory.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from capstan_operator.core.model import Manifest
from capstan_operator.shell.keys import Key, Resource, key_of

#: How many deletions are remembered, against news that comes late. The oldest are forgotten first.
TOMBSTONES = 20_000
#: The version of something that will never come back.
FOREVER = 1 << 63


class Identity(NamedTuple):
    """One object's place in the API, whichever incarnation of it."""

    kind: str
    namespace: str
    name: str


class Held(NamedTuple):
    """What is kept of an object: its incarnation, its version, whose it is, and all of it as JSON."""

    uid: str
    version: int
    owner: Key | None
    packed: bytes

    def manifest(self) -> Manifest:
        """Return the object; changing it changes nothing here."""
        found: Manifest = json.loads(self.packed)
        return found


def version_of(obj: Manifest) -> int:
    """Return the resourceVersion as a number; 0 when there is none that is one."""
    version = obj["metadata"].get("resourceVersion", "")
    return int(version) if version.isdecimal() else 0


class Store:
    """Objects by identity, indexed by the custom resource they belong to.

    `owner` names that resource (None: not indexed) and `changed` hears its key after every change.
    """

    def __init__(
        self,
        owner: Callable[[Manifest], Key | None] = key_of,
        changed: Callable[[Key], None] = lambda _: None,
    ) -> None:
        self._owner = owner
        self._changed = changed
        self._objects: dict[Identity, Held] = {}
        self._by_owner: dict[Key, set[Identity]] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None when it is not known to exist."""
        held = self._objects.get(Identity(kind, namespace, name))
        return None if held is None else held.manifest()

    def owned(self, key: Key) -> tuple[Manifest, ...]:
        """Return the objects indexed under this key, in a stable order."""
        return tuple(self._objects[identity].manifest() for identity in sorted(self._by_owner.get(key, ())))

    def keys(self, kind: str) -> list[Key]:
        """Return the owners' keys of all objects of a kind."""
        found = {held.owner for held in self.of_kind(kind)}
        return sorted(key for key in found if key is not None)

    def of_kind(self, kind: str) -> list[Held]:
        """Return all objects of a kind, in no order."""
        return [held for identity, held in self._objects.items() if identity.kind == kind]

    def count(self) -> dict[str, int]:
        """Return how many objects of each kind are held."""
        counts: dict[str, int] = {}
        for identity in self._objects:
            counts[identity.kind] = counts.get(identity.kind, 0) + 1
        return counts

    def put(self, obj: Manifest) -> bool:
        """Take in an object seen or written; return False when that was no news."""
        identity, uid, version = _identity(obj), _uid(obj), version_of(obj)
        if uid in self._gone and version <= self._gone[uid]:
            return False
        current = self._objects.get(identity)
        if current is not None:
            if version <= current.version:
                return False
            if current.uid != uid:
                self._bury(current.uid, FOREVER)
            self._forget(identity, current)
        owner = self._owner(obj)
        self._objects[identity] = Held(uid, version, owner, _packed(obj))
        if owner is not None:
            self._by_owner.setdefault(owner, set()).add(identity)
        self._tell({owner, None if current is None else current.owner})
        return True

    def remove(self, obj: Manifest, version: int | None = None) -> bool:
        """Take out an object that was deleted (or left our selector) at `version`, by default its own."""
        return self._remove(_identity(obj), _uid(obj), version_of(obj) if version is None else version)

    def take(self, objects: Iterable[Manifest]) -> set[Identity]:
        """Take in a part of a list; return what it held."""
        listed = set()
        for obj in objects:
            listed.add(_identity(obj))
            self.put(obj)
        return listed

    def retain(
        self, resource: Resource, namespace: str | None, listed: Container[Identity], version: int
    ) -> None:
        """Take out what a complete list made at `version` lacks and is not newer: it has been deleted."""
        for identity, held in list(self._objects.items()):
            if identity not in listed and _is_of(identity, resource, namespace):
                self._remove(identity, held.uid, version)

    def drop(self, resource: Resource, namespace: str | None) -> None:
        """Forget a kind that is not served at the moment. Nothing is buried: it may come back as it was."""
        for identity, held in list(self._objects.items()):
            if _is_of(identity, resource, namespace):
                self._forget(identity, held)
                self._tell({held.owner})

    def _remove(self, identity: Identity, uid: str, at: int) -> bool:
        current = self._objects.get(identity)
        if current is not None and current.uid == uid and current.version > at:
            return False
        self._bury(uid, at)
        if current is None or current.uid != uid:
            return False
        self._forget(identity, current)
        self._tell({current.owner})
        return True

    def _bury(self, uid: str, version: int) -> None:
        self._gone[uid] = max(version, self._gone.get(uid, 0))
        self._gone.move_to_end(uid)
        while len(self._gone) > TOMBSTONES:
            self._gone.popitem(last=False)

    def _forget(self, identity: Identity, current: Held) -> None:
        del self._objects[identity]
        if current.owner is not None:
            siblings = self._by_owner[current.owner]
            siblings.discard(identity)
            if not siblings:
                del self._by_owner[current.owner]

    def _tell(self, owners: Iterable[Key | None]) -> None:
        for owner in owners:
            if owner is not None:
                self._changed(owner)


def _identity(obj: Manifest) -> Identity:
    metadata = obj["metadata"]
    return Identity(obj["kind"], metadata.get("namespace", ""), metadata["name"])


def _is_of(identity: Identity, resource: Resource, namespace: str | None) -> bool:
    return identity.kind == resource.kind and namespace in (None, identity.namespace)


def _packed(obj: Manifest) -> bytes:
    """All of an object but managedFields: half of its size, and of no use to a plan."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return json.dumps({**obj, "metadata": metadata}, separators=(",", ":")).encode()


def _uid(obj: Manifest) -> str:
    return str(obj["metadata"].get("uid", ""))
