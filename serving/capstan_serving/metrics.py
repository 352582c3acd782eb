"""The metrics, in Prometheus' text format, under Triton's names so that existing dashboards work.

The counters are the native front end's and are only read here. prometheus_client writes the process's own
metrics; ours it could not, because it gives every counter the suffix `_total`, which Triton's lack.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client import generate_latest

from capstan_serving._native import DURATION_BOUNDS_US
from capstan_serving.backends.providers import PROVIDERS
from capstan_serving.catalog import Entry
from capstan_serving.counters import ModelStatistics

__all__ = ["CONTENT_TYPE", "exposition"]

_COUNTERS: tuple[tuple[str, str, Callable[[ModelStatistics], int]], ...] = (
    ("nv_inference_request_success", "Successful inference requests", lambda model: model["success"][0]),
    (
        "nv_inference_count",
        "Inferences: a batch counts as many as its rows",
        lambda model: model["inferences"],
    ),
    ("nv_inference_exec_count", "Executions of the model", lambda model: model["executions"]),
    (
        "nv_inference_request_duration_us",
        "Time of successful requests from queueing to answer, in microseconds",
        lambda model: model["success"][1] // 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Time that requests waited for an execution, in microseconds",
        lambda model: model["queue"][1] // 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Time of preparing inputs, in microseconds",
        lambda model: model["compute_input"][1] // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time of executing the model, in microseconds",
        lambda model: model["compute_infer"][1] // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Time of taking outputs, in microseconds",
        lambda model: model["compute_output"][1] // 1000,
    ),
)

_HISTOGRAM = "capstan_inference_request_duration_seconds"


def exposition(models: list[ModelStatistics], entries: Iterable[Entry]) -> bytes:
    """The whole page."""
    entries = list(entries)
    lines = [*_models(models), *_loads(entries), *_providers(entries)]
    return "".join(f"{line}\n" for line in lines).encode() + generate_latest()


def _models(models: list[ModelStatistics]) -> Iterator[str]:
    labels = [_labels(model["name"], model["version"]) for model in models]
    for name, help_text, value in _COUNTERS:
        yield from _head(name, help_text, "counter")
        for model, label in zip(models, labels, strict=True):
            yield f"{name}{{{label}}} {value(model)}"

    name = "nv_inference_request_failure"
    yield from _head(name, "Failed inference requests, by reason", "counter")
    for model, label in zip(models, labels, strict=True):
        yield f'{name}{{{label},reason="REJECTED"}} {model["rejected"]}'
        yield f'{name}{{{label},reason="CANCELED"}} {model["cancelled"]}'
        yield f'{name}{{{label},reason="BACKEND"}} {model["backend_failed"]}'
        yield f'{name}{{{label},reason="OTHER"}} {model["other_failed"]}'

    name = "nv_inference_pending_request_count"
    yield from _head(name, "Requests that wait for an execution", "gauge")
    for model, label in zip(models, labels, strict=True):
        yield f"{name}{{{label}}} {model['pending']}"

    yield from _head(_HISTOGRAM, "Time of successful requests from queueing to answer", "histogram")
    for model, label in zip(models, labels, strict=True):
        yield from _histogram(model, label)


def _histogram(model: ModelStatistics, label: str) -> Iterator[str]:
    total = 0
    bounds = [str(bound / 1e6) for bound in DURATION_BOUNDS_US] + ["+Inf"]
    for bound, count in zip(bounds, model["duration_buckets"], strict=True):
        total += count
        yield f'{_HISTOGRAM}_bucket{{{label},le="{bound}"}} {total}'
    yield f"{_HISTOGRAM}_sum{{{label}}} {model['success'][1] / 1e9}"
    yield f"{_HISTOGRAM}_count{{{label}}} {total}"


def _loads(entries: Iterable[Entry]) -> Iterator[str]:
    name = "nv_model_load_duration_secs"
    yield from _head(name, "Time of loading the model, in seconds", "gauge")
    for entry in entries:
        if entry.backend:
            yield f"{name}{{{_labels(entry.name, str(entry.version))}}} {entry.load_seconds:.6f}"


def _providers(entries: Iterable[Entry]) -> Iterator[str]:
    name = "capstan_serving_provider"
    yield from _head(
        name,
        "Whether an execution provider is in use by the model: 0 when it was asked for and cannot be",
        "gauge",
    )
    for entry in entries:
        if entry.loaded:
            label = _labels(entry.name, str(entry.version))
            for provider in entry.loaded.backend.providers:
                yield f'{name}{{{label},provider="{provider}"}} 1'
            for provider in entry.loaded.missing:
                yield f'{name}{{{label},provider="{PROVIDERS[provider]}"}} 0'


def _head(name: str, help_text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def _labels(model: str, version: str) -> str:
    escaped = model.replace("\\", r"\\").replace('"', r"\"")
    return f'model="{escaped}",version="{version}"'
