"""The last lines that a process wrote, in bounded memory.

What is kept is what a person would want to read of them: a progress bar that rewrites its line counts as its
last state, and a line cut by the bound is dropped.
"""

_KEPT = 16 * 1024
_LIMIT = 2 * 1024


class Tail:
    """The end of a stream of bytes."""

    __slots__ = ("_cut", "_kept")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = False

    def append(self, data: bytes) -> None:
        """Take what was written next."""
        self._kept += data[-_KEPT:]
        excess = len(self._kept) - _KEPT
        if len(data) > _KEPT or excess > 0:
            self._cut = True
            del self._kept[: max(excess, 0)]

    def text(self, noise: str | None = None) -> str:
        """The last lines, at most 2 KiB of UTF-8; bytes that are not UTF-8 become U+FFFD.

        Lines that begin with `noise` are left out.
        """
        lines = self._kept.decode("utf-8", "replace").split("\n")
        if self._cut and len(lines) > 1:
            del lines[0]
        if noise is not None:
            lines = [line for line in lines if not line.startswith(noise)]
        kept: list[str] = []
        room = _LIMIT
        for line in reversed([line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]):
            size = len(line.encode()) + 1
            if size > room:
                if not kept:
                    kept.append(line.encode()[-room:].decode("utf-8", "ignore"))
                break
            room -= size
            kept.append(line)
        return "\n".join(reversed(kept)).strip("\n")
