"""Which server is checked, and the table at the end.

CONFORMANCE_URL and CONFORMANCE_GRPC name it (`make conformance URL=... GRPC=...`); without them a server of
our own is started on the model repository that the suite makes.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.conformance import models
from tests.conformance.target import CLIENTS, NOT_OFFERED, Client, Target

URL = os.environ.get("CONFORMANCE_URL", "")
GRPC = os.environ.get("CONFORMANCE_GRPC", "")

FLAGS = ("--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
OURS = (
    "--no-exit-on-error",
    "--allow-shared-memory",
    # Nobody listens there: what is checked is how tracing is switched.
    "--trace-otlp-endpoint",
    "http://127.0.0.1:9",
    "--model-control-mode",
    "explicit",
    "--load-model",
    "*",
)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The server that is checked."""
    if URL:
        yield Target(URL, GRPC or None)
        return
    repository = tmp_path_factory.mktemp("conformance")
    models.make(repository)
    command = [sys.executable, "-m", "capstan_serving", "--model-repository", str(repository), *FLAGS, *OURS]
    log = repository.with_suffix(".log")
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield Target(*_addresses(process, log))
        finally:
            process.terminate()


def _addresses(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    while "capstan_serving ready" not in log.read_text():
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the server ended:\n{log.read_text()}")
    match = re.search(r"listening: HTTP (\S+), gRPC (\S+), metrics", log.read_text())
    assert match, log.read_text()
    return match[1], match[2]


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, target: Target) -> Client:
    """Each of the four."""
    return Client(request.param, target)


@pytest.fixture(params=["grpc", "grpc.aio"])
def grpc_client(request: pytest.FixtureRequest, target: Target) -> Client:
    """Those over gRPC."""
    return Client(request.param, target)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has ended servers comes last, so that the other checks are told of."""
    items.sort(key=lambda item: item.get_closest_marker("hostile") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Our own server offers everything."""
    report = yield
    if not URL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", str(report.longrepr[2])  # type: ignore[index]
    return report


def _area(nodeid: str) -> str | None:
    match = re.search(r"tests/conformance/test_conformance_(\w+)\.py", nodeid)
    return match and match[1].replace("_", " ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table by area."""
    counts: dict[str, Counter[str]] = {}
    missing: Counter[str] = Counter()
    for outcome, column in (
        ("passed", "passed"),
        ("failed", "failed"),
        ("error", "failed"),
        ("skipped", "not"),
    ):
        for report in terminalreporter.stats.get(outcome, []):
            area = _area(report.nodeid)
            if area:
                counts.setdefault(area, Counter())[column] += 1
                if column == "not":
                    missing[report.longrepr[2].partition(NOT_OFFERED)[2]] += 1
    if not counts:
        return
    terminalreporter.section(f"conformance of {URL or 'capstan-serving'}")
    terminalreporter.write_line(f"{'area':20}{'passed':>8}{'failed':>8}{'not offered':>13}")
    for area, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        terminalreporter.write_line(f"{area:20}{count['passed']:8}{count['failed']:8}{count['not']:13}")
    for reason, number in missing.most_common():
        terminalreporter.write_line(f"not offered, {number} checks: {reason}")
