"""Archives (.tar, .tar.gz, .tgz, .zip) unpacked into a folder, whatever they say.

Nothing is left to the libraries' own extraction: only files and folders are made, under names that are
checked, and the bytes are counted as they come. Links of any kind are refused: `tar --dereference` packs what
they lead to.
"""

import errno
import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from capstan_agent.errors import InvalidURI, UnsafeArchive
from capstan_agent.sources.listing import ENTRIES, place

_RATIO = 100
_FREE = 64 << 20
"""What any archive may unpack to; beyond, it may be _RATIO times the archive's size."""
_READ = 1 << 20
_HEADER = 1 << 20
"""What the headers of one entry of a tar may take: they are kept in memory, several times over."""
_DIRECTORY = 16 << 20
"""The same for the directory of a zip."""
_DIRECTORY_ENTRY = b"PK\x01\x02"


def unpack(archive: Path, folder: Path, name: str) -> int:
    """Unpack an archive into a folder and return the bytes written. OSError is about the folder."""
    with ExitStack() as stack:
        entries = _zip if name.lower().endswith(".zip") else _tar
        limit = max(_FREE, _RATIO * archive.stat().st_size)
        return _write(entries(archive, name, limit, stack), folder, name, limit)


class _Reading:
    """Tells what the libraries raise on archives that are damaged as what it means."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        if isinstance(error, _DAMAGE) or (isinstance(error, OSError) and error.errno in _ODD):
            raise UnsafeArchive(
                f"{self._name} is damaged or no archive of its kind ({_plain(error)}): pack it anew."
            ) from error
        if isinstance(error, RuntimeError):  # zipfile: encrypted, or packed by an unknown method
            raise UnsafeArchive(
                f"{self._name} cannot be read ({_plain(error)}): pack it with deflate and no password."
            ) from error


_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    ValueError,
    ArithmeticError,
    RecursionError,
)
_ODD = (None, errno.EINVAL)
"""Of the OSErrors that are no disk's: raised by a library, or by a place before the beginning of a file."""


def _plain(error: BaseException) -> str:
    return "".join(letter for letter in f"{error}" if letter.isprintable()) or type(error).__name__


Entry = tuple[str, bool, IO[bytes] | None]
"""A name, whether it is a folder, and what a file holds."""


def _tar(archive: Path, name: str, limit: int, stack: ExitStack) -> Iterator[Entry]:
    raw: BinaryIO = stack.enter_context(archive.open("rb"))
    if not name.lower().endswith(".tar"):
        raw = cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=raw)))
    bounded = _Bounded(raw, name, limit)
    bounded.room = _HEADER
    tar = stack.enter_context(tarfile.TarFile(fileobj=cast("IO[bytes]", bounded)))
    while (member := tar.next()) is not None:
        bounded.room = None
        cast("Any", tar).members.clear()  # which else has all that were seen
        cast("Any", tar).pax_headers.clear()
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise UnsafeArchive(
                f"{name} holds {member.name!r}, which is a link, device, pipe or sparse file: pack plain"
                " files only (tar --dereference packs what links lead to)."
            )
        yield member.name.rstrip("/"), member.isdir(), None if member.isdir() else tar.extractfile(member)
        bounded.room = _HEADER


def _zip(archive: Path, name: str, limit: int, stack: ExitStack) -> Iterator[Entry]:
    bounded = _Bounded(stack.enter_context(archive.open("rb")), name, None)
    bounded.room = _DIRECTORY
    packed = stack.enter_context(zipfile.ZipFile(cast("IO[bytes]", bounded)))
    bounded.room = None
    if sum(info.file_size for info in packed.infolist()) > limit:
        raise _too_large(name, limit)
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise UnsafeArchive(
                f"{name} holds {info.filename!r}, which is a link or device: pack plain files only."
            )
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise UnsafeArchive(
                f"{name} holds {info.filename!r}, which is packed by another method: pack it with deflate."
            )
        if info.is_dir():
            yield info.filename.rstrip("/"), True, None
        else:
            with packed.open(info) as content:
                yield info.filename, False, content


def _write(entries: Iterator[Entry], folder: Path, name: str, limit: int) -> int:
    total = 0
    for number, (entry, is_folder, content) in enumerate(_read(entries, name)):
        if number >= ENTRIES:
            raise _too_many(name)
        if entry in {"", "."}:
            continue
        try:
            target = folder / place(entry.removeprefix("./"), f"{name}: {entry!r}")
            (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)
            if content is None:
                continue
            with target.open("xb", buffering=0) as file:
                while data := _piece(content, name):
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


def _read(entries: Iterator[Entry], name: str) -> Iterator[Entry]:
    while True:
        with _Reading(name):
            entry = next(entries, None)
        if entry is None:
            return
        yield entry


def _piece(content: IO[bytes], name: str) -> bytes:
    with _Reading(name):
        return content.read(_READ)


def _too_many(name: str) -> UnsafeArchive:
    return UnsafeArchive(f"{name} holds more than {ENTRIES:,} entries: leave out what is no part of it.")


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
        self.room: int | None = None
        """What may be read until it is set anew; None: any amount, for it is not kept."""
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        most = _DIRECTORY if self.room is None else self.room
        data = self._file.read(min(size, most) if size >= 0 else most)
        if self.room is not None:
            if len(data) == most:
                raise UnsafeArchive(
                    f"{self._name} has a header or directory that is too large to be one: pack it anew."
                )
            self.room -= len(data)
            if data.count(_DIRECTORY_ENTRY) > ENTRIES:
                raise _too_many(self._name)
        self._read += len(data)
        if self._limit is not None and self._read > self._limit + _FREE:
            raise _too_large(self._name, self._limit)
        return data
