"""Checkpoints as files: a crash at any moment leaves the one before whole, to be found by its name."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_NAME = re.compile(r"epoch-(\d+)\.pt")
_KEPT = 2


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` with an open file that becomes `path` only once all of it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def newest_first(folder: Path) -> Iterator[Path]:
    """The checkpoints in `folder`, the latest epoch first; nothing if the folder is not there yet."""
    found = [path for path in folder.glob("epoch-*.pt") if _NAME.fullmatch(path.name)]
    yield from sorted(found, key=epoch_of, reverse=True)


def epoch_of(path: Path) -> int:
    """The number of epochs that were complete when this checkpoint was written."""
    match = _NAME.fullmatch(path.name)
    if not match:
        raise ValueError(f"{path.name} is not a checkpoint's name")
    return int(match[1])


def save(folder: Path, epoch: int, write: Callable[[BinaryIO], object]) -> None:
    """Write the checkpoint of `epoch` complete epochs and drop all but the newest few."""
    write_atomically(folder / f"epoch-{epoch:04d}.pt", write)
    for old in list(newest_first(folder))[_KEPT:]:
        old.unlink(missing_ok=True)
