"""How the shell names things: the owner's key on the work queue, and the identity of any object.

Pure: no I/O, no client. The queue, the store and the watches share these and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

from capstan_operator.core.labels import KIND, OWNER
from capstan_operator.core.model import Manifest, ObjectRef


class Key(NamedTuple):
    """One custom resource, as the work queue knows it."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Resource(NamedTuple):
    """A kind of object and where the API serves it."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """Return the URL path of the collection (of one namespace, or of all) or of one object in it."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def key_of(obj: Manifest) -> Key:
    """Return the key of a custom resource, or of any object read as one."""
    metadata = obj["metadata"]
    return Key(obj["kind"], metadata.get("namespace", ""), metadata["name"])


def ref_of(obj: Manifest) -> ObjectRef:
    """Return the reference to an object as it is known to be now, with its uid when it has one."""
    metadata = obj["metadata"]
    return ObjectRef(
        api_version=obj["apiVersion"],
        kind=obj["kind"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata.get("uid"),
    )


def controller_of(obj: Manifest) -> Manifest | None:
    """Return the owner reference with `controller: true`, of which Kubernetes allows one."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            result: Manifest = owner
            return result
    return None


def owner_of(obj: Manifest) -> Key | None:
    """Return the custom resource that a child's labels name, or None."""
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    kind, name = labels.get(KIND), labels.get(OWNER)
    return Key(kind, metadata.get("namespace", ""), name) if kind and name else None


def owner_among(kinds: Container[str]) -> Callable[[Manifest], Key | None]:
    """Return what tells whose a child is: its controller's, which survives edited labels, or as these say.

    The labels are for children's children (pods), whose controller is of no kind of ours.
    """

    def owner(obj: Manifest) -> Key | None:
        controller = controller_of(obj)
        if controller is not None and controller.get("kind") in kinds:
            return Key(controller["kind"], obj["metadata"].get("namespace", ""), controller["name"])
        named = owner_of(obj)
        return named if named is not None and named.kind in kinds else None

    return owner
