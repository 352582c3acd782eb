"""The fleet's metrics: what the statuses of all resources say, told at each scrape.

Series with a name exist as long as their resource does, a fixed few for each. They are written as text here:
for thousands of resources prometheus_client's objects would hold up the event loop for a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from capstan_operator.api import inference_service, training_job
from capstan_operator.core import conditions, get
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies import restart
from capstan_operator.shell.store import Held

#: A resource that no pass has been over yet.
ACCEPTED: Final = "Accepted"


class Family(NamedTuple):
    """One metric: its labels and value for each resource that has any."""

    name: str
    text: str
    series: Callable[[Manifest], Iterable[tuple[str, float]]]
    kind: str = "gauge"


class Told(NamedTuple):
    """What is told of one version of a resource: where it is, its phase, and its lines of each family."""

    version: int
    namespace: str
    phase: str
    lines: list[str]


class Fleet:
    """The fleet's text. A resource is read again when it has changed, and not at each scrape."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}

    def exposition(self, jobs: Iterable[Held], services: Iterable[Held]) -> str:
        """Everything, in Prometheus' text format."""
        known, self._told = self._told, {}
        tables = [
            (kind, prefix, families, [self._tell(held, prefix, families, known) for held in objects])
            for kind, prefix, families, objects in (
                (training_job.KIND, "capstan_trainingjob_", (*COMMON, *JOBS), jobs),
                (inference_service.KIND, "capstan_inferenceservice_", (*COMMON, *SERVICES), services),
            )
        ]
        text = list(_head("capstan_operator_resources", "Resources by kind, namespace and phase.", "gauge"))
        for kind, _, _, rows in tables:
            for (namespace, phase), count in sorted(Counter((r.namespace, r.phase) for r in rows).items()):
                labels = f'kind="{kind}",namespace="{namespace}",phase="{_escaped(phase)}"'
                text.append(f"capstan_operator_resources{{{labels}}} {count}\n")
        for _, prefix, families, rows in tables:
            for number, family in enumerate(families):
                text += _head(prefix + family.name, family.text, family.kind)
                text += [row.lines[number] for row in rows]
        return "".join(text)

    def _tell(self, held: Held, prefix: str, families: tuple[Family, ...], known: dict[str, Told]) -> Told:
        told = known.get(held.uid)
        if told is None or told.version != held.version:
            obj = held.manifest()
            namespace = get.text(obj, "metadata", "namespace")
            name = f'namespace="{namespace}",name="{get.name(obj)}"'
            lines = [
                "".join(
                    f"{prefix}{family.name}{{{name}{more}}} {value}\n" for more, value in family.series(obj)
                )
                for family in families
            ]
            told = Told(held.version, namespace, _phase(obj), lines)
        self._told[held.uid] = told
        return told


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}\n"
    yield f"# TYPE {name} {kind}\n"


def _number(*path: str) -> Callable[[Manifest], Iterable[tuple[str, float]]]:
    return lambda obj: (("", get.number(obj, "status", *path)),)


def _progress(field: str) -> Callable[[Manifest], Iterable[tuple[str, float]]]:
    def series(obj: Manifest) -> Iterator[tuple[str, float]]:
        if field in (found := get.mapping(obj, "status", "progress")):
            yield "", get.number(found, field)

    return series


def _moment(field: str) -> Callable[[Manifest], Iterable[tuple[str, float]]]:
    def series(obj: Manifest) -> Iterator[tuple[str, float]]:
        if (moment := get.time(obj, "status", field)) is not None:
            yield "", moment.timestamp()

    return series


def _phase(obj: Manifest) -> str:
    return get.text(obj, "status", "phase") or ACCEPTED


def _reason(obj: Manifest) -> str:
    return get.text(_ready(obj), "reason") or ACCEPTED


def _ready(obj: Manifest) -> Manifest:
    return conditions.find(get.mapping(obj, "status"), conditions.READY)


def _revisions(obj: Manifest) -> Iterator[tuple[str, float]]:
    for role in ("stable", "candidate"):
        if found := get.mapping(obj, "status", "revisions", role):
            values = {"revision": get.text(found, "hash"), "model_digest": get.text(found, "modelDigest")}
            labels = "".join(f',{label}="{_escaped(value)}"' for label, value in values.items())
            yield f',role="{role}"{labels}', 1


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


COMMON: Final = (
    Family(
        "status_phase",
        "The phase it is in; 1.",
        lambda obj: ((f',phase="{_escaped(_phase(obj))}"', 1),),
    ),
    Family(
        "status_reason",
        "The reason of its condition Ready; 1.",
        lambda obj: ((f',reason="{_escaped(_reason(obj))}"', 1),),
    ),
    Family(
        "ready",
        "Its condition Ready: 1 or 0.",
        lambda obj: (("", int(get.text(_ready(obj), "status") == conditions.TRUE)),),
    ),
)
JOBS: Final = (
    Family("attempt", "The attempt it is in, from 1.", _number("attempt")),
    Family(
        "restarts_total",
        "Restarts after failures, of whatever class.",
        lambda obj: (("", sum(get.number(obj, "status", "restarts", name) for name in restart.CLASSES)),),
        "counter",
    ),
    Family("replicas_desired", "Replicas wanted.", _number("replicas", "worker", "desired")),
    Family("replicas_ready", "Replicas that run.", _number("replicas", "worker", "ready")),
    Family("progress_step", "The step its program has reported last.", _progress("step")),
    Family("progress_percent", "How much of it is done, as its program reports.", _progress("percent")),
    Family("start_time_seconds", "When it was first acted on.", _moment("startTime")),
    Family("completion_time_seconds", "When it succeeded or failed.", _moment("completionTime")),
)
SERVICES: Final = (
    Family("replicas_desired", "Pods wanted.", _number("replicas", "desired")),
    Family("replicas_ready", "Pods that are ready to answer.", _number("replicas", "ready")),
    Family("revision_info", "The revision in use (stable) and the one to come (candidate); 1.", _revisions),
)
