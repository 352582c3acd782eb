"""How these tests run the agent: as a process of its own, as in a pod."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT = 60.0


class Running:
    """A supervised Python program."""

    def __init__(self, process: subprocess.Popen[bytes], message: Path) -> None:
        self.process = process
        self._message = message

    def wait_for_line(self) -> bytes:
        """The next line of its standard output: how a program says that it has got somewhere."""
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        return line

    def finish(self) -> tuple[bytes, bytes]:
        """What it wrote, after its end."""
        out, err = self.process.communicate(timeout=LIMIT)
        return out, err

    @property
    def message(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._message.read_bytes())
        return document


Run = Callable[..., Running]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Run]:
    """Starts `capstan-agent run` on a Python program or on any command."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        program: str | list[str],
        *options: str,
        prefix: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        stdout: int = subprocess.PIPE,
    ) -> Running:
        message = tmp_path / "message.json"
        command = [sys.executable, "-c", textwrap.dedent(program)] if isinstance(program, str) else program
        agent = [sys.executable, "-m", "capstan_agent", "run", "--termination-log", str(message)]
        process = subprocess.Popen(
            [*prefix, *agent, *options, "--", *command],
            stdout=stdout,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=os.environ | (env or {}),
        )
        started.append(process)
        return Running(process, message)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
