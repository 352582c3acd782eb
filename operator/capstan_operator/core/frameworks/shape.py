"""What a framework is told about a job, and what every framework's processes find."""

from __future__ import annotations

from dataclasses import dataclass

from capstan_operator.core import labels
from capstan_operator.core.model import Manifest


@dataclass(frozen=True, slots=True)
class Shape:
    """One attempt: how many replicas and processes, and what they are called."""

    job: str
    service: str
    namespace: str
    replicas: int
    processes: int

    def host(self, index: int) -> str:
        """A replica's host name, as the others find it (an Indexed Job's pods are named so)."""
        return f"{self.job}-{index}.{self.service}"

    @property
    def first(self) -> str:
        """The replica that others meet at. Alone, it need not be looked up."""
        return f"{self.host(0)}.{self.namespace}.svc" if self.replicas > 1 else "localhost"


def index_variable(name: str) -> Manifest:
    """A variable with the replica's own index, from 0."""
    return {
        "name": name,
        "valueFrom": {
            "fieldRef": {
                "apiVersion": "v1",
                "fieldPath": f"metadata.annotations['{labels.COMPLETION_INDEX}']",
            }
        },
    }
