"""From the models to CustomResourceDefinitions.

pydantic writes JSON Schema; Kubernetes wants a structural schema: no $ref, no unions with null, no titles,
and what the schema leaves out is left out of the object. The defaults are the models'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from capstan_operator.api import inference_service, training_job
from capstan_operator.api.base import Model
from capstan_operator.api.common import GROUP, VERSION

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """What `kubectl get` shows; those with a priority only with -o wide."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""

    def json(self) -> Json:
        """The entry of additionalPrinterColumns."""
        result: Json = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.priority:
            result["priority"] = self.priority
        if self.description:
            result["description"] = self.description
        return result


AGE = Column("Age", ".metadata.creationTimestamp", "date")
REASON = Column(
    "Reason", '.status.conditions[?(@.type=="Ready")].reason', description="Why it is or is not ready"
)

TRAINING_JOB_COLUMNS = (
    Column("Phase", ".status.phase"),
    Column("Ready", ".status.replicas.worker.ready", "integer", description="Replicas that are running"),
    Column("Replicas", ".spec.replicas", "integer", description="Replicas that were asked for"),
    Column("Attempt", ".status.attempt", "integer"),
    Column("Progress", ".status.progress.summary", description="How far the program has come"),
    REASON,
    AGE,
    Column("Checkpoint", ".status.checkpoint.step", "integer", 1, "The step the newest checkpoint is of"),
    Column("ETA", ".status.progress.eta", priority=1, description="When it will be done"),
    Column("Accelerator", ".spec.accelerator.type", priority=1),
    Column("Image", ".spec.image", priority=1),
    Column("Output", ".status.output.digest", priority=1, description="Digest of the model"),
)
INFERENCE_SERVICE_COLUMNS = (
    Column("Phase", ".status.phase"),
    Column("Ready", ".status.replicas.ready", "integer", description="Pods that answer"),
    Column("Replicas", ".spec.replicas.min", "integer", description="Pods that were asked for"),
    Column("URL", ".status.url"),
    REASON,
    AGE,
    Column("gRPC", ".status.grpcUrl", priority=1),
    Column("Model", ".status.model.digest", priority=1, description="Digest of the model"),
    Column("Revision", ".status.revisions.stable.hash", priority=1, description="The revision in use"),
)


def crds() -> list[Json]:
    """Every CustomResourceDefinition, as kubectl applies it."""
    return [
        crd(
            training_job.TrainingJob,
            training_job.PLURAL,
            ("tj",),
            TRAINING_JOB_COLUMNS,
        ),
        crd(
            inference_service.InferenceService,
            inference_service.PLURAL,
            ("infsvc",),
            INFERENCE_SERVICE_COLUMNS,
        ),
    ]


def crd(model: type[Model], plural: str, short: tuple[str, ...], columns: tuple[Column, ...]) -> Json:
    """One CustomResourceDefinition."""
    kind = model.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "capstan", "app.kubernetes.io/part-of": "capstan"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": list(short),
                "categories": ["capstan"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root(schema(model))},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.json() for column in columns],
                }
            ],
        },
    }


def schema(model: type[Model]) -> Json:
    """The structural schema of a model."""
    raw = model.model_json_schema(by_alias=True)
    result = _structural(raw, raw.get("$defs", {}))
    if not isinstance(result, dict):
        raise TypeError(f"{model.__name__} has no object schema")
    return result


def _root(structural: Json) -> Json:
    """The schema of a whole object: kubectl explain needs to know of its first three fields, too."""
    properties = {
        "apiVersion": {"type": "string", "description": "The version of the API this object is written in."},
        "kind": {"type": "string", "description": "The kind of this object."},
        "metadata": {"type": "object"},
    }
    return structural | {"properties": properties | structural["properties"]}


#: What JSON Schema says that a structural schema must not, or need not.
_DROPPED = frozenset({"title", "additionalProperties", "$defs"})


def _structural(node: Json, definitions: Json) -> Json:
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        # A description at the reference is about the field; the target's is about the type.
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option != {"type": "null"}]
        if len(options) != 1:
            raise ValueError(f"a union that is no structural schema: {node}")
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _structural(options[0] | rest, definitions)
    if "const" in node:
        node = {key: value for key, value in node.items() if key != "const"} | {"enum": [node["const"]]}
    result = {key: value for key, value in node.items() if key not in _DROPPED}
    if "default" in result:
        result |= {"default": _without_none(result["default"])}
        if result["default"] is None:
            del result["default"]
    if isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(node["additionalProperties"], definitions)
        result.pop("propertyNames", None)
    if "properties" in node:
        result["properties"] = {
            name: _structural(value, definitions) for name, value in node["properties"].items()
        }
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    return result


def _without_none(value: Any) -> Any:
    """A default as an object is written: fields that are not there are not there."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
