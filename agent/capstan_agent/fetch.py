"""`capstan-agent fetch`: put a model where a server of this pod looks for it, or data where a program does.

    TARGET/<model>/<version>/model.onnx      layout model, an address that is a file
    TARGET/<model>/<version>/...             layout model, an address that is a folder or an archive, as it is
    TARGET/...                               layout data: the file by its name, or what the folder holds

A version appears whole, by a rename, or not at all; data appears when all of it is there.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from capstan_agent.allow import Allow
from capstan_agent.digest import PATTERN
from capstan_agent.download import Wanted, download
from capstan_agent.errors import DigestMismatch, InvalidURI, SourceUnavailable, UsageError, target_error
from capstan_agent.partial import Partial
from capstan_agent.progress import Progress, readable
from capstan_agent.sources import Places, listing, shown
from capstan_agent.sources.listing import Listing
from capstan_agent.termination import Output

Layout = Literal["model", "data"]
_FILE_NAME = "model.onnx"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
"""How names of files end that are to be unpacked."""
_MODEL = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Request:
    """What to fetch and where to put it."""

    uri: str
    claims: Path
    target: Path
    model: str = ""
    version: str = ""
    digest: str | None = None
    layout: Layout = "model"
    allow: Allow = field(default_factory=Allow)

    @property
    def folder(self) -> Path:
        """Where the files are to be."""
        return self.target if self.layout == "data" else self.target / self.model / self.version

    @property
    def partial(self) -> Path:
        """Where they are until all are there: beside, on the same volume."""
        return (
            self.target / ".partial"
            if self.layout == "data"
            else self.folder.with_name(f".{self.version}.partial")
        )


def fetch(
    request: Request, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> tuple[Path, Output]:
    """Fetch; where it is and what it consists of. FetchError when it cannot be had."""
    _check(request)
    where = shown(request.uri)
    found = listing(request.uri, Places(request.claims, request.allow))
    if request.digest and not found.single:
        found.close()
        raise InvalidURI(f"{where} is a folder, and a digest names one file: give the file's address.")
    say(f"fetching {where}: {len(found.files)} file(s), {readable(found.size)}")
    progress = Progress(found.size, say, clock)
    partial = Partial(request.partial)
    keep = False
    try:
        partial.begin(request.uri, found)
        output = _download(request, found, partial, progress)
        _publish(request, partial)
    except OSError as error:
        raise target_error(error, str(error.filename or request.folder), found.size) from error
    except (SourceUnavailable, SystemExit):
        keep = any(file.tag is not None for file in found.files)
        raise
    finally:
        found.close()
        if not keep:
            shutil.rmtree(request.partial, ignore_errors=True)
    progress.done(f"{request.folder} complete")
    return request.folder, output


def _check(request: Request) -> None:
    if request.layout == "model":
        if not _MODEL.fullmatch(request.model) or ".." in request.model:
            raise UsageError(f"{request.model!r} is no model name: letters, digits, '-', '_' and '.' inside.")
        if not _VERSION.fullmatch(request.version):
            raise UsageError(f"{request.version!r} is no model version: a whole number from 1.")
    elif request.model or request.version:
        raise UsageError("--model and --version belong to --layout model: data has neither.")
    if request.digest is not None and not PATTERN.fullmatch(request.digest):
        raise UsageError(f"{request.digest!r} is no digest: write sha256: and 64 hexadecimal digits.")


def _download(request: Request, found: Listing, partial: Partial, progress: Progress) -> Output:
    wanted = []
    for file in found.files:
        have = partial.have(file)
        progress.have(have)
        hashed = found.single or file.digest is not None
        wanted.append(Wanted(file, partial.path(file), have, hashed))
    _check_room(request.partial, found.size - sum(item.have for item in wanted))
    digests = download(wanted, progress)
    for file, digest in zip(found.files, digests, strict=True):
        for expected in filter(None, (file.digest, request.digest if found.single else None)):
            if f"sha256:{digest}" != expected:
                raise DigestMismatch(
                    f"{file.name} has the digest sha256:{digest}, and {expected} was asked for: it is another"
                    " model, or was damaged or replaced. Correct the address or the digest."
                )
    if not found.single:
        return Output(request.folder.name, found.size)
    (file,) = found.files
    fetched = partial.path(file)
    if found.name.lower().endswith(_ARCHIVES):
        from capstan_agent import archives  # noqa: PLC0415  (few are, and their modules take a while)

        archive = fetched.rename(request.partial / "archive")
        size = archives.unpack(archive, partial.files, file.name)
        return Output(request.folder.name, size, f"sha256:{digests[0]}")
    name = _FILE_NAME if request.layout == "model" else found.name
    fetched.rename(partial.files / name)
    return Output(name, file.size, f"sha256:{digests[0]}")


def _check_room(folder: Path, needed: int) -> None:
    """OSError when the volume has no room for that many bytes: better now than after hours."""
    volume = os.statvfs(folder)
    if volume.f_blocks and needed > volume.f_bavail * volume.f_frsize:  # some file systems count nothing
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _publish(request: Request, partial: Partial) -> None:
    if request.layout == "model":
        _remove(request.folder)
        partial.files.rename(request.folder)
        return
    entries = list(partial.files.iterdir())
    if any(entry.name == request.partial.name for entry in entries):
        raise InvalidURI(
            f"{shown(request.uri)} has {request.partial.name!r} at its top, where the agent keeps what is not"
            " complete: rename it."
        )
    for entry in entries:
        _remove(request.folder / entry.name)
        entry.rename(request.folder / entry.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
