"""What a policy finds out: a reason for programs, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A CamelCase reason, and a sentence that says what is so and, where there is something, what to do."""

    reason: str
    message: str
