"""A cluster with Capstan on it: the one the user names, or a local one that is built and booted."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from capstan_cluster.build import Builder, module_of
from capstan_cluster.target import resolve
from capstan_images import build

from capstan_demo import deploy
from capstan_demo.kube import Kube

IMAGES = ("operator", "serving", "agent", "trainer")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where the demo and the end-to-end tests run, and the images they run."""

    kube: Kube
    images: dict[str, str]


def cluster(context: str | None, say: Say) -> tuple[Kube, Callable[..., None]]:
    """Return a cluster that is up, and what brings images to its nodes."""
    target = resolve(context, say=say)
    return Kube(target.kubeconfig, target.context, target.kubectl_program), target.load


def published(registry: str, tag: str) -> dict[str, str]:
    """Return the references of images that a registry holds."""
    return {name: f"{registry}/{name}:{tag}" for name in IMAGES}


def helm(say: Say) -> str:
    """Return helm's path: the user's own version 3 or 4, else one that is built here."""
    if found := shutil.which("helm"):
        return found
    builder = Builder()
    builder.build((module_of("helm"),), say)
    return str(builder.path("helm"))


def ready(say: Say = print, context: str | None = None) -> Environment:
    """Return a cluster with Capstan installed, bringing up whatever is missing."""
    kube, load = cluster(context, say)
    images = build(IMAGES, say=say)
    load(*images.values())
    deploy.install(kube, helm(say), images, say)
    return Environment(kube, images)
