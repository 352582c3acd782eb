"""The control group under which all pods of a cluster are, on control groups v1 and v2 alike."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError

_WANTED = frozenset({"cpu", "cpuset", "memory", "hugetlb", "pids"})


def hierarchies(mountinfo: str) -> list[Path]:
    """Where the control group hierarchies are mounted: one of v2, or one a controller of v1."""
    result = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[:1] in (["cgroup"], ["cgroup2"]):
            result.append(Path(before.split()[4]))
    return result


def _roots(config: Config) -> list[Path]:
    mounted = hierarchies(Path("/proc/self/mountinfo").read_text())
    return [mount / config.cgroup.lstrip("/") for mount in mounted]


def create(config: Config) -> None:
    """Make the group in every hierarchy; the kubelet wants to find it."""
    for root in _roots(config):
        pass_on(root.parent)
        root.mkdir(exist_ok=True)


def pass_on(mount: Path) -> None:
    """Let groups under a v2 mount have the controllers that the kubelet wants and the mount offers.

    On a fresh boot systemd passes on only some of them. In a container the mount is a group with processes
    of its own, which may not pass anything on: they are moved into a group beside ours first.
    """
    offered, passed = mount / "cgroup.controllers", mount / "cgroup.subtree_control"
    if not offered.exists():
        return  # v1
    missing = (set(offered.read_text().split()) & _WANTED) - set(passed.read_text().split())
    if not missing:
        return
    if (mount / "cgroup.type").exists():
        leaf = mount / "init"
        leaf.mkdir(exist_ok=True)
        for pid in (mount / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # ended in between
                (leaf / "cgroup.procs").write_text(pid)
    passed.write_text(" ".join(f"+{controller}" for controller in sorted(missing)))


def kill(config: Config, *, seconds: float = 10) -> None:
    """End every process in it, which are the pods', and wait until it is empty."""
    deadline = time.monotonic() + seconds
    while pids := set(_members(_roots(config))):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"pods' processes {sorted(pids)} do not end", "see `dmesg`, then run this again"
            )
        for pid in pids:
            # members of our own group only; one that ended in between is not ours to miss
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _members(roots: Iterable[Path]) -> Iterable[int]:
    for root in roots:
        for path in root.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                yield from (int(pid) for pid in path.read_text().split() if pid != "0")


def remove(config: Config) -> None:
    """Remove the group and all below it; it must be empty."""
    for root in _roots(config):
        groups = [path for path in root.rglob("*") if path.is_dir()]
        for group in sorted(groups, key=lambda path: -len(path.parts)):
            group.rmdir()
        if root.is_dir():
            root.rmdir()
