"""The API reference, as Markdown, from the same schemas the CRDs have."""

from __future__ import annotations

from typing import Any

from capstan_operator.api import inference_service, training_job
from capstan_operator.api.base import VALIDATIONS, Model
from capstan_operator.api.common import API_VERSION
from capstan_operator.api.crd import schema

Json = dict[str, Any]

_HEAD = f"""# API reference

Generated from the models (`operator/capstan_operator/api`); `kubectl explain` says the same. Both kinds are
namespaced and of the version `{API_VERSION}`. Fields marked * are required.
"""


def reference() -> str:
    """The whole document."""
    return "\n".join(
        [_HEAD, *_kind(training_job.TrainingJob, "tj"), *_kind(inference_service.InferenceService, "infsvc")]
    )


def _kind(model: type[Model], short: str) -> list[str]:
    found = schema(model)
    lines = [f"## {model.__name__}", "", f"{found['description']} Short name: `{short}`.", ""]
    for part in ("spec", "status"):
        of_part = found["properties"][part]
        lines += [f"### {model.__name__} {part}", "", of_part["description"], ""]
        lines += ["| field | type | meaning |", "|---|---|---|", *_fields(of_part, ""), ""]
        lines += _rules(of_part, part)
    return lines


def _fields(found: Json, prefix: str) -> list[str]:
    lines = []
    for name, field in found["properties"].items():
        mark = "*" if name in found.get("required", ()) else ""
        lines.append(f"| `{prefix}{name}`{mark} | {_type(field)} | {_meaning(field)} |")
        inner, path = field, f"{prefix}{name}"
        if "items" in inner:
            inner, path = inner["items"], f"{path}[]"
        if isinstance(inner.get("additionalProperties"), dict):
            inner, path = inner["additionalProperties"], f"{path}.*"
        if "properties" in inner:
            lines += _fields(inner, f"{path}.")
    return lines


def _type(field: Json) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "number or text"
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"map to {_type(field['additionalProperties'])}"
    return str(field.get("type", "anything"))


def _meaning(field: Json) -> str:
    parts = [_plain(field.get("description", ""))]
    default = field.get("default")
    if default is not None and not isinstance(default, dict):
        parts.append(f"Default: `{str(default).lower() if isinstance(default, bool) else default}`.")
    if "minimum" in field and "maximum" in field:
        parts.append(f"From {field['minimum']} to {field['maximum']}.")
    return " ".join(part for part in parts if part)


def _plain(sentence: str) -> str:
    """A sentence as Markdown shows it, also in a table."""
    return sentence.replace("|", "\\|").replace("<", "&lt;")


def _rules(found: Json, path: str) -> list[str]:
    """The rules across fields, with the place they hold at."""
    told = [f"- `{where}`: {rule}" for where, rule in _walk(found, path)]
    return ["Refused at admission:", "", *told, ""] if told else []


def _walk(found: Json, path: str) -> list[tuple[str, str]]:
    result = [(path, _plain(rule["message"])) for rule in found.get(VALIDATIONS, ())]
    for name, field in found.get("properties", {}).items():
        result += _walk(field, f"{path}.{name}")
    if "items" in found:
        result += _walk(found["items"], f"{path}[]")
    return result
