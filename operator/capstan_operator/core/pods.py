"""Pods as all of ours are: restricted by default, owned, and open to the user's overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from capstan_operator.api.common import API_VERSION
from capstan_operator.core import get, labels, names, podtemplate
from capstan_operator.core.model import Manifest

#: The group that files on claims are made accessible to; our images run as this user and group.
GROUP: Final = 65532

#: The restricted Pod Security Standard, as far as containers go.
RESTRICTED: Final[Manifest] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
#: What our own containers keep to beside it.
READ_ONLY: Final[Manifest] = {**RESTRICTED, "readOnlyRootFilesystem": True}

SECURITY: Final[Manifest] = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
    "fsGroup": GROUP,
    # Or the kubelet would go through every file of a large claim before each start.
    "fsGroupChangePolicy": "OnRootMismatch",
}


def owner_reference(resource: Manifest) -> Manifest:
    """Makes a child the resource's: garbage collection deletes it with the resource."""
    return {
        "apiVersion": API_VERSION,
        "kind": resource["kind"],
        "name": resource["metadata"]["name"],
        "uid": get.text(resource, "metadata", "uid"),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child(
    resource: Manifest,
    api_version: str,
    kind: str,
    name: str,
    role: str,
    spec: Manifest,
    extra_labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """A child of the resource, with the hash of all that it is rendered as."""
    metadata: Manifest = {
        "name": name,
        "namespace": resource["metadata"]["namespace"],
        "labels": labels.standard(resource["kind"], resource["metadata"]["name"], role)
        | dict(extra_labels or {}),
        "ownerReferences": [owner_reference(resource)],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    manifest: Manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
    return _marked(manifest, names.digest(manifest))


def rendered_as(manifest: Manifest, live: Manifest) -> Manifest:
    """A child that is made from a live one, so that no release has rendered it: it keeps that one's hash."""
    return _marked(manifest, get.text(live, "metadata", "annotations", labels.RENDERED))


def _marked(manifest: Manifest, mark: str) -> Manifest:
    metadata = manifest["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k != labels.RENDERED}
    if mark:
        annotations[labels.RENDERED] = mark
    others = {key: value for key, value in metadata.items() if key != "annotations"}
    return {**manifest, "metadata": {**others, **({"annotations": annotations} if annotations else {})}}


def template(
    pod_labels: Mapping[str, str], spec: Manifest, overrides: Manifest | None, fixed: Manifest
) -> Manifest:
    """The pod template: ours, with the user's overrides, with what must stay as it is put back.

    `fixed` is of the spec: what the controllers above rely on. Labels of ours stay, too.
    """
    ours: Manifest = {
        "metadata": {"labels": dict(pod_labels)},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": dict(SECURITY),
            **spec,
        },
    }
    result = podtemplate.merged(ours, overrides or {})
    metadata, merged_spec = get.mapping(result, "metadata"), get.mapping(result, "spec")
    found = get.mapping(metadata, "labels")
    return {
        "metadata": {
            **{key: metadata[key] for key in ("annotations",) if metadata.get(key)},
            "labels": found | dict(pod_labels),
        },
        "spec": {
            **merged_spec,
            **{
                field: [_secured(container) for container in get.items(merged_spec, field)]
                for field in ("initContainers", "containers")
                if merged_spec.get(field)
            },
            **fixed,
        },
    }


def _secured(container: Manifest) -> Manifest:
    """A container, also a user's own, with what the restricted standard wants where it says nothing else."""
    given = get.mapping(container, "securityContext")
    return {**container, "securityContext": podtemplate.merged(RESTRICTED, given)}


def empty_dir(name: str, **details: str) -> Manifest:
    """A volume that lives as long as the pod."""
    return {"name": name, "emptyDir": dict(details)}


def env(variables: Mapping[str, str]) -> list[Manifest]:
    """Variables with values, as a container has them."""
    return [{"name": name, "value": value} for name, value in variables.items()]


def service(name: str, port: int, **more: str) -> Manifest:
    """A Service's port; its target is the container's port of that name."""
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP", **more}
