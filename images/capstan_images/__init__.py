"""Builds Capstan's container images from the one Dockerfile: with a Docker engine, or, without one, buildah.

    references = build(["operator", "agent"], say=print)

`catalogue` says what an image is made of; `engines` runs docker or buildah; `base` and `native` make what a
registry would otherwise give. Knows nothing of clusters.
"""

from capstan_images.builder import build, publish
from capstan_images.catalogue import NAMES
from capstan_images.commands import ImageError
from capstan_images.engines import Buildah, Docker, Engine, engine

__all__ = ["NAMES", "Buildah", "Docker", "Engine", "ImageError", "build", "engine", "publish"]
