"""An API server in memory: versions, server-side apply, preconditions, deletion and garbage collection.

Objects are never changed in place, so whoever was given one keeps what was true then.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from capstan_operator.core.get import timestamp
from capstan_operator.core.model import Manifest

NAMESPACE = "ns"
FOREGROUND = "foregroundDeletion"
#: What only the Job controller takes away, once it has counted the pod.
TRACKED = "batch.kubernetes.io/job-tracking"

Listener = Callable[[str, Manifest], None]


class Refused(Exception):
    """The API server will not have the object: 422."""


class Cluster:
    """All objects of one namespace, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.version = 100
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.listeners: list[Listener] = []
        self._applied: dict[str, Manifest] = {}

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def get(self, kind: str, name: str) -> Manifest | None:
        return self.objects.get((kind, name))

    def of(self, kind: str) -> list[Manifest]:
        return [obj for (k, _), obj in sorted(self.objects.items()) if k == kind]

    def controlled(self, kind: str, uid: str) -> list[Manifest]:
        return [obj for obj in self.of(kind) if any(o["uid"] == uid for o in owners(obj))]

    def write(self, obj: Manifest) -> Manifest:
        """Create or replace an object; nothing happens when nothing changes."""
        place = obj["kind"], obj["metadata"]["name"]
        old = self.objects.get(place)
        if old is not None and obj == old:
            return old
        metadata = dict(obj["metadata"])
        self.version += 1
        if old is None:
            born = {"uid": f"uid-{self.version}", "creationTimestamp": timestamp(self.now)}
            metadata |= {"namespace": NAMESPACE, "generation": 1, **born}
        elif old.get("spec") != obj.get("spec"):
            metadata["generation"] = old["metadata"]["generation"] + 1
        metadata["resourceVersion"] = str(self.version)
        new = {**obj, "metadata": metadata}
        if "deletionTimestamp" in metadata and not metadata.get("finalizers") and obj["kind"] != "Pod":
            self._remove(new)
        else:
            self.objects[place] = new
            self._tell("ADDED" if old is None else "MODIFIED", new)
        return new

    def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply by one manager: what it applied before and does no longer is taken away."""
        old = self.get(manifest["kind"], manifest["metadata"]["name"])
        if old is None:
            new = self.write(manifest)
        else:
            uid = old["metadata"]["uid"]
            kept = without(old, self._applied.get(uid, {}), manifest)
            merged = over(kept, manifest)
            if old["kind"] == "Job" and _fixed(merged) != _fixed(old):
                raise Refused("spec.template: field is immutable")
            new = self.write(merged)
        self._applied[new["metadata"]["uid"]] = manifest
        return new

    def set_status(self, obj: Manifest, status: Manifest) -> Manifest:
        return self.write({**obj, "status": status})

    def delete(self, kind: str, name: str, *, foreground: bool = False, grace: int = 30) -> Manifest | None:
        """Ask for an object's end; return what is left of it."""
        obj = self.get(kind, name)
        if obj is None or "deletionTimestamp" in obj["metadata"]:
            return obj
        metadata = dict(obj["metadata"])
        if kind == "Pod":
            end = timestamp(self.now + timedelta(seconds=grace))
            metadata |= {"deletionTimestamp": end, "deletionGracePeriodSeconds": grace}
        else:
            metadata |= {"deletionTimestamp": timestamp(self.now)}
            if foreground:
                metadata["finalizers"] = [FOREGROUND]
        self.write({**obj, "metadata": metadata})
        return self.get(kind, name)

    def end(self, pod: Manifest) -> None:
        """The kubelet's last word on a pod, or somebody's `--force`: it is gone."""
        self.version += 1
        metadata = {**pod["metadata"], "resourceVersion": str(self.version)}
        self._remove({**pod, "metadata": metadata})

    def collect_garbage(self) -> None:
        """One round: dependents of what is gone or going in the foreground, then what waited for them."""
        alive = {uid for obj in self.objects.values() for uid in _uids(obj)}
        ending = {uid for obj in self.objects.values() if FOREGROUND in finalizers(obj) for uid in _uids(obj)}
        for obj in list(self.objects.values()):
            uids = {o["uid"] for o in owners(obj)}
            if uids and (not uids & alive or uids & ending):
                self.delete(obj["kind"], obj["metadata"]["name"], foreground=bool(uids & ending))
        for obj in list(self.objects.values()):
            if FOREGROUND in finalizers(obj) and not self._dependents(obj):
                self.write({**obj, "metadata": {**obj["metadata"], "finalizers": []}})

    def _dependents(self, obj: Manifest) -> bool:
        mine = set(_uids(obj))
        return any(o["uid"] in mine for other in self.objects.values() for o in owners(other))

    def _remove(self, obj: Manifest) -> None:
        self.objects.pop((obj["kind"], obj["metadata"]["name"]), None)
        self._tell("DELETED", obj)

    def _tell(self, what: str, obj: Manifest) -> None:
        for listener in self.listeners:
            listener(what, obj)


def owners(obj: Manifest) -> list[Manifest]:
    return obj["metadata"].get("ownerReferences") or []


def finalizers(obj: Manifest) -> list[str]:
    return obj["metadata"].get("finalizers") or []


def replica_set(deployment_uid: str) -> str:
    """The uid of a Deployment's ReplicaSet, which is not simulated as an object."""
    return f"{deployment_uid}-rs"


def _uids(obj: Manifest) -> tuple[str, ...]:
    uid = obj["metadata"]["uid"]
    return (uid, replica_set(uid)) if obj["kind"] == "Deployment" else (uid,)


def _fixed(job: Manifest) -> Any:
    return [job["spec"].get(field) for field in ("template", "completions", "completionMode")]


def over(base: Any, overlay: Any) -> Any:
    """Mappings are merged, everything else is replaced, and so are selectors, which are atomic."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return base | {
        key: value if key == "selector" else over(base.get(key), value) for key, value in overlay.items()
    }


def without(live: Any, before: Any, after: Any) -> Any:
    """What is live, less what was applied before and is not any more."""
    if not (isinstance(live, dict) and isinstance(before, dict) and isinstance(after, dict)):
        return live
    return {
        key: without(value, before.get(key), after.get(key, {}))
        for key, value in live.items()
        if key not in before or key in after
    }
