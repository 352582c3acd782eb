"""Which pods of a revision must be replaced for their model to be fetched again.

A model is copied into the pod before the server starts. When the server cannot load the copy, restarting the
server changes nothing: only a new pod fetches again, and so finds out that the model has been mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from capstan_operator.core import get, observed, termination
from capstan_operator.core.model import Manifest

#: What the server calls a model that it cannot load.
MODEL_LOAD_FAILED: Final = "ModelLoadFailed"
#: Seconds a pod is given, at least and at most. Between, it is half as long as the trouble has lasted, so
#: that what stays broken is looked at less and less often.
SOONEST: Final = 20.0
LATEST: Final = 600.0


def due(
    pods: Sequence[Manifest], trouble_since: datetime | None, now: datetime
) -> tuple[list[Manifest], float | None]:
    """The pods to replace now, and in how many seconds to look at the others again."""
    lasted = (now - trouble_since).total_seconds() if trouble_since else 0.0
    patience = min(max(SOONEST, lasted / 2), LATEST)
    replace, waits = [], []
    for pod in pods:
        born = get.time(pod, "metadata", "creationTimestamp")
        if born is None or observed.deleted(pod) or not _load_failed(pod):
            continue
        left = patience - (now - born).total_seconds()
        if left <= 0:
            replace.append(pod)
        else:
            waits.append(left)
    return replace, max(1.0, min(waits)) if waits else None


def _load_failed(pod: Manifest) -> bool:
    for container in observed.containers(pod):
        said = termination.of(container.failed)
        if not container.init and said is not None and said.reason == MODEL_LOAD_FAILED:
            return True
    return False
