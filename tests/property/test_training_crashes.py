"""The operator dies between any two writes of a life, and it ends as if nothing had happened.

Every write of every life is tried: the process is killed before the API server has heard of it and after, and
the request is lost on its way there and back.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from capstan_operator.core.model import Manifest

from tests.property.simulated.controllers import is_deleted
from tests.property.simulated.operator import Fault
from tests.property.simulated.world import ROUNDS
from tests.property.test_training_converges import BLAMED, NAME, TrainingJobs

#: What is the same however often the operator has died. Which words a pod still had to say is not.
TOLD = ("phase", "attempt", "restarts", "restartsCountTowardsMax", "failedNodes", "output")


class Life(TrainingJobs):
    """One life of two replicas, all of it decided in advance but for the write at which there is trouble."""

    def __init__(self, happens: Happening, fault: Fault | None = None) -> None:
        super().__init__()
        self._happens = happens
        self._fault = fault
        self._met: set[str] = set()

    def next_fault(self) -> Fault | None:
        left = self._fault.at - self.operator.api.writes if self._fault else -1
        return Fault(left, self._fault.after, self._fault.crash) if self._fault and left >= 0 else None

    def settle(self, pod: Manifest) -> None:
        """The first gang meets what the life is about, and runs until it is ended; the next ones do well."""
        self.controllers.place(pod)
        pods = self.cluster.of("Pod")
        if not self._met and len(pods) == 2 and all(p["status"]["phase"] == "Running" for p in pods):
            self._met = {p["metadata"]["uid"] for p in pods}
            self._happens(self, pods)
        again = self.cluster.get("Pod", pod["metadata"]["name"])
        running = pod["status"]["phase"] == "Running" and again is not None and not is_deleted(again)
        if running and self._met and pod["metadata"]["uid"] not in self._met:
            self.controllers.end(again or pod, "ok")

    def resume_if_suspended(self, obj: Manifest) -> None:
        if obj["kind"] == "TrainingJob" and obj.get("status", {}).get("phase") == "Suspended":
            self.somebody_suspends_or_resumes_it(False)

    def lived(self, spec: Manifest) -> Life:
        self.create(2, spec)
        for _ in range(ROUNDS):
            version = self.cluster.version
            self.calm_round()
            if version == self.cluster.version and self.converged() is None:
                return self
        raise AssertionError(f"it does not come to rest: {self.converged()}")

    def end(self) -> Any:
        """Where it has ended, and what it has left in the cluster."""
        status = (self.cluster.get("TrainingJob", NAME) or {})["status"]
        told = {field: status.get(field) for field in TOLD}
        failure = {field: status.get("failure", {}).get(field) for field in ("class", "attempt")}
        return told, failure, sorted(name for name in self.cluster.objects if name[0] != "Pod")


Happening = Callable[[Life, list[Manifest]], None]


def all_end_well(life: Life, pods: list[Manifest]) -> None:
    for pod in pods:
        life.controllers.end(pod, "ok")


def nothing(life: Life, pods: list[Manifest]) -> None:
    pass


def one_ends(how: str) -> Happening:
    def happens(life: Life, pods: list[Manifest]) -> None:
        life.blamed.setdefault("", set()).add(BLAMED.get(how, how))
        life.controllers.end(pods[0], how)

    return happens


def one_is_evicted(life: Life, pods: list[Manifest]) -> None:
    life.controllers.evict(pods[0])


def its_node_dies(life: Life, pods: list[Manifest]) -> None:
    life.controllers.lose(pods[0])


def one_is_deleted(life: Life, pods: list[Manifest]) -> None:
    life.cluster.delete("Pod", pods[0]["metadata"]["name"])


def the_spec_is_changed(life: Life, pods: list[Manifest]) -> None:
    life.somebody_changes_the_spec("i:2")


def it_is_suspended(life: Life, pods: list[Manifest]) -> None:
    life.somebody_suspends_or_resumes_it(True)


def it_is_suspended_and_resumed(life: Life, pods: list[Manifest]) -> None:
    """Resumed when it is on record that it was suspended, whatever has been done about it."""
    it_is_suspended(life, pods)
    life.cluster.listeners.append(lambda what, obj: life.resume_if_suspended(obj))


def the_job_is_deleted(life: Life, pods: list[Manifest]) -> None:
    life.cluster.delete("Job", f"{NAME}-worker-1", foreground=True)


#: What happens to the first gang, what its spec says of that, and where it ends: phase, attempt, restarts.
LIVES: dict[str, tuple[Happening, Manifest, tuple[str, int, dict[str, int] | None]]] = {
    "all is well": (all_end_well, {}, ("Succeeded", 1, None)),
    "evicted": (one_is_evicted, {}, ("Succeeded", 2, {"infrastructure": 1})),
    "its node dies": (its_node_dies, {}, ("Succeeded", 2, {"infrastructure": 1})),
    "its node dies, no budget": (
        its_node_dies,
        {"failurePolicy": {"infrastructure": {"maxRestarts": 0}}},
        ("Failed", 1, None),
    ),
    "deleted": (one_is_deleted, {}, ("Succeeded", 2, {"infrastructure": 1})),
    "killed": (one_ends("killed"), {}, ("Succeeded", 2, {"infrastructure": 1})),
    "no budget": (
        one_ends("killed"),
        {"failurePolicy": {"infrastructure": {"maxRestarts": 0}}},
        ("Failed", 1, None),
    ),
    "out of memory": (
        one_ends("out of memory"),
        {"failurePolicy": {"outOfMemory": {"maxRestarts": 1, "env": [{"name": "SMALLER", "value": "1"}]}}},
        ("Succeeded", 2, {"outOfMemory": 1}),
    ),
    "the program's error": (one_ends("user"), {}, ("Failed", 1, None)),
    "the spec is changed": (the_spec_is_changed, {}, ("Succeeded", 2, None)),
    "suspended": (it_is_suspended, {}, ("Suspended", 1, None)),
    "suspended and resumed": (it_is_suspended_and_resumed, {}, ("Succeeded", 2, None)),
    "it hangs until its time is up": (nothing, {"activeDeadline": "90s"}, ("Failed", 1, None)),
    "it is cleaned up": (all_end_well, {"ttlAfterFinished": "20s"}, ("Succeeded", 1, None)),
    "its Job is deleted": (the_job_is_deleted, {}, ("Succeeded", 1, None)),
}


@pytest.mark.parametrize("name", LIVES)
def test_wherever_the_operator_dies_the_life_ends_the_same(name: str) -> None:
    happens, spec, wanted = LIVES[name]
    undisturbed = Life(happens).lived(spec)
    told = undisturbed.end()[0]
    assert (told["phase"], told["attempt"], told["restarts"]) == wanted
    assert undisturbed.operator.api.writes >= 6
    left = {kind for kind, _ in undisturbed.cluster.objects}
    assert (left == {"TrainingJob"}) == ("ttlAfterFinished" in spec)
    for at, after, crash in product(range(undisturbed.operator.api.writes), *[(False, True)] * 2):
        disturbed = Life(happens, Fault(at, after, crash)).lived(spec)
        where = f"{'crash' if crash else 'no answer'} {'after' if after else 'before'} write {at}"
        assert disturbed.end() == undisturbed.end(), where
