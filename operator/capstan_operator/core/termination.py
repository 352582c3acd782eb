"""The agent's last words: one JSON object in a container's termination message.

Written by users' pods, so anything may be in it: what is not of the agreed shape is no message of the agent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from capstan_operator.core import get
from capstan_operator.core.model import Manifest

_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")

Class = Literal["ok", "user", "outOfMemory", "infrastructure", "hang"]


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended, in its own words."""

    class_: Class
    reason: str
    message: str
    log: str = ""
    digest: str = ""


def of(container_state: Manifest) -> Termination | None:
    """The message in a container's terminated state, or None."""
    return parsed(get.text(container_state, "message"))


def parsed(message: str) -> Termination | None:
    """The agent's message, or None when it is another's."""
    try:
        found: Any = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if get.number(found, "capstan") != 1 or found.get("class") not in get_args(Class):
        return None
    reason, digest = get.text(found, "reason"), get.text(found, "output", "digest")
    return Termination(
        class_=found["class"],
        reason=reason if reason.isidentifier() else "Unknown",
        message=get.text(found, "message"),
        log=get.text(found, "log"),
        digest=digest if _DIGEST.fullmatch(digest) else "",
    )
