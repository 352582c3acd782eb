"""The servers an InferenceService can run on: one small module a runtime, which only computes.

To add one, write a module with these functions and name it in RUNTIMES and in the model's `runtime.name`.
"""

from __future__ import annotations

from typing import Protocol

from capstan_operator.core.model import Manifest
from capstan_operator.core.runtimes import capstan


class Runtime(Protocol):
    """What a runtime's module computes."""

    def server(self, image: str, repository: str) -> Manifest:
        """The server's container, named `server`, that serves the folder `repository`."""

    def ports(self) -> list[Manifest]:
        """The ports of the Service in front of it."""


RUNTIMES: dict[str, Runtime] = {"capstan": capstan}
