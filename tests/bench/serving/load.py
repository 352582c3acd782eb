"""Load on a server: closed loops by wrk and h2load, fixed rates by h2load; how long answers took, and
what the generator itself used.

Both are C and event-driven, with one thread. A generator that keeps that thread busy would measure
itself: its share of a processor is part of every result, and compare.py marks what is above 0.9.
"""

import json
import math
import os
import re
import resource
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2

DATATYPES = {"float32": "FP32", "int64": "INT64"}
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Result:
    """What was answered rightly in a second, latencies in microseconds, and shares of a processor."""

    rate: float
    p50: float
    p99: float
    wrong: int
    server: float
    """Processor time of the server a request, in microseconds."""
    generator: float
    """Of one processor, what the generator used."""


@dataclass(frozen=True)
class Request:
    """A request as the generators send it."""

    url: str
    body: Path
    headers: dict[str, str]

    @property
    def is_grpc(self) -> bool:
        """Framed, over HTTP/2."""
        return "application/grpc" in self.headers.values()


def oip_binary(port: int, model: str, array: np.ndarray, folder: Path) -> Request:
    """The protocol's binary tensors over HTTP."""
    tensor = {
        "name": "x",
        "datatype": DATATYPES[array.dtype.name],
        "shape": array.shape,
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return Request(url, _file(folder, f"{model}-{port}.http", head + array.tobytes()), headers)


def oip_json(port: int, model: str, array: np.ndarray, folder: Path, path: str = "") -> Request:
    """The protocol's JSON, for servers without binary tensors."""
    tensor = {
        "name": "x",
        "datatype": DATATYPES[array.dtype.name],
        "shape": array.shape,
        "data": array.ravel().tolist(),
    }
    url = f"http://127.0.0.1:{port}{path or f'/v2/models/{model}/infer'}"
    body = json.dumps({"inputs": [tensor]}).encode()
    return Request(url, _file(folder, f"{model}-{port}.json", body), {"Content-Type": "application/json"})


def plain_json(port: int, model: str, array: np.ndarray, folder: Path) -> Request:
    """BentoML's."""
    body = json.dumps({"x": array.tolist()}).encode()
    url = f"http://127.0.0.1:{port}/predict"
    return Request(url, _file(folder, f"{model}-{port}.json", body), {"Content-Type": "application/json"})


def grpc(port: int, model: str, array: np.ndarray, folder: Path) -> Request:
    """A framed message with raw contents."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype=DATATYPES[array.dtype.name], shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    message = request.SerializeToString()
    body = _file(folder, f"{model}-{port}.grpc", b"\0" + struct.pack(">I", len(message)) + message)
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return Request(f"http://127.0.0.1:{port}{GRPC_PATH}", body, headers)


@contextmanager
def shared_memory(port: int, model: str, array: np.ndarray, folder: Path) -> Iterator[Request]:
    """Both tensors in regions that this process makes, and registers; the request only names them."""
    handles = []
    for name in ("bench-x", "bench-y"):
        handle = shm.create_shared_memory_region(name, f"/{name}-{port}", array.nbytes)
        shm.set_shared_memory_region(handle, [array])
        handles.append(handle)
        body = json.dumps({"key": f"/{name}-{port}", "byte_size": array.nbytes}).encode()
        url = f"http://127.0.0.1:{port}/v2/systemsharedmemory/region/{name}/register"
        urllib.request.urlopen(url, body).close()
    region = {"shared_memory_byte_size": array.nbytes}
    tensor = {
        "name": "x",
        "datatype": DATATYPES[array.dtype.name],
        "shape": array.shape,
        "parameters": region | {"shared_memory_region": "bench-x"},
    }
    output = {"name": "y", "parameters": region | {"shared_memory_region": "bench-y"}}
    body = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    try:
        yield Request(url, _file(folder, f"{model}-{port}.shm", body), {"Content-Type": "application/json"})
    finally:
        for handle in handles:
            shm.destroy_shared_memory_region(handle)


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def processor_seconds(pids: Sequence[int]) -> float:
    """What processes and their children have used."""
    ticks = 0
    for pid in family(pids):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def family(pids: Sequence[int]) -> set[int]:
    """Processes, their children, and theirs."""
    found = set(pids)
    for pid in pids:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found |= family([int(child) for child in children.read_text().split()])
    return found


def closed(request: Request, connections: int, seconds: int, pids: Sequence[int]) -> Result:
    """As many requests as so many connections can have answered, one at a time on each."""
    if request.is_grpc:
        return _h2load(request, connections, pids, [f"-D{seconds}"], (0, seconds))
    script = request.body.with_suffix(".lua")
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.headers.items())
    script.write_text(
        f'wrk.method = "POST"\nlocal f = io.open("{request.body}", "rb")\n'
        'wrk.body = f:read("*a")\nf:close()\n'
        f"{headers}done = function(summary, latency)\n  local e = summary.errors\n"
        '  io.write(string.format("RESULT %d %d %.1f %.1f %d\\n", summary.requests, summary.duration,\n'
        "    latency:percentile(50), latency:percentile(99),\n"
        "    e.status + e.read + e.connect + e.write + e.timeout))\nend\n"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    output, server, generator = _run([*command, request.url], pids)
    found = re.search(r"RESULT (\d+) (\d+) (\S+) (\S+) (\d+)", output)
    assert found, output
    done, took, wrong = int(found[1]), int(found[2]) / 1e6, int(found[5])
    good = done - wrong
    cost = server / max(done, 1) * 1e6
    return Result(good / took, float(found[3]), float(found[4]), wrong, cost, generator)


def fixed(request: Request, rate: float, connections: int, seconds: int, pids: Sequence[int]) -> Result:
    """So many requests a second, whatever the server does: each connection sends by the clock.

    The connections begin one after another within one period of that clock. Begun together, as h2load does
    by itself, they would send a burst once a period, of which a server can answer in time only what it can
    do in that time.
    """
    period = connections / rate
    step = max(1, int(1000 * period / connections))
    at_once = max(1, round(step * rate / 1000))
    each = math.ceil(seconds / period) + 1
    options = ["-n", str(each * connections), "--rps", f"{1 / period:g}"]
    options += ["-r", str(at_once), f"--rate-period={step}ms"]
    return _h2load(request, connections, pids, options, (period, (each - 1) * period))


def _h2load(
    request: Request,
    connections: int,
    pids: Sequence[int],
    options: Sequence[str],
    window: tuple[float, float],
) -> Result:
    """The window of what counts: after so many seconds, for so many."""
    log = request.body.with_suffix(".log")
    log.unlink(missing_ok=True)
    command = ["h2load", "-t1", f"-c{connections}", "-m1", "-d", str(request.body), *options]
    command += ["-w24", "-W24"] if request.is_grpc else ["--h1"]
    for name, value in request.headers.items():
        command += ["-H", f"{name}: {value}"]
    output, server, generator = _run([*command, f"--log-file={log}", request.url], pids)
    rows = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    cost = server / max(len(rows), 1) * 1e6
    data = int(re.search(r"\((\d+)\) data", output)[1])
    # A failed gRPC call is a status in a trailer, which h2load does not read: then there is no body.
    if request.is_grpc and data < 20 * len(rows):
        return Result(0, 0, 0, len(rows), 0, generator)
    after, seconds = window
    begin = min((started for started, *_ in rows), default=0) + after * 1e6
    counted = [row for row in rows if begin <= row[0] < begin + seconds * 1e6]
    latencies = np.array([latency for _, status, latency in counted if status == 200] or [0])
    good = sum(status == 200 for _, status, _ in counted)
    p50, p99 = np.percentile(latencies, [50, 99])
    return Result(good / seconds, float(p50), float(p99), len(counted) - good, cost, generator)


def _run(command: list[str], pids: Sequence[int]) -> tuple[str, float, float]:
    """Its output, the processor time of the servers meanwhile, and the command's own share of a processor."""
    before, own, began = processor_seconds(pids), _children(), time.monotonic()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    share = (_children() - own) / (time.monotonic() - began)
    return output, processor_seconds(pids) - before, share


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
