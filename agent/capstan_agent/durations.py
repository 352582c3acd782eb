"""Durations as Kubernetes writes them (metav1.Duration): `90s`, `1m30s`, `1.5h`, `0`."""

import re

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")


def seconds(text: str) -> float:
    """The duration in seconds; ValueError, with an example, when it is none."""
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != position:
            break
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not text or position != len(text):
        raise ValueError(f"{text!r} is not a duration: write it like 60s or 1m30s")
    return total
