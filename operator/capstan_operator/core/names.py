"""The names of children, short enough for what Kubernetes makes of them, and hashes that are stable."""

from __future__ import annotations

import hashlib
import json
from typing import Any

#: A label's value, a Service's name and a host name have at most so many characters.
LIMIT = 63
#: A Job's pods have its name, a dash and their index (at most three digits) as host name.
JOB_LIMIT = LIMIT - len("-999")
#: A Deployment's name is a label's value, and the name of its pods is cut to LIMIT for their host name.
HASH_LENGTH = 8


def child(owner: str, suffix: str, limit: int = LIMIT) -> str:
    """`<owner>-<suffix>`; when that is too long, the owner is cut and a hash of all of it put between."""
    full = f"{owner}-{suffix}"
    if len(full) <= limit:
        return full
    mark = digest(owner)
    return f"{owner[: limit - len(suffix) - len(mark) - 2].rstrip('-')}-{mark}-{suffix}"


def job(owner: str, role: str, attempt: int) -> str:
    """The Job of one attempt."""
    return child(owner, f"{role}-{attempt}", JOB_LIMIT)


def peers(owner: str) -> str:
    """The headless Service by which replicas find each other."""
    return child(owner, "peers")


def revision(owner: str, mark: str) -> str:
    """The Deployment of a revision."""
    return child(owner, mark)


def digest(value: Any) -> str:
    """A short hash of any JSON value, the same whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]
