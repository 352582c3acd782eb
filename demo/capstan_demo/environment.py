"""A cluster with Capstan on it: the one the user names, or a local one that is built and booted."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from capstan_demo import deploy
from capstan_demo.kube import Kube

IMAGES = ("operator", "serving", "agent", "trainer")


@dataclass(frozen=True, slots=True)
class Environment:
    """Where the demo and the end-to-end tests run, and the images they run."""

    kube: Kube
    images: dict[str, str]
    local: bool


def ready(say: Callable[[str], None], context: str | None = None) -> Environment:
    raise NotImplementedError
