"""How often the kernel's out-of-memory killer struck in this container.

Read from the container's own cgroup: `memory.events` under v2, `memory.oom_control` under v1. A rise between
start and end tells an out-of-memory kill from any other SIGKILL, and also finds the killed worker below a
launcher that only reports exit code 1.
"""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def oom_kills(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """The kernel's count of killed processes, or None where it does not say."""
    for counter in _counters(cgroups, membership):
        try:
            lines = counter.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdigit():
                return int(value)
    return None


def _counters(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Where the count may be: below our own path where the tree is visible, at its root in a container."""
    try:
        entries = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        entries = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if not controllers:
            yield cgroups / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield cgroups / "memory" / path.lstrip("/") / "memory.oom_control"
    yield cgroups / "memory.events"
    yield cgroups / "memory" / "memory.oom_control"
