"""What can be seen of a supervised program from outside: /metrics, in Prometheus' text format.

One thread answers one scrape after the other. It shares nothing with the supervision but counters that it
only reads, it ends with the process, and whatever goes wrong in it costs a scrape and nothing else.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from capstan_agent.cgroup import Cgroup
from capstan_agent.logbook import Logbook
from capstan_agent.tail import Tail

_LABELS = {"job_name": "CAPSTAN_JOB_NAME", "attempt": "CAPSTAN_ATTEMPT", "replica": "CAPSTAN_REPLICA_INDEX"}
# Seconds and bytes that one client may take up.
_PATIENCE = 5.0
_PAUSE = 1.0
_REQUEST = 16 * 1024


class Program(Tail):
    """The program's output as it passes by, counted, and whether it runs."""

    __slots__ = ("_kept_by", "bytes", "last_output", "lines", "running", "started")

    def __init__(self, kept_by: Logbook | None = None) -> None:
        super().__init__()
        self._kept_by = kept_by
        self.lines = self.bytes = 0
        self.running = False
        self.started = self.last_output = time.time()

    def append(self, data: bytes) -> None:
        """Take what was written next."""
        self.lines += data.count(b"\n")
        self.bytes += len(data)
        self.last_output = time.time()
        if self._kept_by:
            self._kept_by.append(data)
        super().append(data)


def exposition(program: Program, cgroup: Cgroup, environment: Mapping[str, str]) -> str:
    """The whole page. What the kernel does not tell is left out."""
    return "".join(f"{line}\n" for line in _lines(program, cgroup, environment))


def _lines(program: Program, cgroup: Cgroup, environment: Mapping[str, str]) -> Iterator[str]:
    labels = ",".join(
        f'{label}="{_escaped(environment.get(variable, ""))}"' for label, variable in _LABELS.items()
    )
    metrics: tuple[tuple[str, str, str, float | None], ...] = (
        (f"info{{{labels}}}", "gauge", "The replica of a TrainingJob that runs here.", 1),
        ("program_up", "gauge", "Whether the supervised program runs.", int(program.running)),
        ("program_start_time_seconds", "gauge", "When the program was started.", program.started),
        ("output_lines_total", "counter", "Lines that the program has written.", program.lines),
        ("output_bytes_total", "counter", "Bytes that the program has written.", program.bytes),
        (
            "last_output_timestamp_seconds",
            "gauge",
            "When the program last wrote anything; before it has, when it was started.",
            program.last_output,
        ),
        ("cpu_seconds_total", "counter", "Processor time used in the container.", cgroup.cpu_seconds()),
        (
            "memory_working_set_bytes",
            "gauge",
            "Memory in use in the container, without what could be dropped.",
            cgroup.memory(),
        ),
        ("memory_limit_bytes", "gauge", "The container's memory limit.", cgroup.memory_limit()),
        ("oom_kills_total", "counter", "Processes killed for want of memory.", cgroup.oom_kills()),
    )
    for series, kind, text, value in metrics:
        if value is not None:
            name = f"capstan_agent_{series}"
            yield f"# HELP {name.partition('{')[0]} {text}"
            yield f"# TYPE {name.partition('{')[0]} {kind}"
            yield f"{name} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def serve(program: Program, port: int) -> None:
    """Answer scrapes from now on. A port that cannot be had is told and otherwise of no account."""
    try:
        listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError):
        try:
            listener = socket.create_server(("", port))
        except OSError as error:
            print(f"capstan: no metrics, port {port} cannot be had: {error.strerror}", file=sys.stderr)
            return
    try:
        threading.Thread(target=_answer, args=(listener, program), name="metrics", daemon=True).start()
    except RuntimeError as error:  # the container may have no more threads
        listener.close()
        print(f"capstan: no metrics: {error}", file=sys.stderr)


def _answer(listener: socket.socket, program: Program) -> None:
    cgroup = Cgroup()
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # such as no more files: that it lasts must not cost the program a processor
            time.sleep(_PAUSE)
            continue
        with client, suppress(Exception):
            client.settimeout(_PATIENCE)
            client.sendall(_response(_request(client), program, cgroup))


def _request(client: socket.socket) -> bytes:
    """The request's head, as far as it matters."""
    head, end = b"", time.monotonic() + _PATIENCE
    while b"\r\n\r\n" not in head and len(head) < _REQUEST and time.monotonic() < end:
        data = client.recv(_REQUEST)
        if not data:
            break
        head += data
    return head


def _response(request: bytes, program: Program, cgroup: Cgroup) -> bytes:
    method, _, rest = request.partition(b" ")
    if method == b"GET" and rest.partition(b" ")[0].partition(b"?")[0] == b"/metrics":
        status, body = "200 OK", exposition(program, cgroup, os.environ).encode()
    else:
        status, body = "404 Not Found", b"GET /metrics is all there is.\n"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
