"""Keeps what a program writes where it outlives the pod: beside its output, on the output's volume.

    OUTPUT/logs/attempt-2/replica-0.log      the last of it
    OUTPUT/logs/attempt-2/replica-0.log.1    what was before that, if it is long

One thread writes, so that a volume that is slow, full or away holds up neither the program nor its output.
What waits to be written is bounded, and so is what is kept. The output's folder is the program's to make:
until it has, and while it runs, nothing is made there.
"""

import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

#: Bytes of a file before the next is begun; two are kept. Bytes that may wait.
SIZE = 4 << 20
_WAITING = 1 << 20
_PAUSE = 2.0


class Logbook:
    """The thread, and what it is to write."""

    def __init__(self, output: Path, attempt: str, replica: str) -> None:
        self._output = output
        self._path = output / "logs" / f"attempt-{attempt}" / f"replica-{replica}.log"
        self._waiting: deque[bytes] = deque()
        self._size = self._lost = 0
        self._lock = threading.Lock()
        self._news, self._over = threading.Event(), threading.Event()
        self._failing = self._begun = False
        self._thread = threading.Thread(target=self._run, name="logbook", daemon=True)

    def append(self, data: bytes) -> None:
        """Take what was written next. When too much waits, the oldest of that is lost."""
        with self._lock:
            self._waiting.append(data)
            self._size += len(data)
            while self._size > _WAITING:
                gone = len(self._waiting.popleft())
                self._size -= gone
                self._lost += gone
        self._news.set()

    def start(self) -> None:
        """Begin."""
        try:
            self._thread.start()
        except RuntimeError as error:  # the container may have no more threads
            print(f"capstan: no log is kept: {error}", file=sys.stderr)

    def finish(self, patience: float) -> None:
        """Write what is left; `patience` seconds at most."""
        self._over.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _run(self) -> None:
        over = False
        while not over:
            self._news.wait()
            over = self._over.is_set()
            self._news.clear()
            try:
                if over or self._output.is_dir():
                    self._write()
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    print(f"capstan: no log is kept in {self._path}: {error.strerror}", file=sys.stderr)
            if not over:
                self._over.wait(_PAUSE)

    def _write(self) -> None:
        with self._lock:
            waiting, lost = b"".join(self._waiting), self._lost
            self._waiting.clear()
            self._size = self._lost = 0
        if lost:
            waiting = f"\n[capstan: {lost} bytes were not kept]\n".encode() + waiting
        if not waiting:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            # What is there before our first line is of another job, which had this one's name.
            if not self._begun or self._path.stat().st_size + len(waiting) > SIZE:
                self._path.replace(f"{self._path}.1")
        self._begun = True
        with self._path.open("ab") as file:
            file.write(waiting)


def logbook(environment: Mapping[str, str]) -> Logbook | None:
    """The logbook of this replica, where a job has an output."""
    output = environment.get("CAPSTAN_OUTPUT_DIR")
    attempt, replica = (environment.get(f"CAPSTAN_{name}", "") for name in ("ATTEMPT", "REPLICA_INDEX"))
    if not output or not attempt.isdecimal() or not replica.isdecimal():
        return None
    return Logbook(Path(output), attempt, replica)
