"""Nodes that a job does not go back to: attempts failed there more than once, and not by their own fault.

A broken GPU or link fails whatever is placed on its node, and the scheduler, which does not know, places the
next attempt there again: it is the node with the most room.
"""

from __future__ import annotations

from typing import Final

from capstan_operator.core import get
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies.failure import INFRASTRUCTURE, POD_DELETED, Failure

#: Failures on a node after which it is avoided.
ENOUGH: Final = 2
#: Nodes that are remembered: a job that fails on more than so many has other troubles than nodes.
REMEMBERED: Final = 16

_HOSTNAME: Final = "kubernetes.io/hostname"
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
#: What is decided elsewhere and says nothing of the node, and data that does not arrive.
_BLAMELESS: Final = frozenset(
    {"PreemptionByScheduler", "EvictionByEvictionAPI", POD_DELETED, "Terminated", "SourceUnavailable"}
)


def counted(status: Manifest, failure: Failure) -> dict[str, int]:
    """How many attempts have failed on each node, with this one."""
    found = {name: get.number(status, "failedNodes", name) for name in get.mapping(status, "failedNodes")}
    if failure.class_ == INFRASTRUCTURE and failure.node and failure.reason not in _BLAMELESS:
        found[failure.node] = found.get(failure.node, 0) + 1
        if len(found) > REMEMBERED:
            del found[min(found.keys() - {failure.node}, key=lambda name: (found[name], name))]
    return found


def avoided(status: Manifest) -> list[str]:
    """The nodes that the next attempt does not go to."""
    known = get.mapping(status, "failedNodes")
    return sorted(name for name in known if get.number(known, name) >= ENOUGH)


def avoiding(affinity: Manifest, nodes: list[str]) -> Manifest:
    """A pod's affinity, so that it goes to none of these nodes."""
    if not nodes:
        return affinity
    node = get.mapping(affinity, "nodeAffinity")
    other = {"key": _HOSTNAME, "operator": "NotIn", "values": nodes}
    # Terms are alternatives, so each must say it.
    terms = get.items(node, _REQUIRED, "nodeSelectorTerms") or [{}]
    new = [{**term, "matchExpressions": [*get.items(term, "matchExpressions"), other]} for term in terms]
    return {**affinity, "nodeAffinity": {**node, _REQUIRED: {"nodeSelectorTerms": new}}}
