"""How the demo speaks: one line a step with its time, what happens inside it indented below.

Writes to standard output and knows nothing of Kubernetes.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Story:
    """Numbered steps with their durations."""

    def __init__(self, title: str) -> None:
        self._began = time.monotonic()
        self._steps: list[tuple[str, float]] = []
        print(f"\n{title}\n", flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step; on the way out say how long it took, whether or not it went well."""
        number, began, outcome = len(self._steps) + 1, time.monotonic(), "failed after"
        print(f"[{number}] {title}", flush=True)
        try:
            yield
            outcome = "done in"
        finally:
            seconds = time.monotonic() - began
            self._steps.append((title, seconds))
            print(f"    {outcome} {seconds:.1f} s\n", flush=True)

    def say(self, text: str) -> None:
        """Print lines inside the current step."""
        for line in text.splitlines():
            print(f"    {line}", flush=True)

    def times(self) -> list[tuple[str, str]]:
        """Return (step, duration) rows, the total last."""
        rows = [(title, f"{seconds:.1f} s") for title, seconds in self._steps]
        return [*rows, ("total", f"{time.monotonic() - self._began:.1f} s")]


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as left-aligned columns, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
