"""The command line. Every flag is also an environment variable: --http-port is CAPSTAN_SERVING_HTTP_PORT."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capstan_serving import __version__

PREFIX = "CAPSTAN_SERVING_"

_EXAMPLE = """\
example:
  mkdir -p models/digits/1 && cp digits.onnx models/digits/1/model.onnx
  capstan-serving --model-repository models
  curl localhost:8000/v2/models/digits

Every flag is also an environment variable: --http-port is CAPSTAN_SERVING_HTTP_PORT.
SIGTERM drains: what was accepted is answered, nothing new is accepted.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    model_repository: Path
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    workers: int
    queue_size: int
    max_request_bytes: int
    allow_shared_memory: bool
    drain_timeout: float
    exit_on_error: bool
    termination_log: Path | None


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read flags, then the environment, then the defaults. Exits with a message when that fails."""
    parser = argparse.ArgumentParser(
        prog="capstan-serving",
        description="Serve ONNX models over the Open Inference Protocol (HTTP and gRPC).",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"capstan-serving {__version__}")
    add = parser.add_argument
    add(
        "--model-repository",
        type=Path,
        metavar="DIR",
        help="folder of <model>/<version>/model.onnx (required)",
    )
    add("--host", default="0.0.0.0", help="address to listen on (%(default)s)")  # noqa: S104 - a pod's server
    add("--http-port", type=_port, default=8000, metavar="PORT", help="HTTP/1.1 (%(default)s; 0: any)")
    add("--grpc-port", type=_port, default=8001, metavar="PORT", help="gRPC (%(default)s; 0: any)")
    add("--metrics-port", type=_port, default=8002, metavar="PORT", help="/metrics (%(default)s; 0: any)")
    add(
        "--workers", type=_count, default=2, metavar="N", help="inference threads of each model (%(default)s)"
    )
    add(
        "--queue-size",
        type=_count,
        default=1024,
        metavar="N",
        help="requests that may wait for each model; more are refused (%(default)s)",
    )
    add(
        "--max-request-bytes",
        type=_count,
        default=64 << 20,
        metavar="N",
        help="largest request body or gRPC message (%(default)s)",
    )
    add(
        "--allow-shared-memory",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="let clients on this machine pass tensors in /dev/shm (default: no)",
    )
    add(
        "--drain-timeout",
        type=_seconds,
        default=25.0,
        metavar="SECONDS",
        help="on SIGTERM, how long accepted requests may take (%(default)s)",
    )
    add(
        "--exit-on-error",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="exit when a model cannot be loaded, rather than serve the others (default: exit)",
    )
    add("--termination-log", type=Path, metavar="FILE", help="where to say, as JSON, why the server ended")
    _defaults(parser, environment)
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.model_repository is None:
        parser.error(f"--model-repository is required (or {PREFIX}MODEL_REPOSITORY)")
    return settings


def _defaults(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Take defaults from the environment; argparse converts and checks them as it does flags."""
    for action in parser._actions:  # there is no public way to list them
        text = environment.get(PREFIX + action.dest.upper())
        if text is None or action.dest in ("help", "version"):
            continue
        if isinstance(action, argparse.BooleanOptionalAction):
            if text.lower() not in ("true", "false"):
                parser.error(f"{PREFIX}{action.dest.upper()} must be true or false, not {text!r}")
            parser.set_defaults(**{action.dest: text.lower() == "true"})
        else:
            parser.set_defaults(**{action.dest: text})


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{number} is no port")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 86400 seconds")
    return number
