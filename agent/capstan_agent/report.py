"""What a program says of its progress, one JSON object a line, and what is told of it.

    {"step": 1200, "total": 5000, "loss": 0.31}

`step` and `total` are whole numbers, everything else a metric. Each value replaces the last one of its name,
so programs may say different things at different times; what is not finite takes it back. Pure: channel.py
reads the lines, reporter.py tells.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METRICS = 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,62}")
_LARGEST = 1 << 53  # what every reader of JSON can count to


@dataclass(frozen=True, slots=True)
class Report:
    """How far a program is. `begun` is when and where it first was: what its pace is measured from."""

    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    begun: tuple[float, int] | None = None
    now: float = 0.0

    def json(self) -> dict[str, Any]:
        """What the operator is told: what is known, and the seconds that are left at this pace."""
        found = {"step": self.step, "total": self.total, "remaining": self._remaining()}
        told: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        return told | ({"metrics": dict(self.metrics)} if self.metrics else {})

    def _remaining(self) -> int | None:
        if self.step is None or self.total is None or self.begun is None:
            return None
        if self.step >= self.total:
            return 0
        since, first = self.begun
        if self.step <= first or self.now <= since:
            return None
        return min(round((self.total - self.step) * (self.now - since) / (self.step - first)), _LARGEST)


def merged(before: Report, line: bytes, now: float) -> Report:
    """The report with one more line. ValueError, with a sentence, when the line makes no sense."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ValueError('it is no JSON object: write one a line, such as {"step": 1, "loss": 0.5}')
    step = _whole(said.pop("step", None), "step")
    total = _whole(said.pop("total", None), "total")
    new = {name: _metric(name, value) for name, value in said.items()}
    metrics = {name: value for name, value in {**before.metrics, **new}.items() if math.isfinite(value)}
    if len(metrics) > METRICS:
        raise ValueError(f"it has more than {METRICS} metrics: report fewer names")
    begun = before.begun
    if step is not None and (begun is None or step < begun[1]):
        begun = (now, step)
    return Report(
        before.step if step is None else step,
        before.total if total is None else total,
        metrics,
        begun,
        before.now if step is None else now,
    )


def _whole(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{name} must be a whole number, not {_shown(value)}")
    if not 0 <= value <= _LARGEST:
        raise ValueError(f"{name} must be a number from 0 to {_LARGEST}, not {_shown(value)}")
    return int(value)


def _metric(name: str, value: Any) -> float:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{_shown(name)} is no name of a metric: use letters, digits and _ . / -, beginning with a"
            " letter, 63 at most"
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {_shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    return repr(value)[:40]
