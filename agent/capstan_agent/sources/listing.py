"""What a source finds at an address, and the names it may have."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from capstan_agent.errors import InvalidURI

ENTRIES = 100_000
"""What an address may hold in all."""

Piece = bytes | memoryview


class Interrupted(Exception):
    """A read that failed and may succeed when it is tried again; its sentence says how it failed."""

    def __init__(self, sentence: str, pause: float = 0.0) -> None:
        super().__init__(sentence)
        self.pause = pause
        """How long the other side asks us to wait, in seconds."""


@dataclass(frozen=True, slots=True)
class File:
    """One file: its place below the address (empty for the address itself), its size in bytes."""

    path: PurePosixPath
    size: int
    name: str
    """The file as it may be shown: without the secrets that an address can carry."""
    read: Callable[[int, int, memoryview | None], Iterator[Piece]]
    """The bytes from one offset to another, each piece good until the next is asked for. Where there is room
    for all of them, a source may read them into that, one behind the other: it saves a copy. Raises
    FetchError, or Interrupted when it may be tried again."""
    tag: str | None = None
    """What these very bytes are known by; without one, a read that broke begins anew."""
    ranges: bool = False
    """Whether any part can be asked for, also by several readers at once."""
    digest: str | None = None
    """`sha256:<hex>`, where the source vouches for it."""


def _nothing() -> None:
    """Most sources leave nothing open."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of an address; `single` when the address is a file and not a folder."""

    files: tuple[File, ...]
    single: bool
    name: str = ""
    """The file's own name, when it is one."""
    close: Callable[[], None] = _nothing
    """Ends the connections that reading left open."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)


def place(text: str, where: str) -> PurePosixPath:
    """A relative path out of a name that somebody else chose; InvalidURI when it could be anything else."""
    segments = text.split("/")
    if any(segment in {"", ".", ".."} or _length(segment) > 255 for segment in segments):
        raise InvalidURI(f"{where} has an empty, '.', '..' or overlong part: use the plain path.")
    if not text.isprintable() or "\\" in text or _length(text) > 1024:
        raise InvalidURI(f"{where!r} has a control character, a backslash or too many characters: rename it.")
    return PurePosixPath(text)


def _length(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))  # bytes that are no text; refused as not printable


def folder(files: list[File], where: str, close: Callable[[], None] = _nothing) -> Listing:
    """The listing of a folder, once it is certain that its files can lie in one."""
    if len(files) > ENTRIES:
        raise InvalidURI(
            f"{where} has more than {ENTRIES:,} files: name the folder that holds the model alone."
        )
    paths = {file.path for file in files}
    for file in files:
        if not paths.isdisjoint(file.path.parents):
            raise InvalidURI(
                f"{file.name} lies below another file: it cannot be a file and a folder at once."
            )
    return Listing(tuple(sorted(files, key=lambda file: file.path)), single=False, close=close)
