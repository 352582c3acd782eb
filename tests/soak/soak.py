"""Mixed load on a server for as long as wanted, every answer checked against bare ONNX Runtime.

    python -m tests.soak.soak [--seconds 600] [--seed 1]            (`make soak`)

What happens all at once: inference over HTTP and gRPC, of tensors of every size, alone and in streams; a
model that is unloaded, loaded, and replaced by one with other weights; requests that are cancelled or
whose client goes away; requests that are wrong. It fails with a wrong answer, with a request that has
none, with an error that nothing explains, and when the server's resident memory at the end is more than
5 % above what it was after warming up.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import onnxruntime as ort

from tests.conformance import models
from tests.conformance.server import Server
from tests.soak.workers import KINDS, Load, Wrong

EXPLICIT = ("--model-control-mode", "explicit", "--load-model", "*")
GROWTH = 0.05
WARM = (0.3, 0.45)
END = (0.85, 1.0)
"""The parts of the time whose memory is compared, each by its median."""


async def run(server: Server, repository: Path, seconds: float, seed: int) -> tuple[Load, list[float]]:
    """The load, and the memory as it went."""
    sessions = {
        name: ort.InferenceSession(repository / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        for name in ("batched", "sums", "identity_fp32", "identity_bytes")
    }
    load = Load(server, sessions, seed)
    memory: list[float] = []

    async def watch() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(seconds / 200)
            memory.append(server.resident())
        load.stopping = True

    async with load, asyncio.TaskGroup() as group:
        for work in (*load.workers(), watch()):
            group.create_task(work)
    return load, memory


def level(memory: list[float], part: tuple[float, float]) -> float:
    """The median of a part of the time."""
    return statistics.median(memory[int(part[0] * len(memory)) : int(part[1] * len(memory))])


def soak(seconds: float, seed: int, allowed: float = GROWTH) -> str:
    """What happened; Wrong when it should not have."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        models.make(repository)
        with Server(repository, "--no-exit-on-error", *EXPLICIT) as server:
            try:
                load, memory = asyncio.run(run(server, repository, seconds, seed))
            except* Exception as group:
                error = group.exceptions[0]
                raise Wrong(
                    f"{type(error).__name__}: {error}; the server's log ends:\n{server.tail()}"
                ) from group
            if server.process.poll() is not None:
                raise Wrong(f"the server ended:\n{server.tail()}")
    before, after = level(memory, WARM), level(memory, END)
    growth = after / before - 1
    counts = ", ".join(f"{number:,} {what}" for what, number in sorted(load.counts.items()))
    memory_said = f"{before / 2**20:.1f} MiB resident after warming up, {growth:+.1%} at the end"
    said = f"{seconds:.0f} s, seed {seed}: {counts}; {memory_said}"
    if missing := [kind for kind in KINDS if not load.counts[kind]]:
        raise Wrong(f"no {', no '.join(missing)}: {said}")
    if growth > allowed:
        raise Wrong(f"memory has grown: {said}")
    return said


def main() -> None:
    """Run, and say what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    try:
        print(soak(chosen.seconds, chosen.seed))
    except Wrong as error:
        sys.exit(f"seed {chosen.seed}: {error}")


if __name__ == "__main__":
    main()
