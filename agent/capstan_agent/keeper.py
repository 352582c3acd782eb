"""Looks after a job's checkpoints while replica 0 runs: keeps the newest few, tells of the newest.

One thread, which ends with the process. It only looks at names, now and then; a volume that does not answer
holds up nothing but this thread.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from capstan_agent import checkpoints

INTERVAL = 10.0


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint, as the operator is told of it."""

    step: int
    time: int
    name: str

    def json(self) -> dict[str, int | str]:
        """As part of a report."""
        return {"step": self.step, "time": self.time, "name": self.name}


class Keeper:
    """The thread. `saved` is told of each new checkpoint; those in `broken` are none."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        attempt: int,
        broken: frozenset[Path],
        saved: Callable[[Saved], None],
        interval: float = INTERVAL,
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._attempt = attempt
        self._broken = broken
        self._saved = saved
        self._interval = interval
        self._newest: checkpoints.Checkpoint | None = None
        self._failing = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        try:
            self._thread.start()
        except RuntimeError as error:  # the container may have no more threads
            print(f"capstan: checkpoints are not looked after: {error}", file=sys.stderr)

    def finish(self, patience: float) -> None:
        """Look once more; `patience` seconds at most."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._interval)
            try:
                self._look()
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    print(f"capstan: checkpoints are not looked after: {error}", file=sys.stderr)
            else:
                self._failing = False

    def _look(self) -> None:
        found = [one for one in checkpoints.published(self._folder) if one.path not in self._broken]
        if not found or found[0] == self._newest:
            return
        self._newest = found[0]
        saved = int(self._newest.path.stat().st_mtime)
        self._saved(Saved(self._newest.step, saved, self._newest.path.name))
        checkpoints.prune(found, self._folder, self._keep, self._attempt)


def keeper(
    environment: Mapping[str, str], broken: frozenset[Path], saved: Callable[[Saved], None]
) -> Keeper | None:
    """The keeper of this replica, if it is to have one."""
    folder = environment.get(checkpoints.FOLDER)
    if not folder or environment.get("CAPSTAN_REPLICA_INDEX", "0") != "0":
        return None
    keep, attempt = (environment.get(name, "") for name in (checkpoints.KEEP, checkpoints.NUMBER))
    return Keeper(
        Path(folder),
        int(keep) if keep.isdecimal() else checkpoints.KEPT,
        int(attempt) if attempt.isdecimal() else 0,
        broken,
        saved,
    )
