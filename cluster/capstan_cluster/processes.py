"""Starts the cluster's processes and finds them again, without files of process ids.

Each process carries in its environment which cluster and which component it is. That is where it is looked
for, so there is no file that can be stale, name a process that has since been given the same id, or be
missing because we died between starting a process and writing it down.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from capstan_cluster.components import Component
from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError

CLUSTER = "CAPSTAN_CLUSTER_OWNER"
COMPONENT = "CAPSTAN_CLUSTER_COMPONENT"
GENERATION = "CAPSTAN_CLUSTER_GENERATION"
PROC = Path("/proc")

_children: list[subprocess.Popen[bytes]] = []  # kept: they are meant to outlive us, which Popen would warn of


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a cluster. `started` is in clock ticks since the machine started."""

    pid: int
    started: int
    program: str
    component: str
    generation: str
    leads_session: bool


def of_cluster(config: Config, proc: Path = PROC) -> list[Process]:
    """Every process of the cluster: its components, their children and the containers' shims."""
    found = (process_at(entry, str(config.state_dir)) for entry in proc.iterdir() if entry.name.isdigit())
    return sorted((process for process in found if process), key=lambda process: process.started)


def process_at(entry: Path, owner: str) -> Process | None:
    """The process at /proc/<pid>, when it belongs to the cluster of the state directory `owner`."""
    try:
        environment = _environment((entry / "environ").read_bytes())
        if environment.get(CLUSTER) != owner:
            return None
        # the second field, the name in parentheses, may itself hold parentheses and spaces
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
        program = str((entry / "exe").readlink()).removesuffix(" (deleted)").rpartition("/")[2]
    except (OSError, IndexError):
        return None  # it ended while we looked, or is the kernel's
    if fields[0] in "ZX":
        return None
    return Process(
        pid=int(entry.name),
        started=int(fields[19]),
        program=program,
        component=environment.get(COMPONENT, ""),
        generation=environment.get(GENERATION, ""),
        leads_session=fields[3] == entry.name,
    )


def _environment(content: bytes) -> dict[str, str]:
    pairs = (item.partition(b"=") for item in content.split(b"\0") if b"=" in item)
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}


def of_component(component: Component, processes: Iterable[Process]) -> list[Process]:
    """Its processes: one, unless two were started. Children share its environment, but lead no session."""
    program = Path(component.argv[0]).name
    return [
        process
        for process in processes
        if process.component == component.name and process.program == program and process.leads_session
    ]


def start(config: Config, component: Component, generation: str) -> subprocess.Popen[bytes]:
    """Start a component in a session of its own, so that it outlives us; its log is appended to."""
    log = config.log(component.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(component.argv[0]).parent
    environment = {
        "PATH": f"{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(config.state_dir),
        CLUSTER: str(config.state_dir),
        COMPONENT: component.name,
        GENERATION: generation,
        **{name: os.environ[name] for name in component.inherits if name in os.environ},
    }
    with log.open("ab") as output:
        child = subprocess.Popen(
            component.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=config.state_dir,
            start_new_session=True,
        )
    _children.append(child)
    return child


def exists(config: Config, process: Process) -> bool:
    """Whether it still runs."""
    now = process_at(PROC / str(process.pid), str(config.state_dir))
    return now is not None and now.started == process.started


def stop(config: Config, victims: Iterable[Process], *, grace: float = 10) -> None:
    """End processes: SIGTERM, and after `grace` seconds SIGKILL; returns when they have ended."""
    with contextlib.ExitStack() as stack:
        handles = dict(_handles(config, victims, stack))
        for signal_number in (signal.SIGTERM, signal.SIGKILL) if grace else (signal.SIGKILL,):
            for handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal_number)
            _wait(handles, grace or 10)
            if not handles:
                return
        raise ClusterError(
            f"processes {', '.join(str(process.pid) for process in handles.values())} do not end",
            "they wait for the kernel: see `dmesg`, then run this again",
        )


def _handles(
    config: Config, victims: Iterable[Process], stack: contextlib.ExitStack
) -> Iterator[tuple[int, Process]]:
    """A handle on each process that cannot come to mean another one, whatever becomes of its id."""
    for victim in victims:
        try:
            handle = os.pidfd_open(victim.pid)
        except ProcessLookupError:
            continue
        stack.callback(os.close, handle)
        if exists(config, victim):
            yield handle, victim


def _wait(handles: dict[int, Process], seconds: float) -> None:
    """Wait until the processes have ended, and drop those that have."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while handles and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            _reap(handles.pop(handle).pid)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_until(
    what: str,
    ready: Callable[[], bool],
    *,
    seconds: float,
    alive: Callable[[], bool] = lambda: True,
    log: Path | None = None,
) -> None:
    """Wait until `ready`; a ClusterError with the log's end when time is up or it is no longer `alive`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not alive() or time.monotonic() > deadline:
            why = f"is not ready after {seconds:.0f} s" if alive() else "ended by itself"
            raise ClusterError(f"{what} {why}{tail(log)}", f"the whole log is {log}" if log else "")
        time.sleep(0.05)


def tail(log: Path | None, lines: int = 12) -> str:
    """The last lines of a log, for an error message."""
    if not log or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16384))
        text = file.read().decode(errors="replace")
    return "".join(f"\n    {line[:300]}" for line in text.splitlines()[-lines:])


def ports_in_use(ports: Mapping[str, int], proc: Path = PROC) -> dict[str, int]:
    """Those of `ports` on which something listens for TCP."""
    listening = set()
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":  # TCP_LISTEN
                    listening.add(int(fields[1].rpartition(":")[2], 16))
    return {name: port for name, port in ports.items() if port in listening}
