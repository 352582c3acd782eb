"""The command line: `capstan-agent install | fetch | run`, and `python -m capstan_agent` the same.

Exit codes: `run` exits as its command did; the others with 0, with 1 when they failed (the termination
message says why) and with 2 when their arguments make no sense.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from capstan_agent import durations, termination
from capstan_agent.allow import VARIABLE, Allow
from capstan_agent.errors import AgentError, UsageError
from capstan_agent.termination import Output, Termination

if TYPE_CHECKING:
    from capstan_agent.fetch import Request


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    message: Path = options.termination_log
    try:
        match options.verb:
            case "run":
                from capstan_agent.run import run  # noqa: PLC0415  (the start of each verb is waited for)

                return run(
                    command(options.command),
                    options.grace,
                    message,
                    options.output_file,
                    options.metrics_port,
                )
            case "install":
                signal.signal(signal.SIGTERM, _terminated)
                from capstan_agent.install import install  # noqa: PLC0415

                install(options.directory)
                termination.write(
                    Termination("ok", 0, "Installed", f"The runner is in {options.directory}."), message
                )
            case "fetch":
                signal.signal(signal.SIGTERM, _terminated)
                from capstan_agent.fetch import fetch  # noqa: PLC0415

                folder, output = fetch(request(options), _say)
                termination.write(_fetched(folder, output), message)
    except AgentError as error:
        code = 2 if isinstance(error, UsageError) else 1
        print(f"capstan-agent: {error.reason}: {error}", file=sys.stderr)
        termination.write(Termination(error.exit_class, code, error.reason, str(error)), message)
        return code
    except Exception as error:  # noqa: BLE001  (a bug of ours must be told as such, not as the user's failure)
        traceback.print_exc()
        sentence = f"The agent failed on {type(error).__name__}: {error}. Please report it with its log."
        termination.write(Termination("infrastructure", 1, "AgentFailed", sentence), message)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    top = argparse.ArgumentParser(
        prog="capstan-agent",
        description="Runs beside users' containers: puts models into pods and supervises training processes.",
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="install | fetch | run")

    put = verbs.add_parser(
        "install",
        help="copy the runner, with everything it needs, into a folder",
        description="Copies the runner into DIR, self-contained: DIR/run starts in any image.",
    )
    put.add_argument("directory", metavar="DIR", type=Path, help="usually a mounted emptyDir")

    get = verbs.add_parser(
        "fetch",
        help="put a model, or data, into a folder",
        description="Copies a model to TARGET/MODEL/VERSION, or data into TARGET, whole or not at all,"
        " checking its digest. Archives (.tar, .tar.gz, .tgz, .zip) are unpacked. Credentials come from the"
        " environment.",
    )
    get.add_argument(
        "--uri",
        required=True,
        help="a file or folder: pvc://<claim>/<path>, s3://<bucket>/<key>, gs://<bucket>/<key>,"
        " az://<container>/<path>, https://<host>/<path>, hf://<organisation>/<name>[@<revision>][/<path>]",
    )
    get.add_argument(
        "--target",
        required=True,
        type=Path,
        metavar="DIR",
        help="the model repository, or the data's folder",
    )
    get.add_argument(
        "--layout",
        choices=("model", "data"),
        default="model",
        help="model: TARGET/MODEL/VERSION/..., a file as model.onnx; data: TARGET/..., names unchanged",
    )
    get.add_argument("--model", default="", metavar="NAME", help="the model's name in the repository")
    get.add_argument("--version", default="", metavar="N", help="the model's version, a whole number")
    get.add_argument("--digest", metavar="sha256:HEX", help="refuse any other bytes than these")
    get.add_argument(
        "--allow",
        action="append",
        metavar="SCHEME[://HOST[:PORT]]",
        help="fetch from such addresses only; * is any part of the host (bucket, claim, organisation);"
        f" repeatable, with commas, or in {VARIABLE} (default: pvc,s3,gs,az,https,hf)",
    )
    get.add_argument(
        "--claims",
        type=Path,
        metavar="DIR",
        default=Path("/var/run/capstan/claims"),
        help="volume claims are mounted below it by name (default: %(default)s)",
    )

    supervise = verbs.add_parser(
        "run",
        help="supervise a command as the container's first process",
        description="Runs CMD: forwards signals to its process group, reaps orphans, passes output on, and"
        " says in the termination message how it ended. Exits as CMD did, with 128 plus the signal's number.",
    )
    supervise.add_argument(
        "--grace",
        type=_seconds,
        metavar="DURATION",
        default=60.0,
        help="from SIGTERM to SIGKILL, such as 60s or 1m30s (default: 60s)",
    )
    supervise.add_argument(
        "--output-file",
        type=Path,
        metavar="PATH",
        help="what CMD must have written when it succeeds, in replica 0; its digest is reported",
    )
    supervise.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        default=_port_of_environment(),
        help="where /metrics is served; 0: nowhere (default: $CAPSTAN_METRICS_PORT, else 0)",
    )
    supervise.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- CMD ...", help="the command to run"
    )

    for verb in (put, get, supervise):
        verb.add_argument(
            "--termination-log",
            type=Path,
            metavar="PATH",
            default=termination.DEFAULT_PATH,
            help="where the termination message goes (default: %(default)s)",
        )
    return top


def _seconds(text: str) -> float:
    try:
        return durations.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535, not {text!r}")
    return int(text)


def _port_of_environment() -> int:
    """Where the operator wants metrics; a port that makes no sense keeps no program from running."""
    text = os.environ.get("CAPSTAN_METRICS_PORT") or "0"
    try:
        return _port(text)
    except argparse.ArgumentTypeError as error:
        print(f"capstan: no metrics, CAPSTAN_METRICS_PORT {error}", file=sys.stderr)
        return 0


def command(words: list[str]) -> list[str]:
    """The command to supervise, out of what follows the options of `run`."""
    found = words[1:] if words[:1] == ["--"] else words
    if not found:
        raise UsageError("There is no command to run: put it after --, as in: run -- python train.py")
    return found


def request(options: argparse.Namespace) -> "Request":
    """What `fetch` was told."""
    from capstan_agent.fetch import Request  # noqa: PLC0415

    return Request(
        options.uri,
        options.claims,
        options.target,
        options.model,
        options.version,
        options.digest or None,
        options.layout,
        Allow.parsed(options.allow or [os.environ.get(VARIABLE, "")]),
    )


def _fetched(folder: Path, output: Output) -> Termination:
    return Termination("ok", 0, "Fetched", f"What was asked for is in {folder}.", output=output)


def _say(line: str) -> None:
    print(line, flush=True)


def _terminated(_number: int, _frame: object) -> None:
    """Stop at once, through the `finally` clauses: as a container's first process we must ask for that."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
