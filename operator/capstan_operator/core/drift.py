"""Whether a live object is still what was desired of it.

The API server adds defaults and other controllers add fields of theirs, so what is desired must be contained
in what is live. Server-side apply then repairs what is not.

What was desired once and is no longer would be contained, too: each child is annotated with the hash of what
it was rendered as, so it differs then, and server-side apply prunes what was ours. Entries that other
managers add to lists with keys (a container, a port, a variable) are theirs, and are left alone.
"""

from __future__ import annotations

from typing import Any

from capstan_operator.core import quantity
from capstan_operator.core.model import Manifest

#: Fields that hold quantities, which the API server rewrites (1000m is stored as 1).
_AMOUNTS = frozenset({"limits", "requests"})
#: Fields that nobody may add to: one label more, and a Service has no pods; one rule more, and all may enter.
_EXACT = frozenset({"selector", "podSelector", "ingress"})


def differs(live: Manifest, desired: Manifest) -> bool:
    """Whether applying `desired` would change `live`."""
    return not _contains(live, desired)


def _contains(live: Any, desired: Any) -> bool:
    if isinstance(desired, dict):
        return isinstance(live, dict) and all(
            _contains_field(live, key, value) for key, value in desired.items()
        )
    if isinstance(desired, list):
        if not isinstance(live, list):
            return False
        if all(isinstance(item, dict) for item in desired):
            # Lists of objects are merged by key: others may have added to them, in any order.
            return all(any(_contains(found, item) for found in live) for item in desired)
        return live == desired
    return bool(live == desired) and isinstance(live, bool) == isinstance(desired, bool)


def _contains_field(live: dict[str, Any], key: str, desired: Any) -> bool:
    if key not in live:
        # Empty is how the API server stores what is absent.
        return desired is None or desired in ("", [], {})
    if key in _AMOUNTS and isinstance(desired, dict) and isinstance(live[key], dict):
        return all(
            name in live[key] and (live[key][name] == amount or quantity.same(live[key][name], amount))
            for name, amount in desired.items()
        )
    if key in _EXACT:
        return bool(live[key] == desired)
    if key == "sizeLimit":
        return quantity.same(live[key], desired)
    return _contains(live[key], desired)
