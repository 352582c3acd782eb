"""What the kernel counts for this container: its own cgroup's files, under v1 and v2.

Whatever a kernel or a container runtime does not show is None here, and never an error.
"""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

# Under v1 "no limit" is a number: the largest that fits, rounded down to a page.
_NO_LIMIT = 1 << 60


class Cgroup:
    """One container's cgroup."""

    def __init__(self, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> None:
        self._cgroups = cgroups
        self._membership = membership

    def oom_kills(self) -> int | None:
        """How many processes the kernel's out-of-memory killer has ended here."""
        return self._field("oom_kill", "memory", "memory.oom_control", "memory.events")

    def cpu_seconds(self) -> float | None:
        """The processor time used, by all processes together."""
        microseconds = self._field("usage_usec", "", "", "cpu.stat")
        if microseconds is not None:
            return microseconds / 1e6
        nanoseconds = self._number("cpuacct", "cpuacct.usage", "")
        return None if nanoseconds is None else nanoseconds / 1e9

    def memory(self) -> int | None:
        """The bytes in use that the kernel cannot simply drop, as the kubelet counts them."""
        used = self._number("memory", "memory.usage_in_bytes", "memory.current")
        idle = self._field("total_inactive_file", "memory", "memory.stat", "")
        if idle is None:
            idle = self._field("inactive_file", "", "", "memory.stat")
        return None if used is None else max(used - (idle or 0), 0)

    def memory_limit(self) -> int | None:
        """The bytes that may be in use; None without a limit."""
        limit = self._number("memory", "memory.limit_in_bytes", "memory.max")
        return None if limit is None or limit >= _NO_LIMIT else limit

    def _number(self, controller: str, v1: str, v2: str) -> int | None:
        for text in self._texts(controller, v1, v2):
            if text.strip().isdigit():
                return int(text)
        return None

    def _field(self, name: str, controller: str, v1: str, v2: str) -> int | None:
        for text in self._texts(controller, v1, v2):
            for line in text.splitlines():
                found, _, value = line.partition(" ")
                if found == name and value.isdigit():
                    return int(value)
        return None

    def _texts(self, controller: str, v1: str, v2: str) -> Iterator[str]:
        for path in self._paths(controller, v1, v2):
            try:
                yield path.read_text()
            except OSError:
                continue

    def _paths(self, controller: str, v1: str, v2: str) -> Iterator[Path]:
        """Where a file may be: below our own path where the tree is visible, at its root in a container."""
        try:
            entries = [line.split(":", 2) for line in self._membership.read_text().splitlines()]
        except OSError:
            entries = []
        for _, controllers, path in (entry for entry in entries if len(entry) == 3):
            if not controllers and v2:
                yield self._cgroups / path.lstrip("/") / v2
            elif v1 and controller in controllers.split(","):
                yield self._cgroups / controller / path.lstrip("/") / v1
        if v2:
            yield self._cgroups / v2
        if v1:
            yield self._cgroups / controller / v1
