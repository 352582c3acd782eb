"""Who may connect to a resource's pods, as NetworkPolicies: what nobody needs to reach, nobody reaches.

The ports a gang meets at (rendezvous, gloo, NCCL) ask nobody who they are, so only the gang gets to them.
Policies are made before any pod, kept as long as the resource, and pruned when the operator is told to make
none. They add up: whoever needs another port opened writes a policy of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from capstan_operator.core import labels, names, observed, pods
from capstan_operator.core.model import Manifest, Observed, Plan, Planner, Settings
from capstan_operator.core.runtimes import capstan
from capstan_operator.core.serving import children as serving
from capstan_operator.core.training import children as training

KIND: Final = "NetworkPolicy"


def guarded(plan: Planner, policy: Callable[[Manifest], Manifest]) -> Planner:
    """The planner, with this policy for whatever it makes."""

    def planned(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
        result = plan(resource, seen, now, settings)
        if observed.deleted(resource):
            return result
        if not settings.network_policies:
            unwanted = [p for p in observed.of_kind(seen, KIND) if not observed.deleted(p)]
            return replace(result, delete=(*result.delete, *map(observed.reference, unwanted)))
        return replace(result, apply=(policy(resource), *result.apply)) if result.apply else result

    return planned


def of_gang(resource: Manifest) -> Manifest:
    """Replicas are reached by each other, and by what scrapes their runner's metrics."""
    metadata = resource["metadata"]
    gang = {"podSelector": {"matchLabels": labels.selector(resource["kind"], metadata["name"])}}
    ingress = [{"from": [gang]}, {"ports": _ports(training.METRICS)}]
    return _policy(resource, names.peers(metadata["name"]), training.ROLE, ingress)


def of_server(resource: Manifest) -> Manifest:
    """A server is reached at the ports it answers on."""
    ingress = [{"ports": _ports(capstan.HTTP, capstan.GRPC, capstan.METRICS)}]
    return _policy(resource, names.child(resource["metadata"]["name"], serving.ROLE), serving.ROLE, ingress)


def _policy(resource: Manifest, name: str, role: str, ingress: list[Manifest]) -> Manifest:
    selector = labels.selector(resource["kind"], resource["metadata"]["name"])
    spec = {"podSelector": {"matchLabels": selector}, "policyTypes": ["Ingress"], "ingress": ingress}
    return pods.child(resource, "networking.k8s.io/v1", KIND, name, role, spec)


def _ports(*numbers: int) -> list[Manifest]:
    return [{"port": number, "protocol": "TCP"} for number in numbers]
