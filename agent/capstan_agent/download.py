"""Files out of a source into a folder, in order and in bounded memory.

Several readers ask for the next chunks at once; what they bring is written in the files' order by one writer,
as soon as it is there. So a file that is not complete is always a beginning of it, which is all that has to
be known to go on with it, and its digest can be made of the bytes as they pass: beside their writing, by a
thread of its own, since neither needs the interpreter.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from capstan_agent.errors import SourceUnavailable
from capstan_agent.progress import Progress
from capstan_agent.sources.listing import File, Interrupted, Piece

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

CHUNK = 8 << 20
"""What is asked for at once."""
_PART = 1 << 20
"""What is handed on of it at once, where nothing before it is missing."""
_WRITE = 32 << 10
"""What is written at once. More makes the kernel take larger pieces of memory for the file, and a virtual
machine has to get those from its host, which costs ten times as much as to write."""
READERS = 3
"""Connections at most, and chunks that are in memory at once, but for the one that is written.

More of them, and of smaller chunks, ask for no more at once and contend for the interpreter's lock."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts that bring nothing; any byte that arrives starts the list anew."""
_LONGEST_PAUSE = 60.0

T = TypeVar("T")
_Result = memoryview | BaseException | None
"""A part of a chunk, why there is none, or None at the chunk's end."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, how much of it is there already, and whether its digest is asked for."""

    file: File
    target: Path
    have: int = 0
    hashed: bool = False


@dataclass(slots=True)
class _Span:
    """A chunk of a file on its way."""

    file: File
    start: int
    stop: int
    buffer: memoryview = field(default_factory=lambda: memoryview(b""))
    """Where its parts lie."""
    parts: "SimpleQueue[_Result]" = field(default_factory=SimpleQueue)


def download(wanted: Sequence[Wanted], progress: Progress) -> list[str | None]:
    """Complete all these files; their SHA-256 in hex where asked for. OSError is about the target."""
    readers = _Readers(span for item in wanted for span in _spans(item))
    hasher = _Hasher()
    try:
        return [_complete(item, readers, hasher, progress) for item in wanted]
    finally:
        readers.stop()
        hasher.stop()


def patiently(
    file: File, start: int, stop: int, stopped: Event, room: memoryview | None = None
) -> Iterator[Piece]:
    """The bytes from one offset to another, going on where a read breaks off, until it is to stop."""
    failures = 0
    while start < stop:
        try:
            for piece in file.read(start, stop, room):
                start += len(piece)
                room = None if room is None else room[len(piece) :]
                failures = 0 if piece else failures
                yield piece
            if start < stop:
                raise Interrupted(f"{file.name} ended {stop - start:,} bytes early.")
        except Interrupted as error:
            if file.tag is None:
                raise
            _wait(error, failures, stopped)
            failures += 1


def retried(step: Callable[[], T]) -> T:
    """What a step returns, once it is not interrupted."""
    failures = 0
    while True:
        try:
            return step()
        except Interrupted as error:
            _wait(error, failures, Event())
            failures += 1


def _wait(error: Interrupted, failures: int, stopped: Event) -> None:
    if failures >= len(PAUSES):
        raise SourceUnavailable(
            f"{error} {failures + 1} attempts in a row failed; it is tried again later, from here on."
        ) from error
    if stopped.wait(max(PAUSES[failures], min(error.pause, _LONGEST_PAUSE))):
        raise error


def _spans(item: Wanted) -> Iterator[tuple[File, int, int]]:
    """The chunks of a file that readers are to bring; none where it can only be read from its beginning."""
    if _in_chunks(item.file):
        for start in range(item.have, item.file.size, CHUNK):
            yield item.file, start, min(start + CHUNK, item.file.size)


def _in_chunks(file: File) -> bool:
    return file.ranges and file.tag is not None


def _complete(item: Wanted, readers: "_Readers", hasher: "_Hasher", progress: Progress) -> str | None:
    digest = hashlib.sha256() if item.hashed else None
    item.target.parent.mkdir(parents=True, exist_ok=True)
    with item.target.open("ab", buffering=0) as target:
        for failures in range(len(PAUSES) + 1):
            have = item.have if failures == 0 else 0
            target.truncate(have)
            if digest is not None and have:
                _digest_of(item.target, digest.update)
            try:
                for piece in _pieces(item, readers):
                    with hasher.beside(digest, piece):
                        _write(target, piece)
                    have += len(piece)
                    progress.add(len(piece))
                break
            except (
                Interrupted
            ) as error:  # what has no tag begins anew: what follows might be of another version
                _wait(error, failures, Event())
                progress.add(-have)
                digest = hashlib.sha256() if item.hashed else None
    item.target.chmod(0o644)
    return digest.hexdigest() if digest is not None else None


def _pieces(item: Wanted, readers: "_Readers") -> Iterator[Piece]:
    if not _in_chunks(item.file):
        yield from patiently(item.file, item.have, item.file.size, Event())
    for _ in _spans(item):
        yield from readers.next()


def _write(target: BinaryIO, piece: Piece) -> None:
    view = memoryview(piece)
    while view:
        view = view[target.write(view[:_WRITE]) :]


def _digest_of(path: Path, update: Callable[[bytes], None]) -> None:
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            update(data)


class _Hasher:
    """A thread that makes a digest of a piece while it is written."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Digest, Piece] | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        Thread(target=self._work, name="hasher", daemon=True).start()

    @contextmanager
    def beside(self, digest: "Digest | None", piece: Piece) -> Iterator[None]:
        """Around what is done with a piece meanwhile; the piece may change after it."""
        if digest is not None:
            self._tasks.put((digest, piece))
        try:
            yield
        finally:
            if digest is not None and (error := self._done.get()):
                raise error

    def stop(self) -> None:
        """No more pieces."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            digest, piece = task
            try:
                digest.update(piece)
            except BaseException as error:  # noqa: BLE001  (raised where the digest is waited for)
                self._done.put(error)
            else:
                self._done.put(None)


class _Readers:
    """Threads that read spans ahead of the one who takes them, in order.

    They are daemons: an agent that is told to stop does not wait for a server that is silent.
    """

    def __init__(self, spans: Iterator[tuple[File, int, int]]) -> None:
        self._waiting = spans
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        """Buffers to use again: memory that is new costs as much as to decrypt what goes into it."""
        self._ahead: deque[_Span] = deque()
        self._tasks: SimpleQueue[_Span | None] = SimpleQueue()
        self._stopped = Event()
        self._threads = 0
        while self._threads < READERS and self._ask():
            Thread(target=self._work, name=f"reader-{self._threads}", daemon=True).start()
            self._threads += 1

    def next(self) -> Iterator[memoryview]:
        """The parts of the next span as they come, each good until the one after it is asked for."""
        span = self._ahead.popleft()
        self._ask()
        while (part := span.parts.get()) is not None:
            if isinstance(part, BaseException):
                raise part
            yield part
        self._free.put(span.buffer)

    def stop(self) -> None:
        """No more spans."""
        self._stopped.set()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _ask(self) -> bool:
        """Have the next span read, if there is one."""
        wanted = next(self._waiting, None)
        if wanted is None:
            return False
        span = _Span(*wanted)
        self._ahead.append(span)
        self._tasks.put(span)
        return True

    def _work(self) -> None:
        while (span := self._tasks.get()) is not None:
            if not self._stopped.is_set():
                span.parts.put(self._read(span))

    def _read(self, span: _Span) -> BaseException | None:
        filled = handed = 0
        try:
            try:
                span.buffer = self._free.get_nowait()
            except Empty:
                span.buffer = memoryview(bytearray(CHUNK))
            for piece in patiently(span.file, span.start, span.stop, self._stopped, span.buffer):
                if self._stopped.is_set():
                    break
                if not (isinstance(piece, memoryview) and piece.obj is span.buffer.obj):
                    span.buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
                if filled - handed >= _PART:
                    span.parts.put(span.buffer[handed:filled])
                    handed = filled
        except BaseException as error:  # noqa: BLE001  (raised where the span is taken)
            return error
        finally:
            if handed < filled:
                span.parts.put(span.buffer[handed:filled])
        return None
