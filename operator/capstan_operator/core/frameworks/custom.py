"""Any other program: it is told who it is and who the others are, and does the rest."""

from __future__ import annotations

from capstan_operator.core import pods
from capstan_operator.core.frameworks.shape import Shape
from capstan_operator.core.model import Manifest


def env(shape: Shape) -> list[Manifest]:
    """All replicas' host names, in the order of their indices."""
    return pods.env({"CAPSTAN_PEERS": ",".join(shape.host(index) for index in range(shape.replicas))})


def ports(shape: Shape) -> dict[str, int]:
    """None that we know of."""
    del shape
    return {}
