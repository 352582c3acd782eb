"""Merges a user's pod template into the generated one, as a strategic merge patch would.

Objects are merged field by field, lists of named things by name, other lists replaced; null removes. Nothing
here knows what the fields mean, save which lists are merged and by what key (Kubernetes' patchMergeKey).
"""

from __future__ import annotations

from typing import Any

from capstan_operator.core.model import Manifest

#: The key that identifies an item, by the list's field name.
_KEYS: dict[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
#: Lists that are added to.
_ADDED = frozenset(
    {
        "tolerations",
        "topologySpreadConstraints",
        "envFrom",
        "preferredDuringSchedulingIgnoredDuringExecution",
        "sysctls",
        "supplementalGroups",
    }
)
_TERMS = "nodeSelectorTerms"
#: Of a volume's many fields one says what it is, so a volume of ours is replaced, not mixed with the user's.
_WHOLE = frozenset({"volumes"})


def merged(base: Manifest, overlay: Manifest) -> Manifest:
    """`base` with the overlay's fields over it. Neither is changed."""
    result = dict(base)
    for key, value in overlay.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged_field(key, result.get(key), value)
    return result


def _merged_field(key: str, base: Any, overlay: Any) -> Any:
    if isinstance(overlay, dict):
        return merged(base if isinstance(base, dict) else {}, overlay)
    if not isinstance(overlay, list) or not isinstance(base, list):
        return overlay
    if key == _TERMS:
        return _both(base, overlay)
    if key in _ADDED:
        return [*base, *(item for item in overlay if item not in base)]
    if key in _KEYS and all(_identified(item, _KEYS[key]) for item in [*base, *overlay]):
        return _by_key(key, base, overlay)
    return overlay


def _identified(item: Any, key: str) -> bool:
    return isinstance(item, dict) and isinstance(item.get(key), str | int)


def _by_key(field: str, base: list[Manifest], overlay: list[Manifest]) -> list[Manifest]:
    key = _KEYS[field]
    found: dict[Any, Manifest] = {item[key]: item for item in base}
    for item in overlay:
        before = {} if field in _WHOLE else found.get(item[key], {})
        if field == "env" and ("value" in item or "valueFrom" in item):
            before = {}
        found[item[key]] = merged(before, item)
    return list(found.values())


def _both(ours: list[Any], theirs: list[Any]) -> list[Any]:
    """Terms are alternatives. To meet one of ours and one of theirs is to meet one of all their pairs."""
    if not all(isinstance(term, dict) for term in [*ours, *theirs]):
        return theirs
    return [
        {
            field: [*_list(one.get(field)), *_list(other.get(field))]
            for field in ("matchExpressions", "matchFields")
            if one.get(field) or other.get(field)
        }
        for one in ours
        for other in theirs
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
