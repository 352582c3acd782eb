"""What each image is made of. Its tag is the hash of just that, so an image that is there is never rebuilt.

Pure but for reading the files it is asked to hash.
"""

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository: the Dockerfile's context."""

LOCAL_REGISTRY = "localhost/capstan"

_NEVER_HASHED = ("target", "__pycache__", "*.so", "*.pyc", ".*")


@dataclass(frozen=True, slots=True)
class Image:
    """One of the Dockerfile's targets."""

    name: str
    inputs: tuple[str, ...]
    """Files and folders, relative to the repository, beside the Dockerfile itself."""
    cpu: Mapping[str, str] = field(default_factory=dict)
    """Build arguments of the variant for machines without an accelerator."""
    gpu: Mapping[str, str] = field(default_factory=dict)
    """The same for machines with NVIDIA GPUs."""

    def arguments(self, gpu: bool) -> Mapping[str, str]:
        """The build arguments of one variant."""
        return self.gpu if gpu else self.cpu


IMAGES = {
    image.name: image
    for image in (
        Image("operator", ("operator", "uv.lock")),
        Image("serving", ("serving", "uv.lock"), cpu={"VARIANT": "cpu"}, gpu={"VARIANT": "gpu"}),
        Image("agent", ("agent", "uv.lock")),
        Image("trainer", ("examples/digits",), cpu={"DEVICE": "cpu"}, gpu={"DEVICE": "cuda"}),
        Image("prometheus", ()),
    )
}
NAMES = tuple(IMAGES)


def files(root: Path, inputs: tuple[str, ...]) -> Iterator[Path]:
    """The files below `inputs`, in a fixed order, without what building and running leave behind."""
    for name in sorted(inputs):
        path = root / name
        if path.is_file():
            yield path
            continue
        for entry in sorted(path.iterdir()):
            if not any(fnmatch.fnmatch(entry.name, pattern) for pattern in _NEVER_HASHED):
                yield from files(root, (str(entry.relative_to(root)),))


def content(root: Path, inputs: tuple[str, ...], *words: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of these files, their names, and `words`."""
    digest = hashlib.sha256(repr(words).encode())
    for path in files(root, inputs):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:12]


def reference(image: Image, arguments: Mapping[str, str], root: Path = ROOT) -> str:
    """The local name of an image built with these arguments, bases among them."""
    words = (image.name, *(f"{key}={value}" for key, value in sorted(arguments.items())))
    tag = content(root, ("Dockerfile", ".dockerignore", *image.inputs), *words)
    return f"{LOCAL_REGISTRY}/{image.name}:dev-{tag}"
