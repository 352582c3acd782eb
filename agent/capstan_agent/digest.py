"""The digest of a file, in the form the API carries it: `sha256:<64 hex digits>`."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 20
PATTERN = re.compile(r"sha256:[0-9a-f]{64}")


def file_digest(path: Path, stopped: Callable[[], bool]) -> tuple[str, int] | None:
    """The digest and size of a file; None as soon as `stopped` says that nobody waits for it any more."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            if stopped():
                return None
            digest.update(chunk)
            size += len(chunk)
    return f"sha256:{digest.hexdigest()}", size
