"""Pods whose node is dead: nobody there will ever say that they have ended.

They hold their Job, their accelerators and their namespace's quota for as long as the node is not removed. So
once their grace is long over they are deleted by force, if the cluster itself has given their node up: a pod
that merely takes long to end would go on running unseen, beside whatever is given its room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from capstan_operator.core import get, observed
from capstan_operator.core.model import Manifest, ObjectRef

#: Seconds for which a pod is waited for once its grace is over.
PATIENCE: Final = 30.0


def given_up(pods: Sequence[Manifest], now: datetime) -> tuple[tuple[ObjectRef, ...], float | None]:
    """The pods to delete by force now, and in how many seconds to look at others again."""
    due, waits = [], []
    for pod in pods:
        end = get.time(pod, "metadata", "deletionTimestamp")
        if end is None or observed.terminal(pod) or not _on_dead_node(pod) or _forced(pod):
            continue
        left = (end + timedelta(seconds=PATIENCE) - now).total_seconds()
        if left > 0:
            waits.append(left)
        else:
            due.append(replace(observed.reference(pod), force=True))
    return tuple(due), max(1.0, min(waits)) if waits else None


def _on_dead_node(pod: Manifest) -> bool:
    """Whether the cluster has given the pod's node up, by what it has written on the pod.

    It was deleted because of the node's taint and is not ready, for an administrator's taint deletes pods of
    live nodes as well, which are ready while they run. Or the node's controller has marked it as not ready: a
    kubelet calls a pod whose containers are ready not ready for its readiness gates alone.
    """
    disrupted, ready = (observed.condition(pod, kind) for kind in ("DisruptionTarget", "Ready"))
    if ready.get("status") == "True":
        return False
    if disrupted.get("status") == "True" and disrupted.get("reason") == "DeletionByTaintManager":
        return True
    marked = ready.get("status") == "False" and ready.get("reason") != "ReadinessGatesNotReady"
    return marked and observed.is_true(pod, "ContainersReady")


def _forced(pod: Manifest) -> bool:
    """Whether it was done before, and only a finalizer is waited for."""
    grace: object = get.mapping(pod, "metadata").get("deletionGracePeriodSeconds")
    return grace == 0
