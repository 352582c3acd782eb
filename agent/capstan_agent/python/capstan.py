"""Tell Capstan how far a training program has come, and save what it can go on from:

    from capstan import checkpoint, report

    report(step=1200, total=5000, loss=0.31)
    with checkpoint(step=1200) as folder:
        torch.save(state, folder / "state.pt")

The runner of a TrainingJob puts this file on PYTHONPATH, so nothing needs to be installed. It is one file for
any Python from 3.8 on, without dependencies: to run the program elsewhere, too, copy it beside the program.
Where no runner listens, nothing happens: it neither waits nor raises for want of a listener.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["checkpoint", "report"]


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


@contextmanager
def checkpoint(step: int) -> Iterator[Path]:
    """Give a folder to save to. When the block has ended well, it is a checkpoint: whole, or not at all.

    It is `step-<step>-attempt-<CAPSTAN_CHECKPOINT_ATTEMPT>` in CAPSTAN_CHECKPOINT_DIR (./checkpoints where
    there is none); the next attempt finds the newest whole one in CAPSTAN_RESUME_FROM. Where many processes
    save together, let all of them enter with the same step and save to the same folder, each its own files,
    and wait for each other inside the block: the one whose RANK (CAPSTAN_REPLICA_INDEX, where there is none)
    is 0 publishes it.
    """
    base = Path(os.environ.get("CAPSTAN_CHECKPOINT_DIR") or "checkpoints")
    number = os.environ.get("CAPSTAN_CHECKPOINT_ATTEMPT") or os.environ.get("CAPSTAN_ATTEMPT") or 1
    name = f"step-{int(step)}-attempt-{number}"
    saving = base / f".saving-{name}"
    saving.mkdir(parents=True, exist_ok=True)
    yield saving
    if os.environ.get("RANK", os.environ.get("CAPSTAN_REPLICA_INDEX", "0")) == "0":
        _publish(saving, base / name)


def _publish(saving: Path, target: Path) -> None:
    """Write the digests, have all of it on the disk, then give it its name."""
    files = sorted(path for path in saving.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = saving / "SHA256SUMS"
    sums.write_text("".join(f"{_digest(path)}  {path.relative_to(saving).as_posix()}\n" for path in files))
    for path in (*files, sums, *(p for p in saving.rglob("*") if p.is_dir()), saving):
        _sync(path)
    if target.exists():  # saved again, by the same attempt
        shutil.rmtree(target)
    saving.rename(target)
    _sync(target.parent)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
