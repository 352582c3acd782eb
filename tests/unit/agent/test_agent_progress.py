"""What a program says of its progress, from its line to the operator: pipes, processes and TLS are real."""

import json
import math
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from capstan_agent.channel import Channel
from capstan_agent.report import METRICS, Report, merged
from capstan_agent.reporter import Endpoint, Reporter, endpoint

from tests import certificates

HELPER = Path(__file__).parents[3] / "agent/capstan_agent/python"


class Operator(ThreadingHTTPServer):
    """Takes reports; `answers` are given first, one a request."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.answers: list[int] = []
        self.pause = "0"
        self.reports: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.heard = threading.Condition()
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.heard:
            assert self.heard.wait_for(condition, 30), (self.reports, self.tokens)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_port}/v1/progress"


class Handler(BaseHTTPRequestHandler):
    server: Operator

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.heard:
            status = self.server.answers.pop(0) if self.server.answers else 204
            self.server.tokens.append(self.headers["Authorization"])
            if status < 300:
                self.server.reports.append(json.loads(body))
            self.server.heard.notify_all()
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Retry-After", self.server.pause)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def operator(authority: Path) -> Iterator[Operator]:
    server = Operator(authority.parent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def pod(tmp_path: Path, authority: Path, operator: Operator) -> dict[str, str]:
    """The environment that the operator gives a replica."""
    (tmp_path / "token").write_text("the-token\n")
    return {
        "CAPSTAN_PROGRESS_FILE": str(tmp_path / "progress"),
        "CAPSTAN_REPORT_URL": operator.url,
        "CAPSTAN_REPORT_CA": authority.read_text(),
        "CAPSTAN_REPORT_TOKEN_FILE": str(tmp_path / "token"),
        "CAPSTAN_REPLICA_INDEX": "0",
    }


def said(*lines: str, clock: Iterator[float] | None = None) -> Report:
    report = Report()
    for number, line in enumerate(lines):
        report = merged(report, line.encode(), next(clock) if clock else float(number))
    return report


# --- lines


def test_values_replace_those_of_their_name():
    report = said('{"step": 1, "total": 10, "loss": 0.5}', '{"step": 2}', '{"accuracy": 1}')
    assert report.json() == {
        "step": 2,
        "total": 10,
        "remaining": 8,
        "metrics": {"loss": 0.5, "accuracy": 1.0},
    }


def test_the_pace_is_measured_from_the_first_step_and_anew_when_steps_begin_anew():
    times = iter([0.0, 100.0, 200.0, 210.0])
    lines = ['{"step": 500, "total": 1000}', '{"step": 600}', '{"step": 0}', '{"step": 10}']
    report = Report()
    left = []
    for line in lines:
        report = merged(report, line.encode(), next(times))
        left.append(report.json().get("remaining"))
    assert left == [None, 400, None, 990]


def test_a_loss_that_is_no_number_any_more_takes_the_last_one_back():
    report = said('{"step": 1, "loss": 0.5}', '{"step": 2, "loss": NaN}', '{"step": 3, "gain": 1e999}')
    assert report.json() == {"step": 3}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("step 5", "no JSON object"),
        ("[1]", "no JSON object"),
        ("[" * 4000, "no JSON object"),
        ('{"step": "5"}', "step must be a whole number"),
        ('{"step": 1.5}', "step must be a whole number"),
        ('{"step": true}', "step must be a whole number"),
        ('{"step": NaN}', "step must be a whole number"),
        ('{"step": -1}', "from 0 to"),
        ('{"total": 1e300}', "from 0 to"),
        ('{"loss": "low"}', "loss must be a number"),
        ('{"a b": 1}', "no name of a metric"),
        (json.dumps({"x" * 64: 1}), "no name of a metric"),
        (json.dumps({f"m{n}": 1 for n in range(METRICS + 1)}), "more than"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_with_a_sentence(line, why):
    with pytest.raises(ValueError, match=why):
        merged(Report(), line.encode(), 0.0)


def test_numbers_larger_than_any_float_are_not_finite():
    assert merged(Report(), b'{"step": 3, "loss": 1' + b"0" * 400 + b"}", 0.0).json() == {"step": 3}
    assert math.isinf(float("1e999"))


# --- the pipe


def test_anything_may_be_written_to_the_pipe(tmp_path, capsys):
    heard: list[Report] = []
    channel = Channel(tmp_path / "pipe", heard.append)
    with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
        for data in (b'{"step"', b': 1}\n\n{"st', b"ep\n" + b"x" * 5000, b"y" * 5000, b'\n{"step": 2}\n'):
            pipe.write(data)
            channel.advance()
    channel.advance()  # nothing is there, and nothing waits for it
    assert [report.step for report in heard] == [1, 2]
    assert capsys.readouterr().err.count("is ignored") == 1, "told once"
    channel.close()
    assert channel.interest() is None


def test_a_shell_needs_nothing_but_echo(supervise, pod, operator):
    running = supervise(
        [
            "sh",
            "-c",
            'for n in 1 2 3; do echo "{\\"step\\": $n, \\"total\\": 3}" >> "$CAPSTAN_PROGRESS_FILE"; done',
        ],
        env=pod,
    )
    assert running.finish() == (b"", b"")
    operator.wait_for(lambda: bool(operator.reports) and operator.reports[-1].get("step") == 3)
    assert operator.reports[-1] == {"step": 3, "total": 3, "remaining": 0}
    assert set(operator.tokens) == {"Bearer the-token"}


def test_python_needs_nothing_but_an_import(supervise, pod, operator):
    program = """
        from capstan import report
        class Tensor:
            def __float__(self): return 0.25
        report(step=7, total=70, loss=Tensor(), accuracy=1)
        """
    running = supervise(program, env=pod)
    assert running.finish() == (b"", b"")
    assert operator.reports[-1] == {"step": 7, "total": 70, "metrics": {"loss": 0.25, "accuracy": 1.0}}


def test_the_image_s_own_modules_come_before_ours(supervise, pod, tmp_path):
    (tmp_path / "capstan.py").write_text("print('mine')")
    running = supervise("import capstan", env=pod | {"PYTHONPATH": str(tmp_path)})
    assert running.finish() == (b"mine\n", b"")


def test_the_helper_does_nothing_where_nobody_listens(tmp_path):
    for path in ("", str(tmp_path / "nothing")):
        environment = {"CAPSTAN_PROGRESS_FILE": path, "PYTHONPATH": str(HELPER)}
        command = [sys.executable, "-c", "from capstan import report; report(step=1)"]
        assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_says_nothing_is_left_as_it_was(supervise, operator, pod):
    """No thread, no request, and without the variable no other environment either."""
    running = supervise("print('trained')", env=pod)
    assert running.finish() == (b"trained\n", b"")
    assert operator.tokens == []
    running = supervise("import os; print(os.environ.get('PYTHONPATH'))", env={"CAPSTAN_PROGRESS_FILE": ""})
    assert b"capstan_agent" not in running.finish()[0]


def test_other_replicas_do_not_report(supervise, operator, pod):
    running = supervise(
        "from capstan import report; report(step=1)", env=pod | {"CAPSTAN_REPLICA_INDEX": "1"}
    )
    assert running.finish() == (b"", b"")
    assert operator.tokens == []


# --- the endpoint


def test_a_program_runs_unharmed_without_the_operator(supervise, pod, operator):
    operator.server_close()
    program = """
        import os
        from capstan import report
        report(step=1)
        print('trained', flush=True)
        """
    running = supervise(program, env=pod | {"CAPSTAN_REPORT_URL": "https://localhost:1/"})
    out, err = running.finish()
    assert out == b"trained\n"
    assert running.process.returncode == 0
    assert err.count(b"does not reach the operator") <= 1


def test_the_token_is_sent_to_nobody_else(pod, operator, tmp_path, capsys):
    """Not in plain text, and not to one whose certificate another authority has signed."""
    other = tmp_path / "other"
    other.mkdir()
    for changes in (
        {"CAPSTAN_REPORT_URL": operator.url.replace("https", "http")},
        {"CAPSTAN_REPORT_CA": certificates.make(other).read_text()},
        {"CAPSTAN_REPORT_URL": operator.url.replace("localhost", "127.0.0.2")},
    ):
        where = endpoint(pod | changes)
        assert where is not None
        reporter = Reporter(where, interval=0.01)
        reporter.note(Report(step=1))
        reporter._thread.join(0.5)
        reporter.finish(5)
        assert "does not reach the operator" in capsys.readouterr().err
    assert operator.tokens == []


def test_who_does_not_lead_is_asked_again(pod, operator):
    operator.answers = [503, 429, 503]
    reporter = Reporter(
        Endpoint(operator.url, pod["CAPSTAN_REPORT_CA"], Path(pod["CAPSTAN_REPORT_TOKEN_FILE"]))
    )
    reporter.note(Report(step=1))
    operator.wait_for(lambda: bool(operator.reports))
    assert (operator.reports, len(operator.tokens)) == ([{"step": 1}], 4)


def test_what_was_refused_is_not_tried_again_at_once_and_told_once(pod, operator, capsys):
    operator.answers = [403, 403, 403]
    where = endpoint(pod)
    assert where is not None
    reporter = Reporter(where, interval=0.01)
    reporter.note(Report(step=1))
    operator.wait_for(lambda: bool(operator.reports))  # it is tried again later
    assert len(operator.tokens) == 4
    assert capsys.readouterr().err.count("answered 403") == 1


def test_only_the_last_word_is_told_and_it_is_told_at_the_end(pod, operator):
    where = endpoint(pod)
    assert where is not None
    reporter = Reporter(where, interval=3600)
    reporter.note(Report(step=1))
    operator.wait_for(lambda: bool(operator.reports))
    for step in range(2, 500):
        reporter.note(Report(step=step))
    reporter.finish(30)
    assert [report["step"] for report in operator.reports] == [1, 499]


def test_the_operator_says_how_long_to_wait_for_the_next(pod, operator):
    """With thousands of jobs, most reports would not be written."""
    operator.pause = "3600"
    where = endpoint(pod)
    assert where is not None
    reporter = Reporter(where, interval=0.01)
    reporter.note(Report(step=1))
    operator.wait_for(lambda: bool(operator.reports))
    for step in range(2, 50):
        reporter.note(Report(step=step))
        time.sleep(0.01)
    reporter.finish(30)
    assert [report["step"] for report in operator.reports] == [1, 49]


def test_what_has_not_changed_is_not_told(pod, operator):
    where = endpoint(pod)
    assert where is not None
    reporter = Reporter(where, interval=0.01)
    reporter.note(Report(step=1))
    operator.wait_for(lambda: bool(operator.reports))
    reporter.note(Report(step=1))
    reporter.finish(30)
    assert len(operator.reports) == 1
