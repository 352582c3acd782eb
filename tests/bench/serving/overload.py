"""Twice as many requests as the server can answer: what is still answered in time, and how late that is."""

import shutil
import statistics

import load
import servers

OBJECTIVE = 100_000
"""Microseconds: some 25 times what the CNN takes."""

FLOOR = 0.9
CONNECTIONS = 128
"""Enough that waiting answers do not keep the generator from sending by the clock."""

FULL = 16
"""Connections that keep both workers busy with full batches, so that what is answered is all that can be."""

CONFIG = f"""\
max_batch_size: 8
input {{ name: "x" data_type: TYPE_FP32 dims: [ 3, 64, 64 ] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [ 10 ] }}
dynamic_batching {{ }}
parameters {{ key: "latency_objective_microseconds" value {{ string_value: "{OBJECTIVE}" }} }}
"""


def measure(case: servers.Case, seconds: int, rounds: int) -> list[str]:
    """Rows of the floors' table."""
    repository = case.folder / "overload"
    shutil.copytree(case.repository / "cnn", repository / "cnn")
    (repository / "cnn" / "config.pbtxt").write_text(CONFIG)
    limited = servers.Case(repository, "cnn", case.array, case.folder, case.peers)
    goodput, late = [], []
    with servers.ours(limited) as doors:
        door = doors[0]
        load.closed(door.request, FULL, seconds, door.pids)
        for _ in range(rounds):
            capacity = load.closed(door.request, FULL, seconds, door.pids)
            result = load.fixed(door.request, 2 * capacity.rate, CONNECTIONS, seconds, door.pids)
            goodput.append(result.rate / capacity.rate)
            late.append(result.p99)
            print(
                f"\n2x overload: capacity {capacity.rate:,.0f}/s; answered {result.rate:,.0f}/s,"
                f" refused {result.wrong / seconds:,.0f}/s, p50 {result.p50 / 1000:,.0f} ms,"
                f" p99 {result.p99 / 1000:,.0f} ms",
                flush=True,
            )
    share, p99 = statistics.median(goodput), statistics.median(late)
    much = "floor" if share >= FLOOR else "MISSED"
    soon = "floor" if p99 <= OBJECTIVE else "MISSED"
    return [
        f"| 2x overload, CNN: goodput of capacity | {share:.2f} | {FLOOR} | | {much} |",
        f"| 2x overload, CNN: p99 of the accepted | {p99 / 1e3:.0f} ms | {OBJECTIVE // 1000} ms | | {soon} |",
    ]
