"""The servers that are compared: ours, the yardsticks, and the peers, each serving one model on loopback."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import floors
import load
import numpy as np
import onnxruntime as ort

HERE = Path(__file__).parent
PEERS = HERE / "peers"
SHARED = "identity"
"""The model whose tensors also travel through shared memory."""


@dataclass(frozen=True)
class Case:
    """What a server serves in a benchmark, and where it may write."""

    repository: Path
    model: str
    array: np.ndarray
    folder: Path
    peers: Path

    @property
    def file(self) -> Path:
        """The model."""
        return self.repository / self.model / "1" / "model.onnx"


@dataclass(frozen=True)
class Door:
    """A way into a server."""

    name: str
    request: load.Request
    pids: tuple[int, ...]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def session(file: Path) -> ort.InferenceSession:
    """With the server's own settings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@contextmanager
def _process(
    case: Case, name: str, *command: str | Path, environment: dict[str, str] | None = None, cwd: Path = PEERS
) -> Iterator[tuple[int, IO[str]]]:
    """Its id and its log, from the beginning; it ends with its family, other groups of processes too."""
    log = case.folder / f"{name}-{case.model}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=os.environ | (environment or {}),
            process_group=0,
        )
    try:
        with log.open() as reader:
            yield process.pid, reader
    finally:
        for pid in load.family([process.pid]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _until(condition: Callable[[], bool], log: IO[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            log.seek(0)
            raise TimeoutError(f"{log.name}: {log.read()[-3000:]}")
        time.sleep(0.1)


def _answers(request: load.Request) -> bool:
    sent = urllib.request.Request(request.url, request.body.read_bytes(), request.headers)
    try:
        with urllib.request.urlopen(sent, timeout=30) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def ours(case: Case, *arguments: str) -> Iterator[list[Door]]:
    """capstan-serving as it starts by default."""
    ports = [
        "--host",
        "127.0.0.1",
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        "--metrics-port",
        "0",
        "--allow-shared-memory",
    ]
    command = ["-m", "capstan_serving", "--model-repository", case.repository, *ports, *arguments]
    with ExitStack() as stack:
        pid, log = stack.enter_context(_process(case, "capstan", sys.executable, *command))
        text: list[str] = []

        def ready() -> bool:
            text.append(log.read())
            return "capstan_serving ready" in "".join(text)

        _until(ready, log)
        http, grpc = re.search(r"HTTP \S+:(\d+), gRPC \S+:(\d+),", "".join(text)).groups()
        shared = []
        if case.model == SHARED and _shares_memory(int(http)):
            request = stack.enter_context(load.shared_memory(int(http), case.model, case.array, case.folder))
            shared = [Door(floors.SHARED, request, (pid,))]
        yield [
            *shared,
            Door("capstan HTTP", load.oip_binary(int(http), case.model, case.array, case.folder), (pid,)),
            Door("capstan gRPC", load.grpc(int(grpc), case.model, case.array, case.folder), (pid,)),
        ]


def _shares_memory(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2") as answer:
        return "system_shared_memory" in json.load(answer)["extensions"]


@contextmanager
def _baseline(case: Case, name: str, script: str) -> Iterator[tuple[int, int]]:
    python = case.peers / "baseline" / "bin" / "python"
    with _process(case, name, python, "-u", HERE / script, case.file) as (pid, log):
        text: list[str] = []

        def printed() -> bool:
            text.append(log.read())
            return "\n" in "".join(text)

        _until(printed, log)
        yield pid, int("".join(text))


@contextmanager
def asyncio_protocol(case: Case) -> Iterator[list[Door]]:
    """The minimal server on asyncio.Protocol, uvloop and httptools."""
    with _baseline(case, "asyncio", "baseline_asyncio.py") as (pid, port):
        yield [Door("asyncio HTTP", load.oip_binary(port, case.model, case.array, case.folder), (pid,))]


@contextmanager
def grpc_aio(case: Case) -> Iterator[list[Door]]:
    """The minimal server on grpc.aio."""
    with _baseline(case, "grpc-aio", "baseline_grpc.py") as (pid, port):
        yield [Door("grpc.aio gRPC", load.grpc(port, case.model, case.array, case.folder), (pid,))]


@contextmanager
def mlserver(case: Case) -> Iterator[list[Door]]:
    """MLServer without its pool of processes, which costs the MLP more than four times the processor time.

    It costs the transformer 1.4 times, but can then use both processors: how much that gains is not measured.
    """
    folder = case.folder / f"mlserver-{case.model}"
    (folder / case.model).mkdir(parents=True)
    http, grpc, metrics = free_port(), free_port(), free_port()
    settings = {"debug": False, "parallel_workers": 0, "host": "127.0.0.1", "grpc_max_message_length": -1}
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps(settings | ports))
    model = {"name": case.model, "implementation": "mlserver_model.OnnxModel"}
    parameters = {"parameters": {"uri": str(case.file)}}
    (folder / case.model / "model-settings.json").write_text(json.dumps(model | parameters))
    program = case.peers / "mlserver" / "bin" / "mlserver"
    path = {"PYTHONPATH": str(PEERS)}
    with _process(case, "mlserver", program, "start", folder, environment=path, cwd=folder) as (pid, log):
        request = load.oip_json(http, case.model, case.array, case.folder)
        _until(lambda: _answers(request), log)
        yield [
            Door("MLServer HTTP", request, (pid,)),
            Door("MLServer gRPC", load.grpc(grpc, case.model, case.array, case.folder), (pid,)),
        ]


@contextmanager
def litserve(case: Case) -> Iterator[list[Door]]:
    """LitServe with two workers."""
    port = free_port()
    python = case.peers / "litserve" / "bin" / "python"
    with _process(case, "litserve", python, PEERS / "litserve_server.py", case.file, str(port)) as (pid, log):
        request = load.oip_json(port, case.model, case.array, case.folder, "/predict")
        _until(lambda: _answers(request), log)
        yield [Door("LitServe HTTP", request, (pid,))]


@contextmanager
def bentoml(case: Case) -> Iterator[list[Door]]:
    """BentoML with two workers."""
    port = free_port()
    program = case.peers / "bentoml" / "bin" / "bentoml"
    command = [program, "serve", "bentoml_server:Service", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"MODEL": str(case.file), "BENTOML_DO_NOT_TRACK": "1"}
    with _process(case, "bentoml", *command, environment=environment) as (pid, log):
        request = load.plain_json(port, case.model, case.array, case.folder)
        _until(lambda: _answers(request), log)
        yield [Door("BentoML HTTP", request, (pid,))]


@contextmanager
def pytriton(case: Case) -> Iterator[list[Door]]:
    """PyTriton with two workers."""
    http, grpc = free_port(), free_port()
    python = case.peers / "pytriton" / "bin" / "python"
    command = [python, PEERS / "pytriton_server.py", case.file, str(http), str(grpc)]
    path = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    with _process(case, "pytriton", *command, environment=path) as (pid, log):
        request = load.oip_binary(http, case.model, case.array, case.folder)
        _until(lambda: _answers(request), log)
        yield [
            Door("PyTriton HTTP", request, (pid,)),
            Door("PyTriton gRPC", load.grpc(grpc, case.model, case.array, case.folder), (pid,)),
        ]


ALL = {
    "capstan": ours,
    "asyncio": asyncio_protocol,
    "grpc": grpc_aio,
    "mlserver": mlserver,
    "litserve": litserve,
    "bentoml": bentoml,
    "pytriton": pytriton,
}
