"""Kubernetes quantities: the API server writes them in its own form, so comparing takes their value."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_SUFFIXES: dict[str, Fraction] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{suffix: Fraction(1000 ** (power + 1)) for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"))},
    **{
        suffix: Fraction(1024 ** (power + 1))
        for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))
    },
}
_QUANTITY = re.compile(
    r"([+-]?[0-9]{1,40}(?:\.[0-9]{0,40})?|[+-]?\.[0-9]{1,40})(?:[eE]([+-]?[0-9]{1,2})|([a-zA-Z]{0,2}))"
)


def value(quantity: Any) -> Fraction | None:
    """The number a quantity is, or None when it is none."""
    if isinstance(quantity, bool) or not isinstance(quantity, int | float | str):
        return None
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        return None
    digits, exponent, suffix = match.groups()
    factor = Fraction(10) ** int(exponent) if exponent else _SUFFIXES.get(suffix or "")
    return None if factor is None else Fraction(digits.rstrip(".")) * factor


def same(one: Any, other: Any) -> bool:
    """Whether two quantities are the same amount."""
    return value(one) is not None and value(one) == value(other)
