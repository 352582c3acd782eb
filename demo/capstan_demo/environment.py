"""A cluster with Capstan on it: the one the user names, or a local one that is built and booted."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

from capstan_cluster.build import Builder, module_of
from capstan_cluster.target import Target, docker_tool, resolve
from capstan_images import Buildah, Docker, build

from capstan_demo import deploy
from capstan_demo.kube import Kube

IMAGES = ("operator", "serving", "agent", "trainer", "prometheus")

Say = Callable[[str], None]


VERSION = version("capstan-demo")


@dataclass(frozen=True, slots=True)
class Published:
    """Images that a registry holds: by default those of this release."""

    registry: str = "ghcr.io/capstan-dev"
    tag: str = VERSION

    def references(self) -> dict[str, str]:
        """Return each image's reference."""
        return {name: f"{self.registry}/{name}:{self.tag}" for name in IMAGES}


def published(tag: str | None = None) -> Published | None:
    """Return the images that the environment's REGISTRY and TAG name, of another release with its tag."""
    registry = os.environ.get("REGISTRY")
    return Published(registry, tag or os.environ.get("TAG") or VERSION) if registry else None


@dataclass(frozen=True, slots=True)
class Environment:
    """Where the demo and the end-to-end tests run, and the images they run."""

    kube: Kube
    images: dict[str, str]


def prepare(say: Say = print, context: str | None = None, published: Published | None = None) -> Environment:
    """Return a cluster that is up and has, or can pull, Capstan's images.

    `context`: a context of the user's kubeconfig. `published`: images to use instead of building them.
    """
    if published or context or docker_tool():
        target = resolve(context, say=say)
        if target.loads == "none":
            published = published or Published()
        images = published.references() if published else build(IMAGES, say, engine=_engine(target))
    else:
        # The first time is long: building Kubernetes keeps the processors busy, the images network and disk.
        with ThreadPoolExecutor() as pool:
            building = pool.submit(build, IMAGES, say, engine=Buildah())
            target = resolve(say=say)
            helm(say)
            images = building.result()
    if not published:
        target.load(*images.values())
    return Environment(Kube(target.kubeconfig, target.context, target.kubectl_program), images)


def ready(say: Say = print) -> Environment:
    """Return a cluster with Capstan installed, as the environment's CONTEXT, REGISTRY and TAG ask for."""
    environment = prepare(say, os.environ.get("CONTEXT") or None, published())
    deploy.install(environment.kube, helm(say), environment.images, say)
    return environment


def _engine(target: Target) -> Buildah | Docker:
    """Return what builds images where this cluster takes them from."""
    return Docker() if target.loads in ("kind", "k3d") else Buildah()


def helm(say: Say) -> str:
    """Return helm's path: the user's own, else one that is built here."""
    if found := shutil.which("helm"):
        return found
    builder = Builder()
    builder.build((module_of("helm"),), say)
    return str(builder.path("helm"))
