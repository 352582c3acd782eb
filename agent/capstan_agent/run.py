"""`capstan-agent run`: supervise a command, then say how it went."""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from capstan_agent import (
    channel,
    checkpoints,
    durations,
    hang,
    keeper,
    logbook,
    metrics,
    outcome,
    termination,
)
from capstan_agent.cgroup import Cgroup
from capstan_agent.digest import file_digest
from capstan_agent.keeper import Saved
from capstan_agent.report import Report
from capstan_agent.supervise import Exit, Supervisor
from capstan_agent.termination import Output, Termination

if TYPE_CHECKING:
    from capstan_agent.reporter import Reporter

#: Seconds that each of the last things may take once the program has ended.
_LAST_WORD = 3.0
#: What users' programs import, beside the interpreter in the runner's folder, or where this file is.
_PYTHON = "python"


def run(
    command: Sequence[str], grace: float, message: Path, output: Path | None, metrics_port: int = 0
) -> int:
    """Run the command and return the exit code of the container.

    `output` is looked at in replica 0 only, so that every replica can be given the same command line.
    `metrics_port` is where /metrics is served; 0: nowhere.
    """
    log = logbook.logbook(os.environ)
    supervisor, program, cgroup = Supervisor(grace, _hang_timeout()), metrics.Program(log), Cgroup()
    telling = _Telling()
    said = channel.opened(telling.heard)
    keeping: keeper.Keeper | None = None
    before = cgroup.oom_kills()
    if metrics_port:
        metrics.serve(program, metrics_port)
    environment = dict(os.environ)
    broken: frozenset[Path] = frozenset()
    if folder := environment.get(checkpoints.FOLDER):
        attempt = environment.get("CAPSTAN_ATTEMPT", "")
        number = checkpoints.number(Path(folder), int(attempt) if attempt.isdecimal() else 1)
        environment[checkpoints.NUMBER] = str(number)
        if checkpoints.RESUME not in environment:
            found, broken = checkpoints.newest(Path(folder), supervisor.stopped, _say)
            if supervisor.stopped():
                result = outcome.ended(supervisor.exit_now(Exit()), 0, "")
                termination.write(result, message)
                return result.exit_code
            environment |= {checkpoints.RESUME: str(found.path)} if found else {}
        keeping = keeper.keeper(environment, broken, telling.heard)
    if said or folder:
        environment["PYTHONPATH"] = _python_path()
    if hang.VARIABLE in environment:
        environment.setdefault(hang.FAULTHANDLER, "1")
    helpers = [helper for helper in (keeping, log) if helper]
    for helper in helpers:
        helper.start()
    program.running = True
    try:
        end = supervisor.run(command, environment, program, said)
    except OSError as error:
        result = outcome.not_started(command[0], error)
        print(f"capstan: {result.message}", file=sys.stderr)
    else:
        program.running = False
        for helper in helpers:
            helper.finish(_LAST_WORD)
        telling.finish(_LAST_WORD)
        killed = (cgroup.oom_kills() or 0) - (before or 0)
        result = outcome.ended(end, killed, program.text())
        if result.exit_class == "ok" and output and os.environ.get("CAPSTAN_REPLICA_INDEX", "0") == "0":
            result = _with_output(supervisor, output, end, program.text())
    termination.write(result, message)
    return result.exit_code


class _Telling:
    """Takes news to the operator. What that needs (TLS) is loaded with the first."""

    def __init__(self) -> None:
        self._reporter: Reporter | None = None
        self._wanted = True
        self._loading = threading.Lock()

    def heard(self, news: Report | Saved) -> None:
        """The program has said something, or saved something."""
        with self._loading:
            if self._wanted and self._reporter is None:
                from capstan_agent import reporter  # noqa: PLC0415  (programs that say nothing do without it)

                where = reporter.endpoint(os.environ)
                self._wanted = where is not None
                self._reporter = reporter.Reporter(where) if where else None
            if self._reporter is not None:
                self._reporter.note(news)

    def finish(self, patience: float) -> None:
        """There is no more."""
        if self._reporter is not None:
            self._reporter.finish(patience)


def _hang_timeout() -> float | None:
    """How long the program may be silent; a duration that makes no sense keeps none from running."""
    text = os.environ.get(hang.VARIABLE)
    try:
        return (durations.seconds(text) or None) if text else None
    except ValueError as error:
        _say(f"no hang is looked for: {hang.VARIABLE}: {error}")
        return None


def _say(sentence: str) -> None:
    print(f"capstan: {sentence}", file=sys.stderr)


def _python_path() -> str:
    """What the image has there, and then our helper."""
    folders = [root / _PYTHON for root in (Path(__file__).parent, Path(sys.prefix))]
    found = next((str(folder) for folder in folders if folder.is_dir()), "")
    paths = (os.environ.get("PYTHONPATH", ""), found)
    return os.pathsep.join(filter(None, paths))


def _with_output(supervisor: Supervisor, output: Path, end: Exit, log: str) -> Termination:
    try:
        measured = file_digest(output, supervisor.stopped)
    except OSError as error:
        result = outcome.output_missing(output, error, log)
        print(f"capstan: {result.message}", file=sys.stderr)
        return result
    if measured is None:
        return outcome.ended(supervisor.exit_now(end), 0, log)
    digest, size = measured
    return outcome.ended(end, 0, log, Output(output.name, size, digest))
