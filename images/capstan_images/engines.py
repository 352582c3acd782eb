"""What builds images: docker with buildx, or buildah, which needs neither engine nor registry."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from capstan_images.catalogue import ROOT
from capstan_images.commands import ImageError, run, succeeds

CA_BUNDLE = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
"""This machine's certificate authorities, lent to the installing steps and kept in no image."""


class Engine(Protocol):
    """What builds images and keeps them."""

    from_registries: bool
    """Whether base images come from registries. If not, they are made here."""

    def has(self, reference: str) -> bool:
        """Whether the image is there."""

    def build(self, target: str, reference: str, arguments: Mapping[str, str]) -> None:
        """Build a target of the Dockerfile."""

    def push(self, reference: str, destination: str) -> None:
        """Push an image to a registry under another name, with the credentials the program has."""


def _options(target: str, reference: str, arguments: Mapping[str, str]) -> list[str]:
    """The options that both programs understand."""
    options = ["--target", target, "--tag", reference, "--file", str(ROOT / "Dockerfile")]
    for key, value in arguments.items():
        options += ["--build-arg", f"{key}={value}"]
    if CA_BUNDLE.is_file():
        options += ["--secret", f"id=ca,src={CA_BUNDLE}"]
    return options


class Docker:
    """A Docker engine with buildx."""

    from_registries = True

    @staticmethod
    def available() -> bool:
        """Whether the engine answers."""
        return succeeds(["docker", "info"]) and succeeds(["docker", "buildx", "version"])

    def has(self, reference: str) -> bool:
        """See Engine."""
        return succeeds(["docker", "image", "inspect", reference])

    def build(self, target: str, reference: str, arguments: Mapping[str, str]) -> None:
        """See Engine."""
        run(["docker", "buildx", "build", "--load", *_options(target, reference, arguments), ROOT])

    def push(self, reference: str, destination: str) -> None:
        """See Engine."""
        run(["docker", "tag", reference, destination])
        run(["docker", "push", destination])


class Buildah:
    """buildah as root, with the steps in a chroot: no engine, no container runtime, no network of its own.

    The images are in its default storage, /var/lib/containers/storage, whose driver it finds to be overlay.
    """

    from_registries = False

    @staticmethod
    def available() -> bool:
        """Whether it is installed and we may use it."""
        return (
            os.geteuid() == 0 and succeeds(["buildah", "--version"]) and succeeds(["mmdebstrap", "--version"])
        )

    def has(self, reference: str) -> bool:
        """See Engine."""
        return succeeds(["buildah", "inspect", "--type", "image", reference])

    def build(self, target: str, reference: str, arguments: Mapping[str, str]) -> None:
        """See Engine."""
        steps = ["--isolation", "chroot", "--layers", "--force-rm", "--pull=never"]
        run(["buildah", "build", *steps, *_options(target, reference, arguments), ROOT])

    def push(self, reference: str, destination: str) -> None:
        """See Engine."""
        run(["buildah", "push", reference, f"docker://{destination}"])

    def import_root(self, archive: Path, reference: str) -> None:
        """Make an image of a root file system's tar archive."""
        container = run(["buildah", "from", "scratch"]).strip()
        try:
            run(["buildah", "add", container, archive, "/"])
            run(["buildah", "config", "--env", "LANG=C.UTF-8", "--cmd", "python3", container])
            run(["buildah", "commit", container, reference])
        finally:
            run(["buildah", "rm", container])


def engine() -> Engine:
    """The engine of this machine: docker if one answers, else buildah; ImageError if there is neither."""
    for candidate in (Docker, Buildah):
        if candidate.available():
            return candidate()
    raise ImageError(
        "nothing here builds images: start a Docker engine with buildx, or be root and install Debian's"
        " packages buildah and mmdebstrap"
    )
