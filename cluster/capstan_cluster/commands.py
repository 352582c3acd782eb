"""The one seam through which other programs are run, so that tests can stand in for them."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from capstan_cluster.errors import ClusterError


class Run(Protocol):
    """Runs a program to its end and gives its standard output; raises ClusterError when it fails."""

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float | None = None,
    ) -> str:
        """`env` is added to ours; `timeout` is in seconds."""


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Run a program for real. See `Run`."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env={
                **os.environ,
                "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
                **(env or {}),
            },
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise ClusterError(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"`{' '.join(words[:4])}` did not finish within {timeout:.0f} s") from None
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
        raise ClusterError(f"`{' '.join(words[:6])}` failed with status {done.returncode}:\n{tail}")
    return done.stdout
