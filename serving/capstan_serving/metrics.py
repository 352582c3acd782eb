"""The metrics, in Prometheus' text format, under Triton's names so that existing dashboards work.

The counters are the native front end's and are only read here. prometheus_client writes the process's own
metrics; ours it could not, because it gives every counter the suffix `_total`, which Triton's lack.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client import generate_latest

from capstan_serving._native import BATCH_BOUNDS, DURATION_BOUNDS_US
from capstan_serving.catalog import Entry
from capstan_serving.counters import Histogram, ModelStatistics
from capstan_serving.nvml import Gpus
from capstan_serving.otlp import Exporter

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
    (
        "nv_cache_num_hits_per_model",
        "Requests answered from the response cache",
        lambda model: model["cache_hit"][0],
    ),
    (
        "nv_cache_num_misses_per_model",
        "Requests that the response cache had no answer for",
        lambda model: model["cache_miss"][0],
    ),
    (
        "nv_cache_hit_duration_per_model",
        "Time of finding answers in the response cache, in microseconds",
        lambda model: model["cache_hit"][1] // 1000,
    ),
    (
        "nv_cache_miss_duration_per_model",
        "Time of looking in vain and keeping the answer, in microseconds",
        lambda model: model["cache_miss"][1] // 1000,
    ),
)

_SECONDS = tuple(bound / 1e6 for bound in DURATION_BOUNDS_US)

_HISTOGRAMS: tuple[tuple[str, str, tuple[float, ...], float, Callable[[ModelStatistics], Histogram]], ...] = (
    (
        "capstan_inference_request_duration_seconds",
        "Time of successful requests from queueing to answer",
        _SECONDS,
        1e9,
        lambda model: model["request_times"],
    ),
    (
        "capstan_inference_queue_duration_seconds",
        "Time that requests waited for an execution",
        _SECONDS,
        1e9,
        lambda model: model["queue_times"],
    ),
    (
        "capstan_inference_compute_duration_seconds",
        "Time of executions, from their inputs to their outputs",
        _SECONDS,
        1e9,
        lambda model: model["compute_times"],
    ),
    (
        "capstan_inference_batch_size",
        "Rows of executions",
        BATCH_BOUNDS,
        1,
        lambda model: model["batch_rows"],
    ),
)
"""Name, help, bounds, what of the sum is one, and where it comes from."""


def exposition(
    models: list[ModelStatistics],
    entries: Iterable[Entry],
    exporter: Exporter | None = None,
    gpus: Gpus | None = None,
    connections: Iterable[tuple[str, int, int]] = (),
) -> bytes:
    """The whole page."""
    entries, connections = list(entries), list(connections)
    lines = [*_models(models), *_loads(entries), *_providers(entries)]
    lines += [*_traces(exporter), *_gpus(gpus), *_connections(connections)]
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

    for name, help_text, bounds, unit, histogram in _HISTOGRAMS:
        yield from _head(name, help_text, "histogram")
        for model, label in zip(models, labels, strict=True):
            yield from _histogram(name, label, bounds, unit, histogram(model))


def _histogram(
    name: str, label: str, bounds: tuple[float, ...], unit: float, histogram: Histogram
) -> Iterator[str]:
    total = 0
    buckets, observed = histogram
    for bound, count in zip([*map(str, bounds), "+Inf"], buckets, strict=True):
        total += count
        yield f'{name}_bucket{{{label},le="{bound}"}} {total}'
    yield f"{name}_sum{{{label}}} {observed / unit}"
    yield f"{name}_count{{{label}}} {total}"


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
                yield f'{name}{{{label},provider="{provider}"}} 0'


def _traces(exporter: Exporter | None) -> Iterator[str]:
    if exporter:
        name = "capstan_serving_trace_spans_total"
        yield from _head(name, "Spans of traced requests, by what became of them", "counter")
        yield f'{name}{{outcome="exported"}} {exporter.exported}'
        yield f'{name}{{outcome="dropped"}} {exporter.dropped}'


def _gpus(gpus: Gpus | None) -> Iterator[str]:
    for name, help_text, kind, samples in gpus.metrics() if gpus else ():
        yield from _head(name, help_text, kind)
        for uuid, value in samples:
            yield f'{name}{{gpu_uuid="{uuid}"}} {value}'


def _connections(connections: list[tuple[str, int, int]]) -> Iterator[str]:
    name = "capstan_serving_connections"
    yield from _head(name, "Open connections, by port", "gauge")
    for door, opened, _ in connections:
        yield f'{name}{{door="{door}"}} {opened}'
    name = "capstan_serving_connections_refused_total"
    yield from _head(name, "Connections that were one too many, by port", "counter")
    for door, _, refused in connections:
        yield f'{name}{{door="{door}"}} {refused}'


def _head(name: str, help_text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def _labels(model: str, version: str) -> str:
    escaped = model.replace("\\", r"\\").replace('"', r"\"")
    return f'model="{escaped}",version="{version}"'
