"""Model repositories: which models their folders hold, and the files of each.

    <repository>/<model>/config.pbtxt              (optional)
    <repository>/<model>/<version>/model.onnx

Versions are numbers. Nothing outside the repository is ever opened, whatever configurations and symbolic
links say; links that stay inside it are fine (mounted ConfigMaps are made of them).
"""

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capstan_serving.config import document
from capstan_serving.errors import ModelLoadError

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_IGNORED = re.compile(r"\..*|lost\+found")
_OVERRIDE = re.compile(rf"file:({_VERSION.pattern})/(.+)", re.DOTALL)

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Files with what changes when they do."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ModelFolder:
    """A model's folder. The methods raise ModelLoadError, with what to do, when it is not as it has to be."""

    name: str
    path: Path
    root: Path
    """Nothing outside of it is opened."""
    reason: str = ""
    """Why it cannot be used at all."""
    sent: bool = False
    """Its files came with a load request, from whoever reaches the server."""

    def versions(self) -> list[int]:
        """The versions that are there, in order."""
        if self.reason:
            raise ModelLoadError(self.reason)
        try:
            self._inside(self.path)
            found = [int(entry.name) for entry in self.path.iterdir() if _VERSION.fullmatch(entry.name)]
        except OSError as error:
            raise ModelLoadError(f"{self.path} cannot be read ({error}); check its mode") from error
        if not found:
            raise ModelLoadError(
                f"{self.path} has no version; put the model at {self.path / '1' / 'model.onnx'}"
            )
        return sorted(found)

    def file(self, *parts: str) -> Path:
        """A file of the model; the last part may come from a configuration."""
        name = parts[-1]
        if not name.isprintable() or name.startswith("/") or ".." in name.split("/"):
            raise ModelLoadError(
                f"{name!r} cannot be a file of model {self.name!r}; name one inside of its folder"
            )
        file = self.path.joinpath(*parts)
        try:
            if not file.is_file():
                raise ModelLoadError(f"{file} is missing; put the file there")
            return self._inside(file)
        except OSError as error:
            raise ModelLoadError(f"{file} cannot be read ({error}); check its mode") from error

    def config(self) -> bytes | None:
        """The text of its configuration, if there is one."""
        if not os.path.lexists(self.path / document.FILE):
            return None
        file = self.file(document.FILE)
        try:
            return file.read_bytes()
        except OSError as error:
            raise ModelLoadError(f"{file} cannot be read ({error}); check its mode") from error

    def fingerprint(self, version: int | None = None) -> Fingerprint:
        """What changes when the model does, or only one version of it."""
        return tuple(sorted(self._prints(version)))

    def _prints(self, version: int | None) -> Iterator[tuple[str, int, int, int]]:
        for folder, folders, files in os.walk(self.path.resolve() if self.path.is_symlink() else self.path):
            top = Path(folder) == self.path or Path(folder) == self.path.resolve()
            if top and version is not None:
                folders[:] = [
                    name for name in folders if not _VERSION.fullmatch(name) or int(name) == version
                ]
            for name in (*files, *folders):
                path = Path(folder) / name
                try:
                    if name in folders and not path.is_symlink():
                        continue
                    state = path.stat()
                except OSError:
                    continue  # it went while we looked, or cannot be looked at; loading it says so
                yield str(path), state.st_mtime_ns, state.st_size, state.st_ino

    def _inside(self, path: Path) -> Path:
        resolved = path.resolve(strict=True)
        if not resolved.is_relative_to(self.root):
            raise ModelLoadError(
                f"{path} leads outside the model repository; copy what it means into {self.root}"
            )
        return resolved


class Repository:
    """One or more folders of models, which are read anew at each call."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots

    def folders(self) -> dict[str, ModelFolder]:
        """The models by name, in order. OSError when a repository cannot be read."""
        found: dict[str, ModelFolder] = {}
        for root in self.roots:
            resolved = root.resolve(strict=True)
            for path in resolved.iterdir():
                if _IGNORED.fullmatch(path.name) or not path.is_dir():
                    continue
                folder = _folder(path, resolved)
                if folder.name in found:
                    both = f"{found[folder.name].path} and {path}"
                    folder = ModelFolder(
                        folder.name, path, resolved, f"the model is there twice, {both}; remove one"
                    )
                found[folder.name] = folder
        return dict(sorted(found.items()))

    def find(self, name: str) -> ModelFolder | None:
        """One model. Its name is looked up among those that are there and never becomes a path."""
        return self.folders().get(name)


def _folder(path: Path, root: Path) -> ModelFolder:
    if path.name.isprintable():
        return ModelFolder(path.name, path, root)
    reason = f"the folder {path.name!r} cannot be a model's name; rename it"
    return ModelFolder(ascii(path.name), path, root, reason)


def from_files(name: str, files: Mapping[str, bytes]) -> ModelFolder:
    """A model from the files of a load request, in a private folder that is removed with what is returned."""
    try:
        root = Path(tempfile.mkdtemp(prefix="capstan-model-")).resolve()
    except OSError as error:
        raise ModelLoadError(f"there is no place for its files ({error}); set TMPDIR to a folder") from error
    folder = ModelFolder(name, root, root, sent=True)
    weakref.finalize(folder, shutil.rmtree, root, ignore_errors=True)
    for key, content in files.items():
        match = _OVERRIDE.fullmatch(key)
        parts = match[2].split("/") if match else []
        if not match or not match[2].isprintable() or any(part in ("", ".", "..") for part in parts):
            raise ModelLoadError(f"{key!r} cannot be a file of a model; write file:<version>/<name>")
        file = root.joinpath(match[1], *parts)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise ModelLoadError(f"the file {key!r} cannot be kept ({error})") from error
    return folder
