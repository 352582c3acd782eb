"""The named pipe through which a program says how far it is: CAPSTAN_PROGRESS_FILE.

A pipe and not a file, since what is written to it takes no room and a shell can write to it. The runner holds
it open in both directions, so that no writer waits for a reader and none ends it. Anybody in the pod may
write anything: lines are bounded, and the first one that makes no sense is told, the others are only ignored.
"""

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

from capstan_agent.report import Report, merged

VARIABLE = "CAPSTAN_PROGRESS_FILE"
_LINE = 4096
_READ = 64 * 1024


class Channel:
    """The reading end, as one more stream of the relay. `heard` is told after each line that made sense."""

    __slots__ = ("_complained", "_heard", "_line", "_skip", "report", "source", "used")

    def __init__(self, path: Path, heard: Callable[[Report], None]) -> None:
        """Make the pipe. OSError when it cannot be made."""
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        path.chmod(0o622)  # whoever the program becomes may write
        self.source: int | None = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.report = Report()
        self.used = False
        self._heard = heard
        self._line = bytearray()
        self._skip = False
        self._complained = False

    waits_for_reader = False

    def interest(self) -> tuple[int, int] | None:
        """See relay.Stream."""
        return None if self.source is None else (self.source, select.POLLIN)

    def advance(self) -> None:
        """Take the lines that are there."""
        if self.source is None:
            return
        try:
            data = os.read(self.source, _READ)
        except BlockingIOError:
            return
        self.used = True
        *lines, rest = (bytes(self._line) + data).split(b"\n")
        for line in lines:
            if self._skip:
                self._skip = False
            elif line.strip():
                self._take(line)
        self._line = bytearray(rest)
        if len(self._line) > _LINE:
            self._complain(f"it is longer than {_LINE} bytes")
            self._line.clear()
            self._skip = True

    def close(self) -> None:
        """Stop reading."""
        if self.source is not None:
            os.close(self.source)
            self.source = None

    def _take(self, line: bytes) -> None:
        if len(line) > _LINE:
            self._complain(f"it is longer than {_LINE} bytes")
            return
        try:
            self.report = merged(self.report, line, time.monotonic())
        except ValueError as error:
            self._complain(str(error))
        else:
            self._heard(self.report)

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            print(
                f"capstan: a line in {VARIABLE} is ignored, and so are all like it from here on: {why}",
                file=sys.stderr,
            )


def opened(heard: Callable[[Report], None]) -> Channel | None:
    """The channel where the operator wants it; a pipe that cannot be made keeps no program from running."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    try:
        return Channel(Path(path), heard)
    except OSError as error:
        print(f"capstan: no progress is read, {path} cannot be made: {error.strerror}", file=sys.stderr)
        return None
