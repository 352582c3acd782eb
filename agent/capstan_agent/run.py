"""`capstan-agent run`: supervise a command, then say how it went."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from capstan_agent import metrics, outcome, termination
from capstan_agent.cgroup import Cgroup
from capstan_agent.digest import file_digest
from capstan_agent.supervise import Exit, Supervisor
from capstan_agent.termination import Output, Termination


def run(
    command: Sequence[str], grace: float, message: Path, output: Path | None, metrics_port: int = 0
) -> int:
    """Run the command and return the exit code of the container.

    `output` is looked at in replica 0 only, so that every replica can be given the same command line.
    `metrics_port` is where /metrics is served; 0: nowhere.
    """
    supervisor, program, cgroup = Supervisor(grace), metrics.Program(), Cgroup()
    before = cgroup.oom_kills()
    if metrics_port:
        metrics.serve(program, metrics_port)
    program.running = True
    try:
        end = supervisor.run(command, os.environ, program)
    except OSError as error:
        result = outcome.not_started(command[0], error)
        print(f"capstan: {result.message}", file=sys.stderr)
    else:
        program.running = False
        killed = (cgroup.oom_kills() or 0) - (before or 0)
        result = outcome.ended(end, killed, program.text())
        if result.exit_class == "ok" and output and os.environ.get("CAPSTAN_REPLICA_INDEX", "0") == "0":
            result = _with_output(supervisor, output, end, program.text())
    termination.write(result, message)
    return result.exit_code


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
