"""The base image of a machine without a registry: a minimal Debian with Python.

It is of the machine's own release, because the serving wheel is compiled here and must find in the image the
C library that it found here.
"""

import hashlib
import platform
import tempfile
from pathlib import Path

from capstan_images.catalogue import LOCAL_REGISTRY
from capstan_images.commands import ImageError, run
from capstan_images.engines import Buildah

_PACKAGES = "ca-certificates,python3,python3-venv"
_LEFT_OUT = ("doc", "info", "locale", "man")
_OPTIONS = (
    "--variant=minbase",
    f"--include={_PACKAGES}",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _LEFT_OUT),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    # This machine's own, which it copies.
    '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname"',
)


def suite() -> str:
    """The Debian release of this machine."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        raise ImageError(f"without a Docker engine, base images are made on Debian; this is {release['ID']}")
    return release["VERSION_CODENAME"]


def reference(release: str) -> str:
    """The base image's name: it changes with what the base is made of."""
    words = hashlib.sha256(repr((release, _OPTIONS)).encode()).hexdigest()[:12]
    return f"{LOCAL_REGISTRY}/base:{release}-{words}"


def make(release: str, buildah: Buildah) -> None:
    """Make the base image."""
    with tempfile.TemporaryDirectory(prefix="capstan-base-") as folder:
        archive = Path(folder) / "root.tar"
        run(["mmdebstrap", "--quiet", *_OPTIONS, release, archive])
        buildah.import_root(archive, reference(release))
