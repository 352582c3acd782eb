"""What is said while bytes arrive."""

from collections.abc import Callable

_REPORT_EVERY = 5.0


class Progress:
    """A line at the start, one every few seconds, one at the end."""

    def __init__(self, total: int, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._total, self._say, self._clock = total, say, clock
        self._done = self._had = 0
        self._start = self._last = clock()

    def have(self, size: int) -> None:
        """`size` bytes were there before."""
        self._done += size
        self._had += size

    def add(self, size: int) -> None:
        """`size` more bytes are there; fewer, when some have to come again."""
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
        return f"{readable((self._done - self._had) / max(now - self._start, 1e-3))}/s"


def readable(size: float) -> str:
    """A number of bytes for people: 11.3 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
