"""`capstan-agent fetch`: put a model where a server of this pod looks for it.

    TARGET/<model>/<version>/model.onnx      from an address that is a file
    TARGET/<model>/<version>/...             from an address that is a folder, as it is

The version appears whole, by a rename, or not at all.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from capstan_agent.digest import CHUNK, PATTERN
from capstan_agent.errors import (
    DigestMismatch,
    InvalidURI,
    SourceUnavailable,
    UsageError,
    source_error,
    target_error,
)
from capstan_agent.sources import listing
from capstan_agent.sources.listing import File, Listing
from capstan_agent.termination import Output

_FILE_NAME = PurePosixPath("model.onnx")
_MODEL = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_REPORT_EVERY = 5.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Request:
    """What to fetch and where to put it."""

    uri: str
    claims: Path
    target: Path
    model: str
    version: str
    digest: str | None = None


class Progress:
    """A line at the start, one every few seconds, one at the end."""

    def __init__(self, total: int, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._total, self._say, self._clock = total, say, clock
        self._done = 0
        self._start = self._last = clock()

    def add(self, size: int) -> None:
        """`size` more bytes are there."""
        self._done += size
        now = self._clock()
        if now - self._last >= _REPORT_EVERY:
            self._last = now
            percent = 100 * self._done // max(self._total, 1)
            self._say(f"{readable(self._done)} of {readable(self._total)} ({percent}%), {self._rate(now)}")

    def done(self, what: str) -> None:
        """Everything is there."""
        now = self._clock()
        self._say(f"{what}: {readable(self._done)} in {now - self._start:.1f} s, {self._rate(now)}")

    def _rate(self, now: float) -> str:
        return f"{readable(self._done / max(now - self._start, 1e-3))}/s"


def fetch(
    request: Request, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> tuple[Path, Output]:
    """Fetch a model; where its version is and what it consists of. FetchError when it cannot be had."""
    _check(request)
    found = listing(request.uri, request.claims)
    if request.digest and not found.single:
        raise InvalidURI(f"{request.uri} is a folder, and a digest names one file: give the file's address.")
    folder = request.target / request.model / request.version
    partial = folder.with_name(f".{request.version}.partial")
    say(f"fetching {request.uri}: {len(found.files)} file(s), {readable(found.size)}")
    progress = Progress(found.size, say, clock)
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        output = _copy_all(found, partial, progress)
        if request.digest and output.digest != request.digest:
            raise DigestMismatch(
                f"{request.uri} has the digest {output.digest}, and {request.digest} was asked for: it is"
                " another model, or was damaged or replaced. Correct the address or spec.model.digest."
            )
        _remove(folder)
        partial.rename(folder)
    except OSError as error:
        raise target_error(error, str(error.filename or folder), found.size) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress.done(f"{folder} complete")
    return folder, output


def _check(request: Request) -> None:
    if not _MODEL.fullmatch(request.model) or ".." in request.model:
        raise UsageError(f"{request.model!r} is no model name: letters, digits, '-', '_' and '.' inside.")
    if not _VERSION.fullmatch(request.version):
        raise UsageError(f"{request.version!r} is no model version: a whole number from 1.")
    if request.digest is not None and not PATTERN.fullmatch(request.digest):
        raise UsageError(f"{request.digest!r} is no digest: write sha256: and 64 hexadecimal digits.")


def _copy_all(found: Listing, folder: Path, progress: Progress) -> Output:
    if found.single:
        file = found.files[0]
        digest = _copy(file, folder / _FILE_NAME, progress)
        return Output(_FILE_NAME.name, file.size, f"sha256:{digest}")
    for file in found.files:
        (folder / file.path.parent).mkdir(parents=True, exist_ok=True)
        _copy(file, folder / file.path, progress)
    return Output(folder.parent.name, found.size)


def _copy(file: File, target: Path, progress: Progress) -> str:
    """Copy one file and return its SHA-256 in hex. OSError is about the target."""
    digest, left = hashlib.sha256(), file.size
    with _reading(file.open, file.name) as source, target.open("xb", buffering=0) as copy:
        while chunk := _reading(lambda: source.read(CHUNK), file.name):
            view = memoryview(chunk)
            while view:
                view = view[copy.write(view) :]
            digest.update(chunk)
            left -= len(chunk)
            progress.add(len(chunk))
        target.chmod(0o644)
    if left:
        raise SourceUnavailable(
            f"{file.name} changed while it was being copied: write models under a new name, then rename them."
        )
    return digest.hexdigest()


def _reading(step: Callable[[], _T], name: str) -> _T:
    try:
        return step()
    except OSError as error:
        raise source_error(error, name) from error


def _remove(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder)


def readable(size: float) -> str:
    """A number of bytes for people: 11.3 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
