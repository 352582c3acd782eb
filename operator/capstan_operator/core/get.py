"""Reading objects that may be of any shape: what is not there, or is something else, is empty."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from capstan_operator.core.model import Manifest


def mapping(value: Any, *path: str) -> Manifest:
    """The mapping at a path, or an empty one."""
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if isinstance(value, dict) else {}


def items(value: Any, *path: str) -> list[Manifest]:
    """The mappings in the list at a path."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def text(value: Any, *path: str) -> str:
    """The string at a path, or an empty one."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, str) else ""


def number(value: Any, *path: str) -> int:
    """The whole number at a path, or 0."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def labels(obj: Manifest) -> Manifest:
    """The labels of an object."""
    return mapping(obj, "metadata", "labels")


def name(obj: Manifest) -> str:
    """The name of an object."""
    return text(obj, "metadata", "name")


def time(value: Any, *path: str) -> datetime | None:
    """The time at a path, or None."""
    try:
        found = datetime.fromisoformat(text(value, *path))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def timestamp(moment: datetime) -> str:
    """A time as Kubernetes writes it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
