"""One `capstan-cluster` at a time changes a cluster."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from capstan_cluster.build import Say


@contextlib.contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock, making the folder if need be; the kernel lets go of it however we end."""
    while (descriptor := _lock(folder, say)) is None:
        continue  # whoever held it has removed the folder: what we locked is gone, start over
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, say: Say) -> int | None:
    """A descriptor that holds the lock, or None when the folder was replaced meanwhile."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another capstan-cluster is at work here; waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None
