"""The operator's metrics, on a registry of its own, so that tests and embedders never share counters."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

PREFIX = "capstan_operator"
#: Seconds. A pass without a write takes a millisecond; one that waits for a slow API server, many seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def operator_version() -> str:
    """Return the version of the installed distribution; "unknown" when run from bare sources."""
    try:
        return version("capstan-operator")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """Every counter the shell keeps. Label values are from small fixed sets: names are for fleet.py alone."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info(PREFIX, "The running operator.", registry=registry).info({"version": operator_version()})
        self.leader = Gauge(f"{PREFIX}_leader", "1 while this operator leads.", registry=registry)
        self.reconciles = Counter(
            f"{PREFIX}_reconciles", "Passes over a resource.", ["kind", "outcome"], registry=registry
        )
        self.duration = Histogram(
            f"{PREFIX}_reconcile_duration_seconds",
            "How long a pass over a resource takes.",
            ["kind"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            f"{PREFIX}_queue_depth", "Resources that wait for a worker.", registry=registry
        )
        self.queue_adds = Counter(f"{PREFIX}_queue_adds", "Passes asked for.", registry=registry)
        self.queue_retries = Counter(
            f"{PREFIX}_queue_retries", "Passes repeated after a failure.", registry=registry
        )
        self.api_requests = Counter(
            f"{PREFIX}_api_requests",
            'Requests to the API server; code "error": no answer, "fenced": not sent, as we do not lead.',
            ["verb", "code"],
            registry=registry,
        )
        self.store_objects = Gauge(
            f"{PREFIX}_store_objects", "Objects known from the cluster.", ["kind"], registry=registry
        )
        self.watch_restarts = Counter(
            f"{PREFIX}_watch_restarts", "Watches begun anew, by why.", ["kind", "reason"], registry=registry
        )
        self.reports = Counter(
            f"{PREFIX}_reports", "Reports of progress, by the status answered.", ["code"], registry=registry
        )
        self.events = Counter(
            f"{PREFIX}_events", "Kubernetes Events, by what became of them.", ["result"], registry=registry
        )

    def render(self) -> bytes:
        """Return the text exposition."""
        return generate_latest(self.registry)
