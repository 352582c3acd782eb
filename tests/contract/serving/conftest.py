"""A real `capstan-serving` process on loopback ports of the system's choice, and the models it serves."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conformance import models


class Serving:
    """A server process. Its log is kept, and shown when it does not become ready."""

    def __init__(self, repository: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        command = [
            *(sys.executable, "-m", "capstan_serving", "--model-repository", str(repository)),
            *("--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
            *arguments,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("(end)\n")
            self._news.notify_all()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        with self._news:
            done = self._news.wait_for(
                lambda: re.search(pattern, self.log) or "(end)\n" in self.lines, timeout
            )
            match = re.search(pattern, self.log)
            assert done, f"no {pattern!r} in {timeout} s:\n{self.log}"
            assert match, f"it ended without {pattern!r}:\n{self.log}"
            return match

    def ready(self) -> "Serving":
        ports = self.wait_for(r"listening: HTTP \S+:(\d+), gRPC \S+:(\d+), metrics \S+:(\d+)")
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{port}" for port in ports.groups())
        self.wait_for(r"capstan_serving ready")
        return self

    @property
    def port(self) -> int:
        return int(self.http.rpartition(":")[2])

    def get(self, path: str) -> tuple[int, bytes]:
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://{self.http}{path}", body, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def scrape(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def memory(self) -> int:
        """Bytes resident."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def until(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        assert self.process.stdout
        self.process.stdout.close()


class Repository:
    """A model repository that tests fill."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str, version: int | str = 1) -> Path:
        return self.path / name / str(version) / "model.onnx"

    def add(
        self,
        name: str,
        nodes: list[onnx.NodeProto],
        inputs: list[models.Tensor],
        outputs: list[models.Tensor],
        constants: dict[str, np.ndarray] | None = None,
        version: int = 1,
    ) -> Path:
        file = self.file(name, version)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(models.model(name, nodes, inputs, outputs, constants))
        return file

    def add_identity(self, name: str, datatype: str, shape: list[int | str], version: int = 1) -> Path:
        kind = models.DATATYPES[datatype]
        node = helper.make_node("Identity", ["x"], ["y"])
        return self.add(name, [node], [("x", kind, shape)], [("y", kind, shape)], version=version)

    def add_spin(self) -> Path:
        """`spin` multiplies matrices as often as its input says: a model that is as slow as a test wants."""
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["v", "m"], ["product"]),
                helper.make_node("Tanh", ["product"], ["v_out"]),
                helper.make_node("Identity", ["go"], ["go_out"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v", TensorProto.FLOAT, [256, 256]),
            ],
            [
                helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [256, 256]),
            ],
        )
        nodes = [
            helper.make_node("Squeeze", ["n"], ["count"]),
            helper.make_node("Loop", ["count", "", "m"], ["last"], body=body),
            helper.make_node("ReduceMean", ["last"], ["y"], keepdims=0),
        ]
        matrix = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
        return self.add(
            "spin", nodes, [("n", TensorProto.INT64, [1])], [("y", TensorProto.FLOAT, [])], {"m": matrix}
        )

    def add_tables(self) -> None:
        """Models with weights, several inputs and outputs, and a table that an index can miss."""
        generator = np.random.default_rng(1)
        self.add(
            "mlp",
            [
                helper.make_node("MatMul", ["x", "w"], ["h"]),
                helper.make_node("Add", ["h", "b"], ["s"]),
                helper.make_node("Relu", ["s"], ["y"]),
            ],
            [("x", TensorProto.FLOAT, ["batch", 4])],
            [("y", TensorProto.FLOAT, ["batch", 3])],
            {
                "w": generator.standard_normal((4, 3)).astype(np.float32),
                "b": generator.standard_normal(3).astype(np.float32),
            },
        )
        self.add(
            "sums",
            [
                helper.make_node("Add", ["a", "b"], ["sum"]),
                helper.make_node("Sub", ["a", "b"], ["difference"]),
            ],
            [("a", TensorProto.INT32, ["n", "m"]), ("b", TensorProto.INT32, ["n", "m"])],
            [("sum", TensorProto.INT32, ["n", "m"]), ("difference", TensorProto.INT32, ["n", "m"])],
        )
        self.add(
            "lookup",
            [helper.make_node("Gather", ["table", "index"], ["row"])],
            [("index", TensorProto.INT64, ["batch"])],
            [("row", TensorProto.FLOAT, ["batch", 2])],
            {"table": np.arange(8, dtype=np.float32).reshape(4, 2)},
        )


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Every model that the shared server serves."""
    repository = Repository(tmp_path_factory.mktemp("repository"))
    for datatype in models.DATATYPES:
        repository.add_identity(f"identity_{datatype.lower()}", datatype, ["n", "m"])
    repository.add_identity("big", "FP32", ["n", 262144])
    repository.add_identity("versions", "FP32", [1], version=2)
    repository.add_identity("versions", "FP32", [2], version=10)
    repository.add_spin()
    repository.add_tables()
    return repository


@pytest.fixture(scope="session")
def server(repository: Repository) -> Iterator[Serving]:
    serving = Serving(repository.path, "--max-request-bytes", str(8 << 20))
    try:
        yield serving.ready()
    finally:
        serving.close()


@pytest.fixture(scope="session")
def sharing(repository: Repository) -> Iterator[Serving]:
    """A server of the same models that takes tensors in shared memory."""
    serving = Serving(repository.path, "--allow-shared-memory", "--max-request-bytes", str(8 << 20))
    try:
        yield serving.ready()
    finally:
        serving.close()


@pytest.fixture
def own_repository(tmp_path: Path) -> Repository:
    """A repository of the test's own."""
    path = tmp_path / "repository"
    path.mkdir()
    return Repository(path)


@pytest.fixture
def start() -> Iterator[Callable[..., Serving]]:
    """Start servers of the test's own; they are gone after it."""
    started: list[Serving] = []

    def start(repository: Repository, *arguments: str, **options: dict[str, str]) -> Serving:
        started.append(Serving(repository.path, *arguments, **options))
        return started[-1]

    yield start
    for serving in started:
        serving.close()
