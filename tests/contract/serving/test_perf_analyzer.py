"""NVIDIA's perf_analyzer, as its users run it: it reads configuration and statistics, and must find them."""

import csv
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.contract.serving.conftest import Serving

PEERS = Path(__file__).parents[2] / "bench" / "serving" / "peers"

WAYS = {
    "http": ["-i", "http"],
    "grpc": ["-i", "grpc"],
    "grpc, streaming": ["-i", "grpc", "--streaming"],
    "http, shared memory": ["-i", "http", "--shared-memory", "system"],
    "grpc, shared memory": ["-i", "grpc", "--shared-memory", "system"],
    "http, open loop": ["-i", "http", "--request-rate-range", "50"],
}


@pytest.fixture(scope="session")
def perf_analyzer() -> tuple[Path, dict[str, str]]:
    """The program, and the environment in which it finds its libraries."""
    cache = Path(os.environ.get("CAPSTAN_CACHE") or Path.home() / ".cache" / "capstan") / "peers"
    subprocess.run([PEERS / "install", cache, "perf_analyzer"], check=True)
    folder = cache / "perf_analyzer"
    cuda = folder / "lib" / "python3.11" / "site-packages" / "nvidia" / "cuda_runtime" / "lib"
    return folder / "bin" / "perf_analyzer", os.environ | {"LD_LIBRARY_PATH": f"{folder / 'lib'}:{cuda}"}


@pytest.fixture(scope="module")
def serving(repository):
    started = Serving(repository.path, "--allow-shared-memory")
    yield started.ready()
    started.close()


@pytest.mark.tools
@pytest.mark.parametrize("way", WAYS)
def test_perf_analyzer(serving, perf_analyzer, tmp_path, way):
    program, environment = perf_analyzer
    url = serving.http if "http" in way else serving.grpc
    table = tmp_path / "table.csv"
    command = [
        *(program, "-m", "mlp", "-u", url, *WAYS[way], "--shape", "x:1,4", "-f", table, "--verbose-csv"),
        *("--measurement-mode", "count_windows", "--measurement-request-count", "50"),
        *("--stability-percentage", "999", "--max-trials", "3"),
        *(() if "open" in way else ("--concurrency-range", "4")),
    ]
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"throughput: [1-9]", run.stdout), run.stdout
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert float(row["Inferences/Second"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    assert float(row["p99 latency"]) > 0
    print(run.stdout)
