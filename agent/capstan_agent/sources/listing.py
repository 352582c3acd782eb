"""What a source finds at an address."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class File:
    """One file: its place below the address (empty for the address itself), its size in bytes."""

    path: PurePosixPath
    size: int
    name: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of an address; `single` when the address is a file and not a folder."""

    files: tuple[File, ...]
    single: bool

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)
