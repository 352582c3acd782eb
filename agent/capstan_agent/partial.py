"""What a fetch that was cut short leaves for the next one: a pod's volume outlives its containers.

    PARTIAL/state.json      where the files are from, and what each is known by
    PARTIAL/files/...       the files, each whole or a beginning of it

A file is gone on with only if its source still knows it by the same tag (entity tag, generation, content
hash) and size. What was written before the machine last started is not trusted: its file system may have lost
the bytes and kept the length.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from capstan_agent.sources.listing import File, Listing

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Partial:
    """The folder of one fetch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "state.json"
        self.files = folder / "files"

    def begin(self, uri: str, found: Listing) -> None:
        """Keep what can be gone on with, and nothing else."""
        state = {
            "boot": _boot(),
            "source": hashlib.sha256(uri.encode()).hexdigest(),
            "tags": {
                str(file.path): f"{file.tag} {file.size}" for file in found.files if file.tag is not None
            },
        }
        before = self._read()
        if before.get("source") != state["source"] or before.get("boot") != state["boot"]:
            self.remove()
        self.files.mkdir(parents=True, exist_ok=True)
        known = {
            self.path(file)
            for file in found.files
            if file.tag is not None
            and before.get("tags", {}).get(str(file.path)) == f"{file.tag} {file.size}"
        }
        for path in self._folder.iterdir():
            if path not in {self._state, self.files}:  # an archive that was being unpacked
                _remove(path)
        kept = known | {parent for path in known for parent in path.parents}
        for path in sorted(self.files.rglob("*"), reverse=True):
            if path not in kept:
                _remove(path)
        self._state.write_text(json.dumps(state))

    def path(self, file: File) -> Path:
        """Where a file lies; the one file of an address has no place of its own below it."""
        return self.files / file.path if file.path.parts else self.files / "file"

    def have(self, file: File) -> int:
        """How much of a file is there."""
        with suppress(FileNotFoundError):
            size = self.path(file).stat().st_size
            return size if size <= file.size else 0
        return 0

    def remove(self) -> None:
        """Leave nothing."""
        if os.path.lexists(self._folder):
            shutil.rmtree(self._folder)

    def _read(self) -> dict[str, dict[str, str]]:
        with suppress(OSError, ValueError):
            state = json.loads(self._state.read_text())
            if isinstance(state, dict):
                return state
        return {}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _boot() -> str:
    with suppress(OSError):
        return _BOOT.read_text().strip()
    return ""
