"""Passes a process's output on, byte for byte, and keeps its last lines.

One loop serves both streams and the signals, so a reader that stops reading holds back the writer, as a pipe
would, and never the runner. Nothing is set non-blocking: the descriptors are shared with others. Instead at
most PIPE_BUF bytes are written to a pipe that poll(2) calls writable, which cannot block (pipe(7)).
"""

import os
import select
import stat
import time
from typing import Protocol

from capstan_agent.tail import Tail

_READ = 64 * 1024


class Stream:
    """One direction: from the pipe `source`, owned and closed here, to the descriptor `sink`, borrowed."""

    __slots__ = ("_pending", "_piece", "_sink", "_tail", "source")

    def __init__(self, source: int, sink: int, tail: Tail) -> None:
        self.source: int | None = source
        self._sink = sink
        self._tail = tail
        self._pending = memoryview(b"")
        self._piece = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(sink).st_mode) else _READ

    @property
    def waits_for_reader(self) -> bool:
        """Whether there are bytes that the sink has not taken yet."""
        return bool(self._pending)

    def interest(self) -> tuple[int, int] | None:
        """The descriptor and the events to poll for next; None at the end."""
        if self._pending:
            return self._sink, select.POLLOUT
        return None if self.source is None else (self.source, select.POLLIN)

    def advance(self) -> None:
        """Do the one read or write that poll(2) found possible."""
        if self._pending:
            try:
                written = os.write(self._sink, self._pending[: self._piece])
            except OSError:  # the reader has gone: the writer shall see that too, as it would without us
                self._pending = memoryview(b"")
                self.close()
            else:
                self._pending = self._pending[written:]
        elif self.source is not None:
            data = os.read(self.source, _READ)
            if data:
                self._tail.append(data)
                self._pending = memoryview(data)
            else:
                self.close()

    def close(self) -> None:
        """Stop reading. What still writes to the pipe gets SIGPIPE."""
        if self.source is not None:
            os.close(self.source)
            self.source = None


class Source(Protocol):
    """What a relay moves: a Stream, or what is read for the runner itself."""

    @property
    def waits_for_reader(self) -> bool:
        """See Stream."""

    def interest(self) -> tuple[int, int] | None:
        """See Stream."""

    def advance(self) -> None:
        """See Stream."""

    def close(self) -> None:
        """See Stream."""


class Relay:
    """The streams of one process."""

    __slots__ = ("_streams",)

    def __init__(self, *streams: Source) -> None:
        self._streams = streams

    def step(self, timeout: float | None, wakeup: int | None = None) -> bool:
        """Wait, at most `timeout` seconds or until `wakeup` is readable, and pass on what there is.

        True when something moved.
        """
        poll = select.poll()
        if wakeup is not None:
            poll.register(wakeup, select.POLLIN)
        interests = [(stream, interest) for stream in self._streams if (interest := stream.interest())]
        for _, (descriptor, events) in interests:
            poll.register(descriptor, events)
        ready = {
            descriptor for descriptor, _ in poll.poll(None if timeout is None else max(timeout, 0) * 1000)
        }
        moved = [stream for stream, (descriptor, _) in interests if descriptor in ready]
        # The sinks may be one pipe, with room for one write: one move, then look again. Take turns.
        if moved:
            moved[0].advance()
            self._streams = tuple(sorted(self._streams, key=lambda stream: stream is moved[0]))
        return bool(moved)

    def drain(self, patience: float) -> None:
        """Pass on what is in the pipes now, after the process has ended, and close them.

        Whoever else holds a pipe open is not waited for; a reader that does not read is, `patience` seconds,
        and so is who goes on writing, in a session of its own, say.
        """
        end = time.monotonic() + patience
        while self.step(0) and time.monotonic() < end:
            pass
        while any(stream.waits_for_reader for stream in self._streams) and time.monotonic() < end:
            self.step(end - time.monotonic())
        for stream in self._streams:
            stream.close()
