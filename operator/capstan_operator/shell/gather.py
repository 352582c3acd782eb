"""The first verb: collect from the stores what a plan wants to see. No request is made.

A plan sees only children that are this incarnation's: labels alone are a claim that anyone can make, so the
controlling owner reference decides. Pods outlive the one that controls them when it is deleted in the
background: they are seen until they have ended, for they still have its host names and its accelerators.
"""

from __future__ import annotations

from capstan_operator.core.model import Kind, Manifest, ObjectRef, Observed
from capstan_operator.shell.keys import Key, controller_of, key_of
from capstan_operator.shell.store import Store


class References:
    """Who mentions whom: a change of the one mentioned is a reason to look at those that mention it."""

    def __init__(self) -> None:
        self._mentions: dict[Key, frozenset[Key]] = {}
        self._mentioned_by: dict[Key, set[Key]] = {}

    def set(self, key: Key, mentions: frozenset[Key]) -> None:
        """Record everything that `key` mentions now."""
        for gone in self._mentions.pop(key, frozenset()) - mentions:
            self._mentioned_by[gone].discard(key)
            if not self._mentioned_by[gone]:
                del self._mentioned_by[gone]
        for mentioned in mentions:
            self._mentioned_by.setdefault(mentioned, set()).add(key)
        if mentions:
            self._mentions[key] = mentions

    def to(self, key: Key) -> list[Key]:
        """Return who mentions `key`."""
        return sorted(self._mentioned_by.get(key, ()))


def mentioned(refs: tuple[ObjectRef, ...]) -> frozenset[Key]:
    """Return the keys of the references."""
    return frozenset(Key(ref.kind, ref.namespace, ref.name) for ref in refs)


def observed(kind: Kind, resource: Manifest, resources: Store, children: Store) -> Observed:
    """Return the world as the plan of this resource should see it."""
    found = children.owned(key_of(resource))
    watched = {child.kind for child in kind.children}
    ours = {_uid(child) for child in found if _controlled_by(child, _uid(resource))}
    known = {_uid(child) for child in found}
    refs = (resources.get(ref.kind, ref.namespace, ref.name) for ref in kind.references(resource))
    return Observed(
        children=tuple(
            child for child in found if _uid(child) in ours or _descends(child, ours, known, watched, kind)
        ),
        references=tuple(ref for ref in refs if ref is not None),
    )


def _controlled_by(child: Manifest, uid: str) -> bool:
    controller = controller_of(child)
    return controller is not None and controller.get("uid") == uid


def _descends(child: Manifest, ours: set[str], known: set[str], watched: set[str], kind: Kind) -> bool:
    """Say whether a child's child (a pod) is ours: by a child we see or that is gone, or one not watched."""
    controller = controller_of(child)
    if controller is None:
        return False
    if controller.get("kind") in watched:
        return controller.get("uid") in ours or controller.get("uid") not in known
    return str(controller.get("apiVersion", "")).partition("/")[0] != kind.api_version.partition("/")[0]


def _uid(obj: Manifest) -> str:
    return str(obj["metadata"].get("uid", ""))
