"""Whether a revision may take over: all its pods are ready, and they are this revision's."""

from __future__ import annotations

from capstan_operator.core import get, observed
from capstan_operator.core.model import Manifest


def ready(deployment: Manifest | None) -> int:
    """How many pods of a Deployment are ready."""
    return get.number(deployment, "status", "readyReplicas")


def complete(deployment: Manifest | None, replicas: int) -> bool:
    """Whether a Deployment has all its pods, of its present template, and its controller has seen that."""
    return (
        deployment is not None
        and not observed.deleted(deployment)
        and get.number(deployment, "status", "observedGeneration")
        >= get.number(deployment, "metadata", "generation")
        and get.number(deployment, "status", "updatedReplicas") >= replicas
        and ready(deployment) >= replicas
    )
