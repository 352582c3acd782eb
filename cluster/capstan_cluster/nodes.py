"""Makes a node offer accelerators: labels, and an extended resource the way Kubernetes documents it.

https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from capstan_cluster.config import GPU_RESOURCE, NODE_LABELS

Kubectl = Callable[..., str]
"""Runs kubectl with these arguments and gives its output."""


def is_ready(node: dict[str, Any], since: float = 0) -> bool:
    """Whether the node is ready, by a report surely later than `since` (seconds since 1970).

    Reports tell whole seconds: one of the same second may be the former kubelet's.
    """
    for condition in node.get("status", {}).get("conditions", ()):
        if condition["type"] == "Ready":
            heard = datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()
            return bool(condition["status"] == "True") and heard > since
    return False


def offers(node: dict[str, Any], gpus: int) -> bool:
    """Whether the node has the labels and the accelerators."""
    labels, status = node["metadata"].get("labels", {}), node.get("status", {})
    return all(labels.get(key) == value for key, value in NODE_LABELS.items()) and all(
        status.get(part, {}).get(GPU_RESOURCE) == str(gpus) for part in ("capacity", "allocatable")
    )


def offer(kubectl: Kubectl, name: str, gpus: int) -> None:
    """Give a node the labels and the accelerators; a kubelet that registers anew takes the latter away."""
    kubectl("label", "--overwrite", "node", name, *(f"{key}={value}" for key, value in NODE_LABELS.items()))
    count = {GPU_RESOURCE: str(gpus)}
    patch = json.dumps({"status": {"capacity": count, "allocatable": count}})
    kubectl("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={patch}")
