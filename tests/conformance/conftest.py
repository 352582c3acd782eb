"""Which server is checked, and the table at the end.

CONFORMANCE_URL and CONFORMANCE_GRPC name it (`make conformance URL=... GRPC=...`); without them a server of
our own is started on the model repository that the suite makes.
"""

import os
import re
from collections import Counter
from collections.abc import Generator, Iterator

import pytest

from tests.conformance import models
from tests.conformance.server import Server
from tests.conformance.target import CLIENTS, NOT_OFFERED, Client, Target

URL = os.environ.get("CONFORMANCE_URL", "")
GRPC = os.environ.get("CONFORMANCE_GRPC", "")

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
    with Server(repository, *OURS) as server:
        yield Target(server.http, server.grpc, is_ours=True)


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
    columns: dict[str, str] = {}
    missing: Counter[str] = Counter()
    for outcome, column in (
        ("passed", "passed"),
        ("skipped", "not"),
        ("failed", "failed"),
        ("error", "failed"),  # also of a check that has passed or failed before: it counts once
    ):
        for report in terminalreporter.stats.get(outcome, []):
            if _area(report.nodeid):
                columns[report.nodeid] = column
                if column == "not":
                    missing[report.longrepr[2].partition(NOT_OFFERED)[2]] += 1
    if not columns:
        return
    counts: dict[str, Counter[str]] = {}
    for nodeid, column in columns.items():
        counts.setdefault(_area(nodeid) or "", Counter())[column] += 1
    terminalreporter.section(f"conformance of {URL or 'capstan-serving'}")
    terminalreporter.write_line(f"{'area':20}{'passed':>8}{'failed':>8}{'not offered':>13}")
    for area, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        terminalreporter.write_line(f"{area:20}{count['passed']:8}{count['failed']:8}{count['not']:13}")
    for reason, number in missing.most_common():
        terminalreporter.write_line(f"not offered, {number} checks: {reason}")
