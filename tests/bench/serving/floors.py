"""What the program asks of the server's speed, beside what was measured."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from load import Result

Results = dict[tuple[str, str], dict[str, list[Result]]]
"""By model and load, by server: a result a round."""

BARE = "bare ONNX Runtime, two threads"
SHARED = "capstan HTTP, shared memory"
ALONE = "bare ONNX Runtime, one thread"


def answered(ours: list[Result], theirs: list[Result]) -> list[tuple[Result, Result]]:
    """The rounds in which theirs has answered: one that refuses everything is no slower server."""
    return [(mine, other) for mine, other in zip(ours, theirs, strict=False) if other.rate]


@dataclass(frozen=True)
class Floor:
    """A row: what is divided by what or, for latencies, taken from it; what it must and should be."""

    work: str
    model: str
    load: str
    ours: str
    theirs: str
    floor: float
    goal: float
    is_latency: bool = False

    def measured(self, results: Results) -> float | None:
        """The median of the rounds; None when it was not measured, or theirs answered nothing rightly."""
        found = results.get((self.model, self.load), {})
        pairs = answered(found.get(self.ours, []), found.get(self.theirs, []))
        if not pairs:
            return None
        if self.is_latency:
            return statistics.median(ours.p50 - theirs.p50 for ours, theirs in pairs)
        return statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)

    def row(self, results: Results) -> str:
        """As Markdown."""
        value = self.measured(results)
        if value is None:
            return f"| {self.work} | not measured | {self.floor:g} | {self.goal:g} | |"
        better: Callable[[float], bool] = (
            (lambda wanted: value <= wanted) if self.is_latency else (lambda wanted: value >= wanted)
        )
        verdict = "goal" if better(self.goal) else "floor" if better(self.floor) else "MISSED"
        unit = " us" if self.is_latency else ""
        shown = f"{value:.0f}" if self.is_latency else f"{value:.2f}"
        return f"| {self.work} | {shown}{unit} | {self.floor:g}{unit} | {self.goal:g}{unit} | {verdict} |"


HTTP, GRPC = "capstan HTTP", "capstan gRPC"
ROWS = (
    Floor("CNN c32 against bare", "cnn", "32 connections", HTTP, BARE, 0.95, 0.99),
    Floor("transformer c32 against bare", "transformer", "32 connections", HTTP, BARE, 0.95, 0.99),
    Floor("MLP HTTP c32 against asyncio", "mlp", "32 connections", HTTP, "asyncio HTTP", 0.8, 1.2),
    Floor("MLP gRPC c32 against grpc.aio", "mlp", "32 connections", GRPC, "grpc.aio gRPC", 6, 9),
    Floor("MLP HTTP c32 against PyTriton", "mlp", "32 connections", HTTP, "PyTriton HTTP", 8, 12),
    Floor("MLP gRPC c32 against PyTriton", "mlp", "32 connections", GRPC, "PyTriton gRPC", 8, 12),
    Floor("MLP HTTP c32 against MLServer", "mlp", "32 connections", HTTP, "MLServer HTTP", 10, 15),
    Floor("MLP gRPC c32 against MLServer", "mlp", "32 connections", GRPC, "MLServer gRPC", 10, 15),
    Floor("MLP c1 p50 above asyncio", "mlp", "1 connections", HTTP, "asyncio HTTP", 40, 15, is_latency=True),
    Floor("1 MB HTTP c8 against asyncio", "identity", "8 connections", HTTP, "asyncio HTTP", 0.8, 1.0),
    Floor("1 MB gRPC c8 against grpc.aio", "identity", "8 connections", GRPC, "grpc.aio gRPC", 3, 4.5),
    Floor(
        "shared memory, 1 MB, above the inference", "identity", "1 connections", SHARED, ALONE, 150, 60, True
    ),
)


def slower(results: Results) -> list[str]:
    """Where a peer was faster than ours, or its 99th percentile lower: the median of the rounds."""
    found = []
    for (model, load), servers in results.items():
        for name, theirs in servers.items():
            ours = servers.get(GRPC if name.endswith("gRPC") else HTTP)
            if not ours or "capstan" in name or "bare" in name or "asyncio" in name or "grpc.aio" in name:
                continue
            pairs = answered(ours, theirs)
            if not pairs:
                continue
            rate = statistics.median(a.rate / b.rate for a, b in pairs)
            p99 = statistics.median(a.p99 / max(b.p99, 1e-9) for a, b in pairs)
            if rate < 0.98 or p99 > 1.02:
                found.append(f"{model}, {load}: {name}: {rate:.2f} of its rate, {p99:.2f} of its p99")
    return found


def table(results: Results, more: list[str]) -> str:
    """All rows, and where a peer was faster."""
    lines = ["", "### The floors", "", "| work | measured | floor | goal | |", "|---|---|---|---|---|"]
    lines += [row.row(results) for row in ROWS] + more
    faster = slower(results)
    lines += ["", "A peer was faster, or its p99 lower: " + ("nowhere." if not faster else "")]
    return "\n".join([*lines, *(f"- {line}" for line in faster)])
