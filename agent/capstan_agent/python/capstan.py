"""Tell Capstan how far a training program has come:

    from capstan import report

    report(step=1200, total=5000, loss=0.31)

The runner of a TrainingJob puts this file on PYTHONPATH, so nothing needs to be installed. It is one file for
any Python from 3.8 on, without dependencies: to run the program elsewhere, too, copy it beside the program.
Where no runner listens, nothing happens: it neither waits nor raises for want of a listener.
"""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["report"]


def report(step: int | None = None, total: int | None = None, **metrics: Any) -> None:
    """Say which step is done, of how many in all, and what was measured: anything that float() takes.

    Each value replaces the last one of its name. It is cheap enough for every step, but float() of a tensor
    waits for the GPU. Any process may call it: what those of replica 0 say is shown.
    """
    path = os.environ.get("CAPSTAN_PROGRESS_FILE")
    if not path:
        return
    said: dict[str, Any] = {name: float(value) for name, value in metrics.items()}
    if step is not None:
        said["step"] = int(step)
    if total is not None:
        said["total"] = int(total)
    _append(path, said)


def _append(path: str, said: dict[str, Any]) -> None:
    line = (json.dumps(said) + "\n").encode()
    try:
        # Not blocking: a line that finds no room is lost, and the next one is as good.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    except OSError:
        return
    try:
        os.write(descriptor, line)
    except OSError:
        pass
    finally:
        os.close(descriptor)
