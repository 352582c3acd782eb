"""Twice the load that a model can take: how much of what is answered comes in time, with a latency objective.

    uv run python tests/bench/serving/open_loop.py [--seconds 5] [--rounds 3] [--load 2.0] [--objective-ms N]

Each round measures the capacity (32 connections that always have a request open, no objective) and then sends
requests at a multiple of it, at random times, whether or not the earlier ones were answered. A latency counts
from the time a request was due. Server and client are on this machine and share its processors; the client's
share is printed.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 1024
LAYERS = 256
CONNECTIONS = 32
MAX_OPEN = 2000

CONFIG = """
max_batch_size: 8
instance_group {{ count: 2 }}
parameters {{ key: "latency_objective_microseconds" value {{ string_value: "{objective}" }} }}
"""


def models(repository: Path, objective_ms: int) -> None:
    """The same work twice, with an objective and without: some milliseconds a row."""
    generator = np.random.default_rng(0)
    names = ["x", *(f"h{index}" for index in range(1, LAYERS)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(LAYERS)]
    weights = numpy_helper.from_array(
        (generator.standard_normal((WIDTH, WIDTH)) / 32).astype(np.float32), "w"
    )
    tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in "xy"]
    graph = helper.make_graph(nodes, "work", tensor[:1], tensor[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name, objective in (("free", 0), ("paced", objective_ms * 1000)):
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        onnx.save(model, folder / "model.onnx")
        (folder.parent / "config.pbtxt").write_text(CONFIG.format(objective=objective))


def request(model: str) -> bytes:
    """An inference of one row, as bytes on the wire."""
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, WIDTH],
        "parameters": {"binary_data_size": 4 * WIDTH},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = head + np.ones(WIDTH, np.float32).tobytes()
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\n\r\n"
    ).encode() + body


class Connection:
    """Requests one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, address: str) -> "Connection":
        host, port = address.split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def send(self, message: bytes) -> int:
        """The status of the answer."""
        self.writer.write(message)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
        await self.reader.readexactly(length)
        return int(head[9:12])


async def capacity(address: str, seconds: float) -> float:
    """Requests a second that are answered when there is always one more."""
    message = request("free")
    begin = time.perf_counter()
    counted = 0

    async def loop() -> None:
        nonlocal counted
        connection = await Connection.open(address)
        while time.perf_counter() < begin + seconds:
            assert await connection.send(message) == 200
            counted += 1
        connection.writer.close()

    await asyncio.gather(*(loop() for _ in range(CONNECTIONS)))
    return counted / (time.perf_counter() - begin)


@dataclass
class Seen:
    """What became of requests: latencies by status."""

    latencies: dict[int, list[float]] = field(default_factory=dict)
    late_start: float = 0.0
    """The largest distance between when a request was due and when the client got to it."""


async def overload(address: str, rate: float, seconds: float) -> Seen:
    """Send at a rate, at random times."""
    message = request("paced")
    idle: list[Connection] = []
    seen = Seen()
    tasks = set()
    generator = random.Random(1)

    async def one(due: float) -> None:
        connection = idle.pop() if idle else await Connection.open(address)
        status = await connection.send(message)
        seen.latencies.setdefault(status, []).append(time.perf_counter() - due)
        idle.append(connection)

    due = begin = time.perf_counter()
    while due < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        seen.late_start = max(seen.late_start, time.perf_counter() - due)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        assert len(tasks) < MAX_OPEN, "the server does not keep up with refusing"
        due += generator.expovariate(rate)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.writer.close()
    return seen


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[int(len(values) * share)] * 1e3 if values else float("nan")


def used() -> float:
    """This process's processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(address: str, chosen: argparse.Namespace) -> None:
    """Print a line for each round, and the medians."""
    objective = chosen.objective_ms / 1e3
    await capacity(address, 1)
    await overload(address, 20, 2)
    goodputs, tails = [], []
    for _ in range(chosen.rounds):
        most = await capacity(address, chosen.seconds)
        before = used()
        seen = await overload(address, chosen.load * most, chosen.seconds)
        share = (used() - before) / chosen.seconds
        answered, refused = seen.latencies.get(200, []), seen.latencies.get(503, [])
        goodputs.append(sum(latency <= objective for latency in answered) / chosen.seconds / most)
        tails.append(percentile(answered, 0.99))
        print(
            f"capacity {most:5.0f}/s  offered {chosen.load * most:5.0f}/s  answered {len(answered)}, p50 "
            f"{percentile(answered, 0.5):.0f} ms, p99 {tails[-1]:.0f} ms  refused {len(refused)}, p50 "
            f"{percentile(refused, 0.5):.1f} ms, p99 {percentile(refused, 0.99):.0f} ms  goodput "
            f"{goodputs[-1]:.2f} of capacity  (client: {share:.2f} processors, late by up to "
            f"{seen.late_start * 1e3:.0f} ms)",
            flush=True,
        )
    print(
        f"median: goodput {statistics.median(goodputs):.2f} of capacity, "
        f"p99 {statistics.median(tails):.0f} ms, objective {chosen.objective_ms} ms"
    )


def main() -> None:
    """Serve, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument("--objective-ms", type=int, default=150)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        models(Path(name), chosen.objective_ms)
        command = [sys.executable, "-m", "capstan_serving", "--model-repository", name, "--host", "127.0.0.1"]
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        with subprocess.Popen(
            [*command, *ports], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as server:
            try:
                log = ""
                while "capstan_serving ready" not in log:
                    log += server.stderr.readline() or sys.exit(log)
                asyncio.run(measure(re.search(r"HTTP (\S+),", log)[1], chosen))
            finally:
                server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
