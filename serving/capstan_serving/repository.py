"""The model repository: which models a folder holds, and which version of each is served.

    <repository>/<model>/<version>/model.onnx

Versions are numbers; the highest is served. Nothing outside the repository is ever opened, whatever
symbolic links say; links that stay inside it are fine (mounted ConfigMaps are made of them).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capstan_serving.backends.onnx import FILE
from capstan_serving.errors import ModelLoadError

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_IGNORED = re.compile(r"\..*|lost\+found")


@dataclass(frozen=True, slots=True)
class Found:
    """A model of the repository; `reason` says why it cannot be served, else `file` is what to load."""

    name: str
    version: int
    file: Path | None
    reason: str = ""


def scan(repository: Path) -> Iterator[Found]:
    """The repository's models, by name. OSError when the folder cannot be read."""
    root = repository.resolve(strict=True)
    for folder in sorted(root.iterdir()):
        if _IGNORED.fullmatch(folder.name) or not folder.is_dir():
            continue
        version = 0
        try:
            version = _latest(root, folder)
            yield Found(folder.name, version, _file(root, folder / str(version)))
        except ModelLoadError as error:
            yield Found(_printable(folder.name), version, None, str(error))
        except OSError as error:
            yield Found(
                _printable(folder.name), version, None, f"{folder} cannot be read ({error}); check its mode"
            )


def _latest(root: Path, folder: Path) -> int:
    if not folder.name.isprintable():
        raise ModelLoadError(f"the folder {folder.name!r} cannot be a model's name; rename it")
    _inside(root, folder)
    if (folder / "config.pbtxt").exists():
        raise ModelLoadError(
            f"{folder / 'config.pbtxt'} is not supported: the configuration is derived from {FILE}; remove it"
        )
    versions = [int(entry.name) for entry in folder.iterdir() if _VERSION.fullmatch(entry.name)]
    if not versions:
        raise ModelLoadError(f"{folder} has no version; put the model at {folder / '1' / FILE}")
    return max(versions)


def _file(root: Path, folder: Path) -> Path:
    file = folder / FILE
    if not file.is_file():
        raise ModelLoadError(f"{file} is missing; put the model there")
    return _inside(root, file)


def _inside(root: Path, path: Path) -> Path:
    resolved = path.resolve(strict=True)
    if not resolved.is_relative_to(root):
        raise ModelLoadError(f"{path} leads outside the model repository; copy what it means into {root}")
    return resolved


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
