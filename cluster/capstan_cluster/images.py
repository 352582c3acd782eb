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
from capstan_cluster.processes import tail

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
        """Write the image's layers once, then stream them into containerd."""
        with tempfile.TemporaryDirectory(prefix="load-", dir=self._scratch) as scratch:
            layout = Path(scratch)
            self._run(
                ["buildah", "push", "--quiet", "--disable-compression", image, f"oci:{layout}/image:{image}"]
            )
            log = layout / "import.log"
            importing = [*self._command, "images", "import", "--label", f"{_ID_LABEL}={identity}", "-"]
            with log.open("wb") as output:
                tar = subprocess.Popen(
                    ["tar", "-C", layout / "image", "-cf", "-", "."], stdout=subprocess.PIPE
                )
                with tar:
                    done = subprocess.run(
                        importing, stdin=tar.stdout, stdout=output, stderr=output, check=False
                    )
            if done.returncode or tar.returncode:
                raise ClusterError(f"{image} could not be imported{tail(log)}")


def archive_for(image: str, target: Path, runner: Run = run) -> None:
    """Write an image of buildah's storage as the archive that `kind` and `k3d` take."""
    runner(["buildah", "push", "--quiet", image, f"docker-archive:{target}:{image}"])
