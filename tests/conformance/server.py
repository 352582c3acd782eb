"""Our own server on a model repository, as a process of its own."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

FLAGS = ("--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


class Server:
    """capstan-serving on a model repository."""

    def __init__(self, repository: Path, *arguments: str) -> None:
        self.log = repository.with_suffix(".log")
        command = [sys.executable, "-m", "capstan_serving", "--model-repository", str(repository)]
        with self.log.open("w") as output:
            self.process = subprocess.Popen([*command, *FLAGS, *arguments], stdout=output, stderr=output)

    def __enter__(self) -> Self:
        while "capstan_serving ready" not in self.log.read_text():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{self.tail()}")
            time.sleep(0.05)
        match = re.search(r"listening: HTTP (\S+), gRPC (\S+), metrics", self.log.read_text())
        assert match
        self.http, self.grpc = match.groups()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self.process.terminate()
        try:
            status = self.process.wait(60)
        finally:
            self.process.kill()
        if not failed and (status != 0 or "panicked" in self.log.read_text()):
            raise RuntimeError(f"the server ended with {status}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-2000:]

    def resident(self) -> int:
        """Resident memory, in bytes."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"Rss:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]
