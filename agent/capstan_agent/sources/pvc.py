"""`pvc://<claim>/<path>`: a file or a folder on a volume claim that is mounted below one folder.

Symbolic links are followed as long as they stay inside their claim; whatever leads out is refused, by name or
by link.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from capstan_agent.errors import InvalidURI, ModelNotFound, SourceUnavailable, source_error
from capstan_agent.sources import Places
from capstan_agent.sources.listing import ENTRIES, File, Listing

_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_SHOWN = 20
_PIECE = 1 << 20
_ENTRIES = ENTRIES
"""Counted while walking: links that lead to folders of links would else never end."""


def listing(uri: str, places: Places) -> Listing:
    """What is at `pvc://<claim>/<path>`."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    segments = path.rstrip("/").split("/") if path.rstrip("/") else []
    if not _CLAIM.fullmatch(claim) or ".." in claim:
        raise InvalidURI(
            f"{uri!r} names no volume claim: write pvc://<claim>/<path>, the claim in lower case."
        )
    root = places.claims / claim
    if any(segment in {"", ".", ".."} for segment in segments):
        raise InvalidURI(f"{uri!r} has an empty, '.' or '..' part: write the plain path.")
    if not root.is_dir():
        raise SourceUnavailable(
            f"The claim {claim} is not mounted at {root}: check that it exists and is bound."
        )
    return below(root.resolve(), segments, uri, f"pvc://{claim}")


def below(root: Path, segments: list[str], uri: str, start: str) -> Listing:
    """What is at a path below a folder, which is written `start`."""
    try:
        found = _inside(root, root.joinpath(*segments), uri)
        if stat.S_ISDIR(found.stat().st_mode):
            files = tuple(_Walk(root, uri).files(found, PurePosixPath(), (found,)))
        else:
            return Listing((_file(root, found, PurePosixPath(), uri),), single=True, name=found.name)
    except FileNotFoundError:
        raise ModelNotFound(_what_is_there(root, segments, uri, start)) from None
    except NotADirectoryError:
        raise ModelNotFound(f"{uri} leads through a file as if it were a folder.") from None
    except OSError as error:
        raise source_error(error, uri) from error
    if not files:
        raise ModelNotFound(f"{uri} is an empty folder: has the training job written its output?")
    return Listing(files, single=False)


def _inside(root: Path, path: Path, uri: str) -> Path:
    try:
        resolved = path.resolve(strict=True)
    except RuntimeError:  # how pathlib reports a circle of links
        raise InvalidURI(f"{uri} goes through a symbolic link that leads in a circle.") from None
    if not resolved.is_relative_to(root):
        raise InvalidURI(
            f"{uri} leads out of its claim through a symbolic link: copy the file into the claim."
        )
    return resolved


class _Walk:
    """A way through a folder, its links followed."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root, self._uri = root, uri
        self._entries = 0

    def files(self, folder: Path, place: PurePosixPath, above: tuple[Path, ...]) -> Iterator[File]:
        """The files below `folder`, which lies at `place` and was reached through the folders `above`."""
        entries = list(folder.iterdir())
        self._entries += len(entries)
        if self._entries > _ENTRIES:
            raise InvalidURI(
                f"{self._uri} has more than {_ENTRIES:,} files and folders, those behind symbolic links"
                " included: name the folder that holds the model alone."
            )
        for entry in sorted(entries):
            name = f"{self._uri.rstrip('/')}/{place / entry.name}"
            resolved = _inside(self._root, entry, name)
            if stat.S_ISDIR(resolved.stat().st_mode):
                if resolved in above:
                    raise InvalidURI(f"{name} is a symbolic link to a folder above it.")
                yield from self.files(resolved, place / entry.name, (*above, resolved))
            else:
                yield _file(self._root, resolved, place / entry.name, name)


def _file(root: Path, path: Path, place: PurePosixPath, name: str) -> File:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidURI(f"{name} is neither a file nor a folder, but a device, pipe or socket.")

    def read(start: int, stop: int, _room: memoryview | None = None) -> Iterator[bytes]:
        try:
            with os.fdopen(_open(root, path), "rb", buffering=0) as file:
                changed = os.fstat(file.fileno()).st_size != status.st_size
                file.seek(start)
                while not changed and start < stop:
                    piece = file.read(min(_PIECE, stop - start))
                    changed = not piece
                    start += len(piece)
                    yield piece
        except OSError as error:
            raise source_error(error, name) from error
        if changed:
            raise SourceUnavailable(
                f"{name} changed while it was being copied: write models under a new name, then rename them."
            )

    return File(place, status.st_size, name, read)


def _open(root: Path, path: Path) -> int:
    """Open a file that was resolved before: should a link be anywhere on its way by now, or a pipe at its
    end, it is not followed or waited for."""
    *above, name = path.relative_to(root).parts
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in above:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
            deeper = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = deeper
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)


def _what_is_there(root: Path, segments: list[str], uri: str, start: str) -> str:
    """The sentence for a path that does not exist: what its nearest existing folder holds instead."""
    nearest, shown = root, start
    for segment in segments:
        if not (nearest / segment).is_dir() or not (nearest / segment).resolve().is_relative_to(root):
            break
        nearest, shown = nearest / segment, f"{shown}/{segment}"
    names: list[str] = []
    with suppress(OSError):
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in nearest.iterdir())
    listed = ", ".join(name if name.isprintable() else repr(name) for name in names[:_SHOWN]) or "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{uri} does not exist: {shown}/ holds {listed}{more}."
