"""Brings images from buildah's storage into a cluster, without compressing them on the way."""

import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from capstan_cluster.build import Say
from capstan_cluster.commands import Run, run
from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError

_ID_LABEL = "capstan.dev/image-id"


def image_id(image: str, runner: Run = run) -> str:
    """The id of an image in buildah's storage."""
    try:
        return runner(
            ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image]
        ).strip()
    except ClusterError as error:
        raise ClusterError(
            f"there is no image {image} here: {error.message}", "`make images` builds them"
        ) from None


class Containerd:
    """The images of a local cluster's node."""

    def __init__(self, config: Config, ctr: Path, runner: Run = run) -> None:
        """`ctr`: containerd's client."""
        self._command: list[str | Path] = [
            ctr,
            "--address",
            config.containerd_socket,
            "--namespace",
            "k8s.io",
        ]
        self._scratch = config.state_dir
        self._run = runner

    def has(self, image: str, identity: str) -> bool:
        """Whether the node has the image with this id."""
        wanted = f'name=="{image}",labels."{_ID_LABEL}"=="{identity}"'
        return bool(self._run([*self._command, "images", "list", "--quiet", wanted]).strip())

    def import_archive(self, archive: Path, identity: str) -> None:
        """Import an OCI archive and remember its id."""
        self._run([*self._command, "images", "import", "--label", f"{_ID_LABEL}={identity}", archive])

    def load(self, images: Iterable[str], say: Say) -> None:
        """Import the images that the node lacks."""
        for image in images:
            identity = image_id(image, self._run)
            if self.has(image, identity):
                say(f"{image} is there already")
                continue
            started = time.monotonic()
            self._load(image, identity)
            say(f"loaded {image} in {time.monotonic() - started:.1f} s")

    def _load(self, image: str, identity: str) -> None:
        """Stream the image from one store into the other, as a Docker archive, whose layers are plain."""
        pushing = ["buildah", "push", "--quiet", image, f"docker-archive:/dev/stdout:{image}"]
        importing = [*self._command, "images", "import", "--label", f"{_ID_LABEL}={identity}", "-"]
        with tempfile.TemporaryFile("w+b") as log:
            with subprocess.Popen(pushing, stdout=subprocess.PIPE, stderr=log) as push:
                done = subprocess.run(importing, stdin=push.stdout, stdout=log, stderr=log, check=False)
            if done.returncode or push.returncode:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip()
                raise ClusterError(f"{image} could not be brought to the node:\n{lines}")
