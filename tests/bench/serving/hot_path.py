"""How near the server is to what it could be: bare ONNX Runtime, the fastest plain asyncio, and grpc.aio.

    uv run python tests/bench/serving/hot_path.py --python PYTHON [--seconds 3] [--rounds 5] [CASE ...]

Each case is a load on our server and the same load on its yardstick, turn by turn, so that what else the
machine does meets both; the ratio is the median of the rounds' ratios. Needs wrk and h2load (Debian: wrk,
nghttp2-client), and a Python with numpy, onnxruntime, uvloop, httptools, orjson, grpcio and tritonclient for
the yardsticks (baseline_*.py). All traffic is on loopback, and the load generator shares the processors with
the server.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
from tritonclient.grpc import service_pb2

HERE = Path(__file__).parent
DATATYPES = {"float32": "FP32", "int64": "INT64"}


@dataclass(frozen=True)
class Case:
    """A load, what it is held against, and what the program asks for."""

    name: str
    model: str
    door: str
    connections: int
    against: str
    floor: str

    @property
    def waits(self) -> bool:
        """With one connection it is the latency that matters."""
        return self.connections == 1


CASES = [
    Case("mlp-http-32", "mlp", "http", 32, "asyncio", "0.8 (1.2)"),
    Case("mlp-http-1", "mlp", "http", 1, "asyncio", "+40 us (+15 us)"),
    Case("mlp-grpc-32", "mlp", "grpc", 32, "grpc", "6 (9)"),
    Case("cnn-http-32", "cnn", "http", 32, "bare", "0.95 (0.99)"),
    Case("transformer-http-32", "transformer", "http", 32, "bare", "0.95 (0.99)"),
    Case("1mb-http-8", "identity", "http", 8, "asyncio", "0.8 (1.0)"),
    Case("1mb-grpc-8", "identity", "grpc", 8, "grpc", "3 (4.5)"),
]


@dataclass(frozen=True)
class Result:
    """Requests a second; the median latency and the server's processor time a request, in microseconds."""

    rate: float
    median: float
    processor: float


class Bodies:
    """Request bodies and the scripts that send them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in models.WIDTHS:
            array = models.sample(name)
            np.save(folder / f"{name}.npy", array)
            self._http(name, array)
            self._grpc(name, array)

    def _http(self, name: str, array: np.ndarray) -> None:
        tensor = {
            "name": "x",
            "datatype": DATATYPES[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        (self.folder / f"{name}.http").write_bytes(head + array.tobytes())
        (self.folder / f"{name}.lua").write_text(
            f'wrk.method = "POST"\nlocal f = io.open("{self.folder}/{name}.http", "rb")\n'
            f'wrk.body = f:read("*a")\nf:close()\n'
            f'wrk.headers["Inference-Header-Content-Length"] = "{len(head)}"\n'
            "done = function(summary, latency)\n"
            "  local e = summary.errors\n"
            '  io.write(string.format("RESULT %.1f %.1f %d\\n", summary.requests / summary.duration * 1e6,\n'
            "    latency:percentile(50), e.status + e.read + e.connect + e.write + e.timeout))\nend\n"
        )

    def _grpc(self, name: str, array: np.ndarray) -> None:
        request = service_pb2.ModelInferRequest(model_name=name)
        request.inputs.add(name="x", datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
        message = request.SerializeToString()
        content = b"\0" + struct.pack(">I", len(message)) + message
        (self.folder / f"{name}.grpc").write_bytes(content)

    def load_http(self, port: int, case: Case, seconds: int) -> tuple[float, float]:
        """wrk's rate and median latency."""
        url = f"http://127.0.0.1:{port}/v2/models/{case.model}/infer"
        script = str(self.folder / f"{case.model}.lua")
        command = ["wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "-s", script, url]
        output = _run(command)
        found = re.search(r"RESULT (\S+) (\S+) (\d+)", output)
        assert found, output
        assert found[3] == "0", output
        return float(found[1]), float(found[2])

    def load_grpc(self, port: int, case: Case, seconds: int) -> tuple[float, float]:
        """h2load's rate and mean latency."""
        url = f"http://127.0.0.1:{port}/inference.GRPCInferenceService/ModelInfer"
        command = ["h2load", "-t1", f"-c{case.connections}", "-m1", "-w24", "-W24", f"-D{seconds}"]
        command += ["-d", str(self.folder / f"{case.model}.grpc")]
        output = _run([*command, "-H", "content-type: application/grpc", "-H", "te: trailers", url])
        done, failed = re.search(r"(\d+) succeeded, (\d+) failed", output).groups()
        answered = int(re.search(r"\((\d+)\) data", output)[1])
        assert failed == "0", output
        assert answered > 20 * int(done), output
        rate = int(done) / seconds
        return rate, case.connections / rate * 1e6


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def processor_seconds(pid: int) -> float:
    """What a process has used: unlike its rate, this says something on a busy machine too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process whose output is read, killed at the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


Run = Callable[[Case], Result]


def measured(load: Callable[[int, Case, int], tuple[float, float]], port: int, pid: int, seconds: int) -> Run:
    """Run a load on a server."""

    def run(case: Case) -> Result:
        before = processor_seconds(pid)
        rate, median = load(port, case, seconds)
        return Result(rate, median, (processor_seconds(pid) - before) / (rate * seconds) * 1e6)

    return run


def compare(case: Case, ours: Run, theirs: Run, rounds: int) -> str:
    """A row of the table."""
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            second, first = theirs(case), ours(case)
        else:
            first, second = ours(case), theirs(case)
        pairs.append((first, second))

    def median(value: Callable[[Result], float], place: int) -> float:
        return statistics.median(value(pair[place]) for pair in pairs)

    if case.waits:
        ratio = f"{statistics.median(ours.median - theirs.median for ours, theirs in pairs):+.0f} us"
    else:
        ratio = f"{statistics.median(ours.rate / theirs.rate for ours, theirs in pairs):.2f}"
    figures = (
        f"{median(lambda result: result.rate, place):,.0f}/s"
        f" {median(lambda result: result.median, place):,.0f} us"
        f" {median(lambda result: result.processor, place):,.1f} us CPU"
        for place in (0, 1)
    )
    return "| " + " | ".join([case.name, *figures, case.against, ratio, case.floor]) + " |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default=sys.executable, help="the yardsticks' Python")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default=sys.executable, help="the Python that has capstan_serving")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    chosen = parser.parse_args()
    for tool in ("wrk", "h2load"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is needed: apt-get install wrk nghttp2-client")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        models.write(folder / "models")
        bodies = Bodies(folder)
        command = [chosen.server, "-m", "capstan_serving", "--model-repository", str(folder / "models")]
        ports = ["--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        ours = stack.enter_context(server(*command, *ports))
        log = ""
        while " ready" not in log:
            log += ours.stdout.readline() or sys.exit(log)
        http, grpc = map(int, re.search(r"HTTP \S+:(\d+), gRPC \S+:(\d+),", log).groups())
        doors = {"http": http, "grpc": grpc}
        loads = {"http": bodies.load_http, "grpc": bodies.load_grpc}

        def baseline(case: Case) -> Run:
            file = str(folder / "models" / case.model / "1" / "model.onnx")
            if case.against == "bare":

                def bare(case: Case) -> Result:
                    sample = str(folder / f"{case.model}.npy")
                    output = _run([chosen.python, str(HERE / "bare.py"), file, sample, str(chosen.seconds)])
                    rate, processor = map(float, output.split())
                    return Result(rate, 2e6 / rate, processor)

                return bare
            script = str(HERE / f"baseline_{case.against}.py")
            process = stack.enter_context(server(chosen.python, script, file))
            port = int(process.stdout.readline())
            return measured(loads[case.door], port, process.pid, chosen.seconds)

        print(f"load average {os.getloadavg()[0]:.1f}, {time.strftime('%F %T')}", flush=True)
        print(
            "| case | ours | theirs | yardstick | ratio | floor (goal) |\n|---|---|---|---|---|---|",
            flush=True,
        )
        for case in CASES:
            if chosen.cases and case.name not in chosen.cases:
                continue
            run = measured(loads[case.door], doors[case.door], ours.pid, chosen.seconds)
            print(compare(case, run, baseline(case), chosen.rounds), flush=True)
        print(f"load average {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
