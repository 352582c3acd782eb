"""How the replicas of a TrainingJob find each other: one small module a framework, which only computes.

A framework is told the job's shape and says which environment variables and ports its processes need. To add
one, write a module with these functions and name it in FRAMEWORKS and in the model's `framework`.
"""

from __future__ import annotations

from typing import Protocol

from capstan_operator.core.frameworks import custom, pytorch
from capstan_operator.core.frameworks.shape import Shape
from capstan_operator.core.model import Manifest


class Framework(Protocol):
    """What a framework's module computes."""

    def env(self, shape: Shape) -> list[Manifest]:
        """The environment variables of every replica's container."""

    def ports(self, shape: Shape) -> dict[str, int]:
        """The ports replicas listen on, by name."""


FRAMEWORKS: dict[str, Framework] = {"pytorch": pytorch, "custom": custom}
