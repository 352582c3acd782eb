"""The termination message: why the server ended, as JSON where Kubernetes picks it up."""

import json
import logging
from pathlib import Path

LIMIT = 4096
"""Bytes that Kubernetes keeps of it."""

_log = logging.getLogger(__name__)


def write(file: Path | None, reason: str, message: str, exit_code: int) -> None:
    """Write it, cut to the limit. That it cannot be written is logged, and no reason to fail otherwise."""
    if file is None:
        return
    report = {"capstan": 1, "class": "user", "exitCode": exit_code, "signal": None, "reason": reason}
    # In JSON an escaped character takes up to 12 bytes: cut until it fits.
    text = message
    while len(data := json.dumps(report | {"message": text}).encode()) > LIMIT:
        text = text[: len(text) - max(1, (len(data) - LIMIT) // 12)]
    try:
        file.write_bytes(data)
    except OSError as error:
        _log.warning("the termination message cannot be written: %s", error)
