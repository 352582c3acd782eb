"""The checkpoints that a program has published, where CAPSTAN_CHECKPOINT_DIR says.

    step-1200-attempt-2/SHA256SUMS     the digest of every file, as `sha256sum` writes it
    step-1200-attempt-2/...            what the program has saved
    .saving-step-1300-attempt-2/...    what is being saved: renamed once it is whole

An attempt publishes under its own number, so that a half-dead pod of the one before cannot touch what it
saves; and what a later attempt has saved counts as newer, whatever its step. Where a job of the same name has
saved before, whose attempts were counted from 1, too, it publishes under the next higher number. Anything
else in the folder is the program's own.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from capstan_agent.digest import file_digest

FOLDER = "CAPSTAN_CHECKPOINT_DIR"
RESUME = "CAPSTAN_RESUME_FROM"
KEEP = "CAPSTAN_CHECKPOINT_KEEP"
NUMBER = "CAPSTAN_CHECKPOINT_ATTEMPT"
#: How many are kept when the operator does not say.
KEPT = 3
_NAME = re.compile(r"step-(\d{1,15})-attempt-(\d{1,9})")
_UNFINISHED = re.compile(r"\.(saving|removing)-step-\d+-attempt-(\d{1,9})")
_SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_LARGEST_SUMS = 16 << 20


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """One of them; the order is that of their age."""

    attempt: int
    step: int
    path: Path


def published(folder: Path) -> list[Checkpoint]:
    """All of them, the newest first. OSError when the folder cannot be read."""
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:
        return []
    found = ((_NAME.fullmatch(entry.name), entry) for entry in entries)
    return sorted(
        (Checkpoint(int(name[2]), int(name[1]), entry) for name, entry in found if name and entry.is_dir()),
        reverse=True,
    )


def number(folder: Path, attempt: int) -> int:
    """What an attempt that begins publishes under: newer than all that is there, also of a job before."""
    with suppress(OSError):
        return max([attempt, *(found.attempt + 1 for found in published(folder))])
    return attempt


def newest(
    folder: Path, stopped: Callable[[], bool], say: Callable[[str], None]
) -> tuple[Checkpoint | None, frozenset[Path]]:
    """The newest that is as it was saved, and those that had to be passed over, which is told."""
    passed: set[Path] = set()
    try:
        candidates = published(folder)
    except OSError as error:
        say(f"{folder} cannot be looked into for checkpoints: {error.strerror}")
        candidates = []
    for checkpoint in candidates:
        try:
            fault = _fault(checkpoint.path, stopped)
        except OSError as error:
            fault = f"{error.filename} cannot be read: {error.strerror}"
        if stopped():
            break
        if fault is None:
            return checkpoint, frozenset(passed)
        say(f"the checkpoint {checkpoint.path.name} is passed over: {fault}")
        passed.add(checkpoint.path)
    return None, frozenset(passed)


def prune(sound: list[Checkpoint], folder: Path, keep: int, attempt: int) -> None:
    """Remove all but the newest of these, and what earlier attempts have left unfinished. Raises OSError."""
    for checkpoint in sound[max(keep, 1) :]:
        # Renamed first: half of it must not be taken for a checkpoint.
        away = checkpoint.path.with_name(f".removing-{checkpoint.path.name}")
        checkpoint.path.rename(away)
        shutil.rmtree(away)
    with suppress(FileNotFoundError):
        for entry in list(folder.iterdir()):
            unfinished = _UNFINISHED.fullmatch(entry.name)
            if unfinished and (unfinished[1] == "removing" or int(unfinished[2]) < attempt):
                shutil.rmtree(entry)


def _fault(folder: Path, stopped: Callable[[], bool]) -> str | None:
    sums = folder / _SUMS
    if not sums.is_file() or sums.stat().st_size > _LARGEST_SUMS:
        return f"it has no {_SUMS}"
    entries = list(_entries(sums))
    if not entries:
        return f"its {_SUMS} names no files"
    for digest, name in entries:
        path = PurePosixPath(name)
        if not digest or path.is_absolute() or ".." in path.parts:
            return f"its {_SUMS} has a line that makes no sense: {name[:80]!r}"
        file = folder / path
        if not file.is_file():
            return f"{name} is missing"
        measured = file_digest(file, stopped)
        if measured is not None and measured[0] != f"sha256:{digest}":
            return f"{name} is not what was saved"
    return None


def _entries(sums: Path) -> Iterator[tuple[str, str]]:
    """Digests and names; a line that is none has no digest."""
    for line in os.fsdecode(sums.read_bytes()).splitlines():
        found = _SUM.fullmatch(line)
        yield (found[1], found[2]) if found else ("", line)
