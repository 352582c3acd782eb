"""metav1.Duration, as far as the models let it in: 1h, 1m30s, 1.5s, 500ms."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(duration: str) -> float:
    """How long a duration is."""
    return sum(float(amount) * _UNITS[unit] for amount, unit in re.findall(r"([0-9.]+)(h|ms|m|s)", duration))
