"""The termination message: how a container of ours tells the operator what happened.

The kubelet copies at most 4096 bytes of the file to `state.terminated.message`. The shape is part of the
contract with the operator: `{"capstan": 1, "class", "exitCode", "reason", "message"}` and, where they apply,
`signal`, `log` (the last lines, in one string) and `output` (`file`, `digest`, `bytes`).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capstan_agent.errors import ExitClass

DEFAULT_PATH = Path("/dev/termination-log")
LIMIT = 4096
_MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Output:
    """A file that was produced: its base name, its size and, when it is one file, `sha256:<hex>`."""

    file: str
    bytes: int
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended."""

    exit_class: ExitClass
    exit_code: int
    reason: str
    message: str
    signal: int | None = None
    log: str = ""
    output: Output | None = None

    def encoded(self) -> bytes:
        """The message as JSON of at most LIMIT bytes; the oldest of the log goes first."""
        log = self.log
        while True:
            encoded = json.dumps(self._document(log), ensure_ascii=False).encode("utf-8", "backslashreplace")
            if len(encoded) <= LIMIT or not log:
                return encoded
            # Escapes make a byte into up to six, so shorten by what is over and look again.
            log = log[max(1, (len(encoded) - LIMIT) // 6) :]

    def _document(self, log: str) -> dict[str, Any]:
        message = self.message
        if len(message) > _MESSAGE_LIMIT:
            message = message[: _MESSAGE_LIMIT - 1] + "…"
        document: dict[str, Any] = {
            "capstan": 1,
            "class": self.exit_class,
            "exitCode": self.exit_code,
            "reason": self.reason,
            "message": message,
        }
        if self.signal is not None:
            document["signal"] = self.signal
        if log:
            document["log"] = log
        if self.output:
            document["output"] = {"file": self.output.file, "bytes": self.output.bytes}
            if self.output.digest:
                document["output"]["digest"] = self.output.digest
        return document


def write(termination: Termination, path: Path) -> None:
    """Leave the message at `path`; a path that cannot be written costs a line on stderr, not the exit code.

    The kubelet's file is a bind mount: it is overwritten in place, never replaced.
    """
    try:
        path.write_bytes(termination.encoded())
    except OSError as error:
        print(f"capstan: no termination message at {path}: {error.strerror}", file=sys.stderr)
