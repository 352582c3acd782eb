"""The command line. Every flag is also an environment variable: --http-port is CAPSTAN_SERVING_HTTP_PORT."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from capstan_serving import __version__

PREFIX = "CAPSTAN_SERVING_"

_EXAMPLES = """\
examples:
  mkdir -p models/digits/1 && cp digits.onnx models/digits/1/model.onnx
  capstan-serving --model-repository models
  curl localhost:8000/v2/models/digits

  capstan-serving --model-repository models --model-control-mode poll
      follow what is put into the folder, changed and taken away
  capstan-serving --model-repository models --model-control-mode explicit --load-model digits
      load one model, and others when a client asks for it

Every flag is also an environment variable: --http-port is CAPSTAN_SERVING_HTTP_PORT; flags that may be
repeated are lists there, with commas: CAPSTAN_SERVING_LOAD_MODEL=digits,words. Flags win.
SIGTERM drains: what was accepted is answered, nothing new is accepted.
"""

CONTROL_MODES = ("none", "explicit", "poll")

PROVIDERS = ("tensorrt", "cuda", "openvino", "cpu")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    model_repository: tuple[Path, ...]
    model_control_mode: Literal["none", "explicit", "poll"]
    load_model: tuple[str, ...]
    repository_poll_secs: float
    model_load_thread_count: int
    exit_on_error: bool
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    workers: int
    providers: tuple[str, ...]
    engine_cache: Path | None
    allow_custom_operators: bool
    queue_size: int
    response_cache_bytes: int
    max_request_bytes: int
    max_inflight_bytes: int
    max_connections: int
    client_timeout: float
    allow_shared_memory: bool
    trace_otlp_endpoint: str | None
    drain_timeout: float
    termination_log: Path | None


def parser() -> argparse.ArgumentParser:
    """The flags, in groups."""
    parser = argparse.ArgumentParser(
        prog="capstan-serving",
        description="Serve ONNX models over the Open Inference Protocol (HTTP and gRPC).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"capstan-serving {__version__}")
    _add_models(parser.add_argument_group("models"))
    _add_network(parser.add_argument_group("network"))
    _add_execution(parser.add_argument_group("execution"))
    _add_life(parser.add_argument_group("life"))
    return parser


def _add_models(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model-repository",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of <model>/<version>/model.onnx (required; may be repeated)",
    )
    add(
        "--model-control-mode",
        choices=CONTROL_MODES,
        default="none",
        help="none: load all models at the start; poll: follow the folder too; explicit: load what "
        "--load-model names and what clients ask for (%(default)s)",
    )
    add(
        "--load-model",
        action="append",
        metavar="NAME",
        help="model to load at the start, with explicit control; * is all (may be repeated)",
    )
    add(
        "--repository-poll-secs",
        type=_interval,
        default=15.0,
        metavar="SECONDS",
        help="time between two looks into the folder, with control by poll (%(default)s)",
    )
    add(
        "--model-load-thread-count",
        type=_count,
        default=4,
        metavar="N",
        help="models that are loaded at the same time at the start (%(default)s)",
    )
    add(
        "--exit-on-error",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="exit when a model cannot be loaded at the start, rather than serve the others (default: exit)",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", default="0.0.0.0", help="address to listen on (%(default)s)")  # noqa: S104 - a pod's server
    add("--http-port", type=_port, default=8000, metavar="PORT", help="HTTP/1.1 (%(default)s; 0: any)")
    add("--grpc-port", type=_port, default=8001, metavar="PORT", help="gRPC (%(default)s; 0: any)")
    add("--metrics-port", type=_port, default=8002, metavar="PORT", help="/metrics (%(default)s; 0: any)")
    add(
        "--max-request-bytes",
        type=_count,
        default=64 << 20,
        metavar="N",
        help="largest request body or gRPC message (%(default)s)",
    )
    add(
        "--max-inflight-bytes",
        type=_count,
        metavar="N",
        help="bytes of requests that arrived and are not executed yet; more are refused (4 of the largest)",
    )
    add(
        "--max-connections",
        type=_count,
        default=2048,
        metavar="N",
        help="connections of HTTP and gRPC together; more are told to come later (%(default)s)",
    )
    add(
        "--client-timeout",
        type=_interval,
        default=30.0,
        metavar="SECONDS",
        help="how long a client may take to send a request's head, or to send or take 16 KiB of what it has "
        "begun or is given (%(default)s)",
    )
    add(
        "--allow-shared-memory",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="let clients on this machine pass tensors in /dev/shm (default: no)",
    )


def _add_execution(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--workers",
        type=_count,
        default=2,
        metavar="N",
        help="inference threads of each model whose configuration has no count (%(default)s)",
    )
    add(
        "--queue-size",
        type=_count,
        default=1024,
        metavar="N",
        help="requests that may wait for each model; more are refused (%(default)s)",
    )
    add(
        "--response-cache-bytes",
        type=_count,
        default=64 << 20,
        metavar="N",
        help="answers kept for repeated requests, for the models that ask for it (%(default)s)",
    )
    add(
        "--providers",
        type=_providers,
        default=(),
        metavar="LIST",
        help=f"in order of choice, of {', '.join(PROVIDERS)} (default: cuda where there is a GPU, cpu)",
    )
    add(
        "--engine-cache",
        type=Path,
        metavar="DIR",
        help="folder in which TensorRT keeps its engines and timings",
    )
    add(
        "--allow-custom-operators",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="load the libraries of operators that a model's configuration names: they run in this server "
        "(default: refuse)",
    )


def _add_life(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--trace-otlp-endpoint",
        metavar="URL",
        help="trace requests, and export them to this OTLP collector, such as http://collector:4318 "
        "(default: OTEL_EXPORTER_OTLP_ENDPOINT; none: trace nothing)",
    )
    add(
        "--drain-timeout",
        type=_seconds,
        default=25.0,
        metavar="SECONDS",
        help="on SIGTERM, how long accepted requests may take (%(default)s)",
    )
    add("--termination-log", type=Path, metavar="FILE", help="where to say, as JSON, why the server ended")


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read flags, then the environment, then the defaults. Exits with a message when that fails."""
    flags = parser()
    repeated = _defaults(flags, environment)
    values = vars(flags.parse_args(arguments))
    for name, fallback in repeated.items():
        values[name] = tuple(values[name] or fallback)
    if values["max_inflight_bytes"] is None:
        values["max_inflight_bytes"] = 4 * values["max_request_bytes"]
    settings = Settings(**values)
    if not settings.model_repository:
        flags.error(f"--model-repository is required (or {PREFIX}MODEL_REPOSITORY)")
    if settings.load_model and settings.model_control_mode != "explicit":
        flags.error("--load-model needs --model-control-mode explicit")
    if settings.max_inflight_bytes < settings.max_request_bytes:
        flags.error("--max-inflight-bytes is below --max-request-bytes: the largest request would never fit")
    return settings


def _defaults(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    """Take defaults from the environment; argparse converts and checks them as it does flags.

    Those of flags that may be repeated are returned: argparse would add to them.
    """
    repeated: dict[str, Sequence[Any]] = {}
    for action in parser._actions:  # there is no public way to list them
        if action.dest in ("help", "version"):
            continue
        variable = PREFIX + action.dest.upper()
        text = environment.get(variable)
        if isinstance(action, argparse._AppendAction):
            convert = action.type if callable(action.type) else str
            repeated[action.dest] = [convert(part) for part in (text or "").split(",") if part]
        elif text is None:
            continue
        elif isinstance(action, argparse.BooleanOptionalAction):
            if text.lower() not in ("true", "false"):
                parser.error(f"{variable} must be true or false, not {text!r}")
            parser.set_defaults(**{action.dest: text.lower() == "true"})
        elif action.choices and text not in action.choices:
            parser.error(f"{variable} must be one of {', '.join(action.choices)}, not {text!r}")
        else:
            parser.set_defaults(**{action.dest: text})
    return repeated


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


def _interval(text: str) -> float:
    number = _seconds(text)
    if number < 0.1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0.1 seconds")
    return number


def _providers(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if strange := [name for name in names if name not in PROVIDERS]:
        raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(PROVIDERS)}")
    return tuple(dict.fromkeys(names))
