"""Observed objects, as a cluster shows them."""

import json
from typing import Any, Protocol

import pytest

Json = dict[str, Any]


class MakePod(Protocol):
    def __call__(self, index: int = 0, **parts: Any) -> Json: ...


@pytest.fixture
def make_pod() -> MakePod:
    """A pod; `trainer`, `server`, `fetch` ... are the states of containers of that name."""

    def make(
        index: int = 0,
        *,
        phase: str = "Running",
        conditions: list[Json] | None = None,
        reason: str = "",
        deleted: str = "",
        grace: int = 30,
        created: str = "2026-01-01T00:00:00Z",
        init: dict[str, Json] | None = None,
        ready: bool = False,
        **containers: Json,
    ) -> Json:
        metadata: Json = {
            "name": f"job-{index}",
            "creationTimestamp": created,
            "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
        }
        if deleted:
            metadata |= {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": grace}

        def statuses(states: dict[str, Json]) -> list[Json]:
            return [
                {"name": n, "image": f"{n}:1", "ready": ready, **_split(state)} for n, state in states.items()
            ]

        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"nodeName": "node-1"},
            "status": {
                "phase": phase,
                "reason": reason,
                "message": f"{reason} it is",
                "conditions": conditions or [],
                "containerStatuses": statuses(containers),
                "initContainerStatuses": statuses(init or {}),
            },
        }

    return make


def _split(state: Json) -> Json:
    last = {"lastState": state["last"]} if "last" in state else {}
    return {"state": {key: value for key, value in state.items() if key != "last"}, **last}


@pytest.fixture
def ended() -> Any:
    """A container's state after its end, with the agent's words if there are any."""

    def make(code: int, at: str = "2026-01-01T00:01:00Z", because: str = "Error", **words: Any) -> Json:
        state: Json = {"exitCode": code, "finishedAt": at, "reason": because}
        if words:
            state["message"] = json.dumps({"capstan": 1, "exitCode": code, **words})
        return {"terminated": state}

    return make
