"""What a scrape of a supervised program sees, and that it costs the program nothing."""

import errno
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from capstan_agent import metrics
from capstan_agent.cgroup import Cgroup
from capstan_agent.metrics import Program, exposition
from prometheus_client.parser import text_string_to_metric_families

LABELS = {"CAPSTAN_JOB_NAME": "digits", "CAPSTAN_ATTEMPT": "2", "CAPSTAN_REPLICA_INDEX": "1"}


def samples(page: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def scraped(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def test_a_program_is_seen_while_it_runs(supervise):
    port = free_port()
    running = supervise(
        "import signal; print('one'); print('two', flush=True); signal.pause()",
        "--metrics-port",
        str(port),
        env=LABELS,
    )
    running.wait_for_line()
    running.wait_for_line()
    page = scraped(port)
    seen = samples(page)
    assert 'capstan_agent_info{job_name="digits",attempt="2",replica="1"} 1' in page
    assert seen["capstan_agent_program_up"] == 1
    assert (seen["capstan_agent_output_lines_total"], seen["capstan_agent_output_bytes_total"]) == (2, 8)
    assert (
        seen["capstan_agent_last_output_timestamp_seconds"]
        >= seen["capstan_agent_program_start_time_seconds"]
        > 1e9
    )
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scraped(port, "/")


@pytest.mark.parametrize(
    "said", [b"", b"GET", b"\r\n\r\n", b"\xff" * 20_000, b"GET /metrics HTTP/1.1\r\n\r\n"]
)
def test_a_client_that_makes_no_sense_stops_neither_scrapes_nor_the_program(supervise, said):
    port = free_port()
    running = supervise("import signal; print('up', flush=True); signal.pause()", "--metrics-port", str(port))
    running.wait_for_line()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(said)
    assert samples(scraped(port))["capstan_agent_info"] == 1
    running.process.terminate()
    running.finish()
    assert running.message["reason"] == "Terminated"


def test_a_port_that_is_taken_is_told_and_changes_nothing(supervise):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        running = supervise("print('trained')", "--metrics-port", str(port))
        out, err = running.finish()
    assert (running.process.returncode, out) == (0, b"trained\n")
    assert err.decode().startswith(f"capstan: no metrics, port {port} cannot be had: ")


def test_a_port_that_is_none_is_told_and_changes_nothing(supervise):
    running = supervise("print('trained')", env={"CAPSTAN_METRICS_PORT": "http"})
    out, err = running.finish()
    assert (running.process.returncode, out) == (0, b"trained\n")
    assert err.decode().startswith("capstan: no metrics, CAPSTAN_METRICS_PORT must be a number")
    assert running.message["reason"] == "Completed"


def test_a_thread_that_cannot_be_had_is_told_and_keeps_no_port(monkeypatch, capsys):
    def refused(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    port = free_port()
    metrics.serve(Program(), port)
    assert "no metrics: can't start new thread" in capsys.readouterr().err
    socket.create_server(("", port)).close()


def test_connections_that_cannot_be_accepted_cost_no_processor(monkeypatch):
    class Listener:
        failures = 2

        def accept(self):
            if not self.failures:
                raise KeyboardInterrupt
            self.failures -= 1
            raise OSError(errno.ENFILE, "Too many open files in system")

    slept = []
    program = Program()
    monkeypatch.setattr(metrics, "time", SimpleNamespace(sleep=slept.append))
    with pytest.raises(KeyboardInterrupt):
        metrics._answer(Listener(), program)
    assert slept == [1.0, 1.0]


def test_without_a_port_nothing_is_served_and_nothing_said(supervise):
    assert supervise("print('trained')").finish() == (b"trained\n", b"")


V1 = {
    "memory/memory.usage_in_bytes": "3000\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 1000\n",
    "memory/memory.oom_control": "under_oom 0\noom_kill 1\n",
    "cpuacct/cpuacct.usage": "2500000000\n",
}
V2 = {
    "memory.current": "3000\n",
    "memory.max": "max\n",
    "memory.stat": "anon 5\ninactive_file 1000\n",
    "memory.events": "oom_kill 1\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
}


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_both_cgroup_versions_tell_the_same(tmp_path: Path, files: dict[str, str]):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    cgroup = Cgroup(tmp_path, tmp_path / "none")
    assert (cgroup.memory(), cgroup.memory_limit(), cgroup.cpu_seconds(), cgroup.oom_kills()) == (
        2000,
        None,
        2.5,
        1,
    )
    limit = "memory.max" if "memory.max" in files else "memory/memory.limit_in_bytes"
    (tmp_path / limit).write_text("4096\n")
    assert cgroup.memory_limit() == 4096


def test_what_the_kernel_does_not_tell_is_left_out_and_names_are_escaped(tmp_path: Path):
    page = exposition(Program(), Cgroup(tmp_path, tmp_path), {"CAPSTAN_JOB_NAME": 'a"b\\c\n'})
    assert "cpu_seconds" not in page
    assert samples(page)["capstan_agent_program_up"] == 0
    (info,) = [
        family for family in text_string_to_metric_families(page) if family.name == "capstan_agent_info"
    ]
    assert info.samples[0].labels["job_name"] == 'a"b\\c\n'
