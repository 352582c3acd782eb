"""Judges a finished demo and lays it out for a reader. Pure."""

from datetime import datetime
from typing import Any

from capstan_demo.story import table

Manifest = dict[str, Any]

MINIMUM_ACCURACY = 0.95


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two Kubernetes timestamps."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def problems(job: Manifest, service: Manifest, measured: Manifest) -> list[str]:
    """Return what falls short of the demo's promise, a sentence each; nothing when all of it holds."""
    short = []
    for protocol in ("http", "grpc"):
        result = measured[protocol]
        if result["requests"] == 0 or result["errors"]:
            short.append(f"{protocol}: {result['errors']} of {result['requests']} requests failed")
        if result["accuracy"] < MINIMUM_ACCURACY:
            short.append(f"{protocol}: accuracy {result['accuracy']:.3f} is below {MINIMUM_ACCURACY}")
    trained, served = job["status"]["output"]["digest"], service["status"]["model"]["digest"]
    if trained != served:
        short.append(f"the job wrote the model {trained}, the service serves {served}")
    return short


def outcome(job: Manifest, service: Manifest, measured: Manifest) -> str:
    """Return the closing table."""
    status, model = job["status"], service["status"]["model"]
    rows: list[tuple[str, ...]] = [
        (
            "training job",
            f"{job['metadata']['name']}: {job['spec']['framework']}, {job['spec']['replicas']} replicas",
        ),
        ("duration", f"{seconds_between(status['startTime'], status['completionTime']):.0f} s"),
        (
            "held-out digits",
            f"{measured['http']['accuracy']:.1%} right ({MINIMUM_ACCURACY:.0%} or more wanted)",
        ),
        ("model", f"{model['name']}, version {model['version']}, {model['digest'][:19]}..."),
    ]
    for protocol in ("http", "grpc"):
        result = measured[protocol]
        answered = f"{result['requests']} requests answered, {result['accuracy']:.1%} right"
        times = f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms"
        rows.append(({"http": "HTTP", "grpc": "gRPC"}[protocol], f"{answered}, {times}"))
    return table(rows)
