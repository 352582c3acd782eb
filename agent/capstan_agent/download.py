"""Files out of a source into a folder, in order and in bounded memory.

Several readers ask for the next chunks at once; what they bring is written in the files' order by one writer.
So a file that is not complete is always a beginning of it, which is all that has to be known to go on with
it, and its digest can be made of the bytes as they pass.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import BinaryIO, TypeVar

from capstan_agent.errors import SourceUnavailable
from capstan_agent.progress import Progress
from capstan_agent.sources.listing import File, Interrupted, Piece

CHUNK = 8 << 20
READERS = 4
"""Connections at most, and chunks that are in memory at once, but for the one that is written.

More of them, and of smaller chunks, ask for no more at once and contend for the interpreter's lock."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts that bring nothing; any byte that arrives starts the list anew."""
_LONGEST_PAUSE = 60.0

T = TypeVar("T")
_Result = tuple[bytearray, int] | BaseException
"""A buffer and how much of it is filled."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, how much of it is there already, and whether its digest is asked for."""

    file: File
    target: Path
    have: int = 0
    hashed: bool = False


def download(wanted: Sequence[Wanted], progress: Progress) -> list[str | None]:
    """Complete all these files; their SHA-256 in hex where asked for. OSError is about the target."""
    readers = _Readers(span for item in wanted for span in _spans(item))
    try:
        return [_complete(item, readers, progress) for item in wanted]
    finally:
        readers.stop()


def patiently(file: File, start: int, stop: int, stopped: Event) -> Iterator[Piece]:
    """The bytes from one offset to another, going on where a read breaks off, until it is to stop."""
    failures = 0
    while start < stop:
        try:
            for piece in file.read(start, stop):
                start += len(piece)
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


def _complete(item: Wanted, readers: "_Readers", progress: Progress) -> str | None:
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
                    _write(target, piece)
                    have += len(piece)
                    if digest is not None:
                        digest.update(piece)
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
        yield readers.next()


def _write(target: BinaryIO, piece: Piece) -> None:
    view = memoryview(piece)
    while view:
        view = view[target.write(view) :]


def _digest_of(path: Path, update: Callable[[bytes], None]) -> None:
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            update(data)


class _Readers:
    """Threads that read spans ahead of the one who takes them, in order.

    They are daemons: an agent that is told to stop does not wait for a server that is silent.
    """

    def __init__(self, spans: Iterator[tuple[File, int, int]]) -> None:
        self._waiting = spans
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        """Buffers to use again: memory that is new costs as much as to decrypt what goes into it."""
        self._taken: bytearray | None = None
        self._ahead: deque[SimpleQueue[_Result]] = deque()
        self._tasks: SimpleQueue[tuple[tuple[File, int, int], SimpleQueue[_Result]] | None] = SimpleQueue()
        self._stopped = Event()
        self._threads = 0
        while self._threads < READERS and self._ask():
            Thread(target=self._work, name=f"reader-{self._threads}", daemon=True).start()
            self._threads += 1

    def next(self) -> memoryview:
        """The bytes of the next span, good until the one after it is asked for."""
        if self._taken is not None:
            self._free.put(self._taken)
            self._taken = None
        result = self._ahead.popleft().get()
        if isinstance(result, BaseException):
            raise result
        self._taken, filled = result
        self._ask()
        return memoryview(self._taken)[:filled]

    def stop(self) -> None:
        """No more spans."""
        self._stopped.set()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _ask(self) -> bool:
        """Have the next span read, if there is one."""
        span = next(self._waiting, None)
        if span is None:
            return False
        slot: SimpleQueue[_Result] = SimpleQueue()
        self._ahead.append(slot)
        self._tasks.put((span, slot))
        return True

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            span, slot = task
            if not self._stopped.is_set():
                slot.put(self._read(*span))

    def _read(self, file: File, start: int, stop: int) -> _Result:
        try:
            whole = self._free.get_nowait()
        except Empty:
            whole = bytearray(CHUNK)
        buffer, filled = memoryview(whole), 0
        try:
            for piece in patiently(file, start, stop, self._stopped):
                if self._stopped.is_set():
                    break
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
        except BaseException as error:  # noqa: BLE001  (raised where the span is taken)
            return error
        return whole, filled
