"""Archives (.tar, .tar.gz, .tgz, .zip) unpacked into a folder, whatever they say.

Nothing is left to the libraries' own extraction: only files and folders are made, under names that are
checked, and the bytes are counted as they come. Links of any kind are refused: `tar --dereference` packs what
they lead to.
"""

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from capstan_agent.errors import InvalidURI, UnsafeArchive
from capstan_agent.sources.listing import ENTRIES, place

_ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
_RATIO = 100
_FREE = 64 << 20
"""What any archive may unpack to; beyond, it may be _RATIO times the archive's size."""
_READ = 1 << 20
_DIRECTORY = 64 << 20
"""The longest single read that the libraries may ask for: headers and directories are kept in memory."""


def is_archive(name: str) -> bool:
    """Whether a file of this name is to be unpacked."""
    return name.lower().endswith(_ENDINGS)


def unpack(archive: Path, folder: Path, name: str) -> int:
    """Unpack an archive into a folder and return the bytes written. OSError is about the folder."""
    try:
        with ExitStack() as stack:
            entries = _zip if name.lower().endswith(".zip") else _tar
            limit = max(_FREE, _RATIO * archive.stat().st_size)
            return _write(entries(archive, name, limit, stack), folder, name, limit)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise UnsafeArchive(
            f"{name} is damaged or no archive of its kind ({error}): pack it anew."
        ) from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, or packed by an unknown method
        raise UnsafeArchive(
            f"{name} cannot be read ({error}): pack it with deflate and no password."
        ) from error


Entry = tuple[str, bool, IO[bytes] | None]
"""A name, whether it is a folder, and what a file holds."""


def _tar(archive: Path, name: str, limit: int, stack: ExitStack) -> Iterator[Entry]:
    raw: BinaryIO = stack.enter_context(archive.open("rb"))
    if not name.lower().endswith(".tar"):
        raw = cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=raw)))
    bounded = cast("IO[bytes]", _Bounded(raw, name, limit))
    tar = stack.enter_context(tarfile.TarFile(fileobj=bounded))
    while (member := tar.next()) is not None:
        cast("Any", tar).members.clear()  # which else has all that were seen
        if not (member.isreg() or member.isdir()):
            raise UnsafeArchive(
                f"{name} holds {member.name!r}, which is a link, device or pipe: pack plain files only"
                " (tar --dereference packs what links lead to)."
            )
        yield member.name.rstrip("/"), member.isdir(), None if member.isdir() else tar.extractfile(member)


def _zip(archive: Path, name: str, limit: int, stack: ExitStack) -> Iterator[Entry]:
    bounded = _Bounded(stack.enter_context(archive.open("rb")), name, None)
    packed = stack.enter_context(zipfile.ZipFile(cast("IO[bytes]", bounded)))
    if sum(info.file_size for info in packed.infolist()) > limit:
        raise _too_large(name, limit)
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise UnsafeArchive(
                f"{name} holds {info.filename!r}, which is a link or device: pack plain files only."
            )
        if info.is_dir():
            yield info.filename.rstrip("/"), True, None
        else:
            with packed.open(info) as content:
                yield info.filename, False, content


def _write(entries: Iterator[Entry], folder: Path, name: str, limit: int) -> int:
    total = 0
    for number, (entry, is_folder, content) in enumerate(entries):
        if number >= ENTRIES:
            raise UnsafeArchive(
                f"{name} holds more than {ENTRIES:,} entries: leave out what is no part of it."
            )
        if entry in {"", "."}:
            continue
        try:
            target = folder / place(entry.removeprefix("./"), f"{name}: {entry!r}")
            (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)
            if content is None:
                continue
            with target.open("xb", buffering=0) as file:
                while data := content.read(_READ):
                    total += len(data)
                    if total > limit:
                        raise _too_large(name, limit)
                    file.write(data)
        except InvalidURI as error:
            raise UnsafeArchive(f"{error} Nothing of the archive was kept.") from error
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise UnsafeArchive(
                f"{name} holds {entry!r} twice, or as a file and a folder: pack it anew."
            ) from error
        target.chmod(0o644)
    return total


def _too_large(name: str, limit: int) -> UnsafeArchive:
    return UnsafeArchive(
        f"{name} would unpack to more than {limit:,} bytes, {_RATIO} times its size: store the files as"
        " they are."
    )


class _Bounded:
    """A file as tarfile and zipfile read it: no single read fills the memory, nor all of them the time."""

    def __init__(self, file: BinaryIO, name: str, limit: int | None) -> None:
        self._file, self._name, self._limit = file, name, limit
        self._read = 0
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _DIRECTORY) if size >= 0 else _DIRECTORY)
        if len(data) == _DIRECTORY:
            raise UnsafeArchive(
                f"{self._name} has a header or directory of {_DIRECTORY:,} bytes or more: pack it anew."
            )
        self._read += len(data)
        if self._limit is not None and self._read > self._limit + _FREE:
            raise _too_large(self._name, self._limit)
        return data
