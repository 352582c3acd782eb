"""`make bench`: our server beside the yardsticks and the peers, turn by turn on one machine, and the
ratios.

    tests/bench/serving/compare.py --peers DIR [--seconds 2] [--rounds 5] [--only mlp,cnn] [--servers ...]

DIR has what peers/install made. Needs wrk and h2load (Debian: wrk, nghttp2-client). For each model all
servers are started, and every round loads each of them in turn, in an order of its own, so that what
else the machine does meets all; a figure is the median of its rounds, and a ratio the median of the
rounds' ratios. As root, everything measured runs at a priority (--nice) above what else the machine
does.
"""

import argparse
import atexit
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from pathlib import Path

import floors
import load
import models
import numpy as np
import overload
import servers
from load import Result
from servers import Case, Door

CONNECTIONS = {"mlp": (1, 8, 32), "transformer": (1, 8, 32), "cnn": (1, 8, 32), "identity": (1, 8)}
RATES = {"mlp": (1000, 4000), "transformer": (200,), "cnn": (40,), "identity": (50,)}
"""Requests a second, in the open loop."""

OPEN_CONNECTIONS = 32
FULL = 0.9
"""A generator that uses more of its one thread is what was measured."""

AUTOGROUP = Path("/proc/self/autogroup")


def prefer(nice: int) -> None:
    """This session before all others: Linux may weigh processes by session before their own priority."""
    os.nice(nice)
    if AUTOGROUP.exists():
        before = AUTOGROUP.read_text().split()[-1]
        AUTOGROUP.write_text(str(nice))
        atexit.register(AUTOGROUP.write_text, before)


def bare(case: Case, seconds: int) -> Result:
    """`session.run` from two threads, with nothing around it."""
    np_file = case.folder / f"{case.model}.npy"
    python = case.peers / "baseline" / "bin" / "python"
    command = [python, servers.HERE / "bare.py", case.file, np_file, str(seconds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate, cost = map(float, output.split()[:2])
    return Result(rate, 2e6 / rate, 0, 0, cost, 0)


def rounds(turns: dict[str, Callable[[], Result]], number: int) -> dict[str, list[Result]]:
    """Every one, once a round, in an order of its own."""
    found: dict[str, list[Result]] = {name: [] for name in turns}
    for _ in range(number):
        for name in random.sample(list(turns), len(turns)):
            found[name].append(turns[name]())
    return found


def median(results: list[Result], value: Callable[[Result], float]) -> float:
    """Of the rounds."""
    return statistics.median(value(result) for result in results)


def table(title: str, found: dict[str, list[Result]]) -> None:
    """One load, all servers, and what part of ours each has."""
    print(f"\n### {title}\n", flush=True)
    print("| server | requests/s | ours over it | p50 us | p99 us | CPU us a request | wrong | generator |")
    print("|---|---|---|---|---|---|---|---|")
    for name, results in sorted(found.items(), key=lambda item: -median(item[1], lambda r: r.rate)):
        ours = found.get("capstan gRPC" if name.endswith("gRPC") else "capstan HTTP", results)
        pairs = floors.answered(ours, results)
        ratio = statistics.median(a.rate / b.rate for a, b in pairs) if pairs else inf
        generator = max(result.generator for result in results)
        print(
            f"| {name} | {median(results, lambda r: r.rate):,.0f} | {ratio:.2f}"
            f" | {median(results, lambda r: r.p50):,.0f} | {median(results, lambda r: r.p99):,.0f}"
            f" | {median(results, lambda r: r.server):,.1f} | {sum(result.wrong for result in results)}"
            f" | {generator:.2f}{' FULL' if generator > FULL else ''} |",
            flush=True,
        )


def alone(case: Case, seconds: int) -> Result:
    """The inference itself, one at a time."""
    session = servers.session(case.file)
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        session.run(None, {"x": case.array})
        took.append((time.perf_counter() - began) * 1e6)
    p50, p99 = np.percentile(took, [50, 99])
    return Result(len(took) / seconds, float(p50), float(p99), 0, float(np.mean(took)), 0)


def compare(case: Case, names: list[str], seconds: int, number: int, results: floors.Results) -> None:
    """All loads of a model."""

    def run(label: str, turns: dict[str, Callable[[], Result]]) -> None:
        found = results[case.model, label] = rounds(turns, number)
        table(f"{case.model}, {label}", found)

    with ExitStack() as stack:
        doors: list[Door] = []
        for name in names:
            try:
                doors += stack.enter_context(servers.ALL[name](case))
            except (OSError, TimeoutError) as error:
                print(f"\n{name} did not start: {error}", flush=True)
        for door in doors:
            load.closed(door.request, 2, 1, door.pids)

        def closed(door: Door, connections: int) -> Callable[[], Result]:
            return lambda: load.closed(door.request, connections, seconds, door.pids)

        def fixed(door: Door, rate: float) -> Callable[[], Result]:
            return lambda: load.fixed(door.request, rate, OPEN_CONNECTIONS, seconds, door.pids)

        for connections in CONNECTIONS[case.model]:
            turns = {door.name: closed(door, connections) for door in doors}
            if connections == max(CONNECTIONS[case.model]):
                turns[floors.BARE] = lambda: bare(case, seconds)
            if connections == 1:
                turns[floors.ALONE] = lambda: alone(case, seconds)
            run(f"{connections} connections", turns)
        for rate in RATES[case.model]:
            run(f"{rate} requests a second", {door.name: fixed(door, rate) for door in doors})


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(models.WIDTHS))
    parser.add_argument("--servers", default=",".join(servers.ALL))
    parser.add_argument("--nice", type=int, default=-10, help="the priority of all that is measured; as root")
    chosen = parser.parse_args()
    if os.geteuid() == 0:
        prefer(chosen.nice)
    results: floors.Results = {}
    overloaded: list[str] = []
    for tool in ("wrk", "h2load"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is needed: apt-get install wrk nghttp2-client")
    print(f"{time.strftime('%F %T')}, {os.cpu_count()} cores, {platform.processor() or platform.machine()},")
    print(f"load average before {os.getloadavg()[0]:.1f}; {chosen.rounds} rounds of {chosen.seconds} s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in chosen.only.split(","):
            array = models.sample(model)
            np.save(folder / f"{model}.npy", array)
            repository = folder / model
            models.write(repository)
            for other in models.WIDTHS:
                if other != model:
                    shutil.rmtree(repository / other)
            case = Case(repository, model, array, folder, chosen.peers.resolve())
            compare(case, chosen.servers.split(","), chosen.seconds, chosen.rounds, results)
            if model == "cnn":
                overloaded = overload.measure(case, chosen.seconds, chosen.rounds)
    print(floors.table(results, overloaded))
    print(f"\nload average after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
