"""Unmounts what is mounted below the cluster's folders."""

import re
from collections.abc import Iterable
from pathlib import Path

from capstan_cluster.commands import Run, run


def below(mountinfo: str, folders: Iterable[Path]) -> list[Path]:
    """Mount points at or below `folders`, the latest first, as /proc/self/mountinfo lists them."""
    wanted = tuple(folders)
    points = [Path(_unescaped(line.split()[4])) for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if any(point.is_relative_to(folder) for folder in wanted)]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def unmount(folders: Iterable[Path], runner: Run = run) -> None:
    """Unmount all of them; lazily, since a process of somebody else may be looking at one."""
    wanted = tuple(folders)
    for point in below(Path("/proc/self/mountinfo").read_text(), wanted):
        runner(["umount", "--lazy", point])
