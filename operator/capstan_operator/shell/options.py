"""The operator's flags, each also an environment variable: --agent-image is CAPSTAN_OPERATOR_AGENT_IMAGE."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from capstan_operator.core.model import FETCH_ALLOW
from capstan_operator.shell.metrics import operator_version

REGISTRY = "ghcr.io/capstan-dev"
ENVIRONMENT = "CAPSTAN_OPERATOR_"
#: A place that may be fetched from: SCHEME[://HOST-GLOB[:PORT]].
SOURCE = r"(pvc|s3|gs|az|hf|https)(://[A-Za-z0-9*?][-A-Za-z0-9.*?_]{0,252}(:[0-9]{1,5})?)?"


@dataclass(frozen=True, slots=True)
class Options:
    """What `capstan-operator run` was told."""

    agent_image: str
    serving_image: str
    fetch_allow: tuple[str, ...]
    network_policies: bool
    reports_url: str
    reports_secret: str
    namespaces: tuple[str, ...]
    metrics_port: int
    workers: int
    log_level: str
    log_format: str
    kubeconfig: str | None
    context: str | None
    leader_elect: bool
    lease_name: str
    lease_namespace: str
    lease_duration: int


def _one_of(*choices: str) -> Callable[[str], str]:
    """Return a type for argparse: unlike `choices`, it also holds for defaults from the environment."""

    def check(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return check


def _between(least: int, most: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least} to {most}, not {text!r}")
        return int(text)

    return check


def _boolean(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


def _sources(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(source for part in text.split(",") if (source := part.strip())))
    for source in found:
        if re.fullmatch(SOURCE, source) is None:
            raise argparse.ArgumentTypeError(
                f"{source!r} is no source: write SCHEME or SCHEME://HOST[:PORT], such as s3 or https://*.example.com"
            )
    return found or FETCH_ALLOW


def _endpoint(text: str) -> str:
    if text and re.fullmatch(r"https://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?:[1-9][0-9]{0,4}", text) is None:
        raise argparse.ArgumentTypeError(f"must be https://HOST:PORT, not {text!r}")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted({name.strip() for name in text.split(",")} - {""}))


def parser(environment: Mapping[str, str] = os.environ) -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="capstan-operator", description="Reconciles TrainingJob and InferenceService into pods."
    )
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the operator until SIGTERM", description=__doc__)

    def add(flag: str, default: Any, text: str, kind: Callable[[str], Any] = str) -> None:
        variable = ENVIRONMENT + flag.removeprefix("--").replace("-", "_").upper()
        shown = f"; default: {default}" if default else ""
        value = environment.get(variable) or default
        run.add_argument(flag, default=value, type=kind, help=f"{text} (${variable}{shown})")

    tag = operator_version()
    add("--agent-image", f"{REGISTRY}/agent:{tag}", "image of the agent that runs in users' pods")
    add("--serving-image", f"{REGISTRY}/serving:{tag}", "image of the model server")
    add(
        "--fetch-allow",
        ",".join(FETCH_ALLOW),
        "where models and data may be fetched from, as SCHEME or SCHEME://HOST[:PORT] (HOST may have a *),"
        " with commas between them",
        _sources,
    )
    add("--network-policies", "true", "true or false: whether to make NetworkPolicies for pods", _boolean)
    add(
        "--reports-url",
        "",
        "where training pods report progress, as https://HOST:PORT: the port to listen on, and the host by"
        " which pods reach it; none: they do not report",
        _endpoint,
    )
    add(
        "--reports-secret",
        "capstan-operator-reports",
        "the Secret, beside the Lease, with the certificate of --reports-url; made if there is none",
    )
    add("--namespaces", "", "namespaces to watch, with commas between them; none: all", _names)
    add("--metrics-port", "8080", "port of /metrics, /healthz and /readyz", _between(1, 65535))
    add("--workers", "8", "resources reconciled at the same time", _between(1, 256))
    add("--log-level", "info", "debug, info, warning or error", _one_of("debug", "info", "warning", "error"))
    add("--log-format", "json", "json or text", _one_of("json", "text"))
    add("--kubeconfig", None, "kubeconfig to use instead of the pod's service account")
    add("--context", None, "context of the kubeconfig")
    add("--leader-elect", "false", "true: act only while holding the Lease, as one of several", _boolean)
    add("--lease-name", "capstan-operator", "name of the Lease")
    add("--lease-namespace", "default", "namespace of the Lease and of --reports-secret")
    add("--lease-duration", "10", "seconds after which another takes the Lease over", _between(3, 3600))
    commands.add_parser("crds", help="print the CustomResourceDefinitions as YAML")
    return top


def options(arguments: argparse.Namespace) -> Options:
    """Return the options of a parsed `run`."""
    return Options(**{name: value for name, value in vars(arguments).items() if name != "command"})
