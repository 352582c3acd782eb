"""What a program that goes on no more is asked before it is ended: where it stands.

Python answers that without help of the image: with PYTHONFAULTHANDLER in its environment, it writes the
stacks of all its threads to stderr when it gets SIGABRT, also when it waits in C for a collective that never
comes. It dies of that, which is why only those get it at once that could not save anything on SIGTERM anyway.
A program that is no Python has no such handler, and ends without having said anything.

Workers that torchrun starts are in sessions of their own, so processes are found by their parents.
"""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

VARIABLE = "CAPSTAN_HANG_TIMEOUT"
FAULTHANDLER = "PYTHONFAULTHANDLER"
#: What Python ends its stacks with: long, and of no use.
NOISE = "Extension modules: "
_PROC = Path("/proc")


def ask(*, all_of_them: bool) -> int:
    """Have all our descendants that can write their stacks, or those that do not hear SIGTERM. How many."""
    asked = 0
    for process in _descendants(os.getpid()):
        caught = _caught(process)
        if _has(caught, signal.SIGABRT) and (all_of_them or not _has(caught, signal.SIGTERM)):
            with suppress(OSError, ValueError):  # a core as large as its memory would take minutes to write
                resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))
            asked += _signal(process, signal.SIGABRT)
    return asked


def wake() -> None:
    """Let go on what was stopped (SIGSTOP): it hears no other signal."""
    for process in _descendants(os.getpid()):
        _signal(process, signal.SIGCONT)


def _signal(process: int, number: int) -> int:
    try:
        os.kill(process, number)
    except OSError:
        return 0
    return 1


def _descendants(root: int) -> list[int]:
    """All processes below one, the deepest first: of what they write, the end is read."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents():
        children.setdefault(parent, []).append(process)
    found: list[int] = []
    level = [root]
    while level:
        level = [child for process in level for child in sorted(children.get(process, ()), reverse=True)]
        found = level + found
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                # The name, in parentheses, may hold anything.
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _caught(process: int) -> int:
    """The signals that a process has handlers for, as a mask."""
    with suppress(OSError, ValueError):
        for line in (_PROC / str(process) / "status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return int(line.split()[1], 16)
    return 0


def _has(mask: int, number: int) -> bool:
    return bool(mask >> (number - 1) & 1)
