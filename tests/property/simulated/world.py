"""The whole simulation as a hypothesis state machine: what can go on around any resource."""

from __future__ import annotations

from typing import Any

import jsonschema
from capstan_operator.api.crd import schema
from capstan_operator.api.inference_service import InferenceService
from capstan_operator.api.training_job import TrainingJob
from capstan_operator.core.labels import MANAGED_BY
from capstan_operator.core.model import Manifest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.property.simulated.cluster import Cluster, owners
from tests.property.simulated.controllers import Controllers
from tests.property.simulated.operator import CHILDREN, OWN, Fault, Operator

#: Made once: to check a schema takes much longer than to check a status against it.
STATUSES = {
    model.__name__: jsonschema.Draft202012Validator(schema(model)["properties"]["status"])
    for model in (TrainingJob, InferenceService)
}
#: Rounds after which a world in which nothing goes wrong any more must have come to rest.
ROUNDS = 60

#: What hands are laid on.
CHILD_KINDS = ("Job", "Deployment", "Service", "NetworkPolicy")

numbers = st.integers(0, 7)
faults = st.none() | st.builds(Fault, at=st.integers(0, 4), after=st.booleans(), crash=st.booleans())


#: A life costs as much as three plans.
lives = settings(max_examples=settings().max_examples // 3)


class World(RuleBasedStateMachine):
    """Everything that is not about one kind: time, controllers, watches, crashes, hands that edit."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.controllers = Controllers(self.cluster)
        self.operator = Operator(self.cluster, self.watchdog)

    def watchdog(self, verb: str, obj: Manifest) -> str | None:
        """What must hold of every write, in a sentence when it does not."""
        if verb == "status":
            STATUSES[obj["kind"]].validate(obj["status"])
            before = self.cluster.get(obj["kind"], obj["metadata"]["name"])
            return self.recorded((before or {}).get("status", {}), obj)
        look = {"apply": self.applied, "delete": self.deleted}.get(verb)
        controller = owners(obj)[0]
        owner = self.cluster.get(controller["kind"], controller["name"])
        if look is None or owner is None or owner["metadata"]["uid"] != controller["uid"]:
            return None  # its owner has gone, which was not heard of yet: garbage collection takes it
        return look(obj, owner.get("status", {}))

    def recorded(self, before: Manifest, after: Manifest) -> str | None:
        raise NotImplementedError

    def applied(self, child: Manifest, status: Manifest) -> str | None:
        raise NotImplementedError

    def deleted(self, child: Manifest, status: Manifest) -> str | None:
        raise NotImplementedError

    def child(self, kinds: tuple[str, ...], number: int) -> Manifest | None:
        found = [obj for kind in kinds for obj in self.cluster.of(kind)]
        return found[number % len(found)] if found else None

    def managed(self, *kinds: str) -> list[Manifest]:
        """Children that can be seen: what has lost this label is its user's, until its owner goes."""
        found = [obj for kind in kinds for obj in self.cluster.of(kind)]
        return [obj for obj in found if MANAGED_BY in obj["metadata"]["labels"]]

    @rule(seconds=st.sampled_from([1, 5, 20, 100]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.tick(seconds)

    @rule()
    def controllers_look(self) -> None:
        self.controllers.look()

    @rule()
    def garbage_is_collected(self) -> None:
        self.cluster.collect_garbage()

    @rule(number=numbers)
    def a_pod_moves_on(self, number: int) -> None:
        if pod := self.child(("Pod",), number):
            self.controllers.place(pod)

    @rule(number=numbers)
    def a_pod_ends_as_asked(self, number: int) -> None:
        if pod := self.child(("Pod",), number):
            self.controllers.let_go(pod)

    @rule(fault=faults)
    def operator_works(self, fault: Fault | None) -> None:
        self.operator.work(fault)

    @rule(number=numbers, again=st.booleans())
    def an_event_is_heard(self, number: int, again: bool) -> None:
        self.operator.deliver(number, again=again)

    @rule()
    def all_events_are_heard(self) -> None:
        while self.operator.pending:
            self.operator.deliver(0)

    @rule()
    def events_are_lost(self) -> None:
        self.operator.pending.clear()

    @rule(kind=st.sampled_from([*CHILDREN, *OWN]))
    def a_watch_begins_anew(self, kind: str) -> None:
        self.operator.relist(kind)

    @rule()
    def operator_is_killed(self) -> None:
        self.operator.start()

    @rule()
    def all_goes_well(self) -> None:
        """Far states are reached in few steps."""
        self.calm_round()

    @rule(number=numbers)
    def somebody_deletes_a_pod(self, number: int) -> None:
        if pod := self.child(("Pod",), number):
            self.cluster.delete("Pod", pod["metadata"]["name"])

    @rule(number=numbers)
    def a_pod_is_deleted_by_force(self, number: int) -> None:
        if pod := self.child(("Pod",), number):
            self.cluster.end(pod)

    @rule(number=numbers, foreground=st.booleans())
    def somebody_deletes_a_child(self, number: int, foreground: bool) -> None:
        if child := self.child(CHILD_KINDS, number):
            self.cluster.delete(child["kind"], child["metadata"]["name"], foreground=foreground)

    @rule(
        number=numbers,
        label=st.sampled_from(
            [
                "capstan.dev/name",
                "capstan.dev/attempt",
                "capstan.dev/revision",
                MANAGED_BY,
            ]
        ),
        value=st.sampled_from([None, "0", "7", "x"]),
    )
    def somebody_edits_a_label(self, number: int, label: str, value: str | None) -> None:
        if child := self.child(CHILD_KINDS, number):
            labels = {k: v for k, v in child["metadata"]["labels"].items() if k != label}
            labels |= {label: value} if value and label != MANAGED_BY else {}
            self.cluster.write({**child, "metadata": {**child["metadata"], "labels": labels}})

    @rule(number=numbers)
    def somebody_edits_a_spec(self, number: int) -> None:
        if child := self.child(("Deployment", "Service"), number):
            edited: dict[str, Any] = (
                {"selector": {"app": "else"}} if child["kind"] == "Service" else {"replicas": 0}
            )
            self.cluster.write({**child, "spec": {**child["spec"], **edited}})

    @rule()
    def somebody_deletes_the_resource(self) -> None:
        for kind in OWN:
            for obj in self.cluster.of(kind):
                self.cluster.delete(kind, obj["metadata"]["name"])

    def calm_round(self) -> None:
        """Everybody does what is to be done, once, and well."""
        self.cluster.tick(5)
        for pod in self.cluster.of("Pod"):
            self.settle(pod)
        for _ in range(2):
            self.cluster.collect_garbage()
            self.controllers.look()
        for pod in self.cluster.of("Pod"):
            self.controllers.let_go(pod)
        self.cluster.collect_garbage()
        while self.operator.pending:
            self.operator.deliver(0)
        for _ in range(30):
            if not self.operator.work(self.next_fault()):
                return
            while self.operator.pending:
                self.operator.deliver(0)
        raise AssertionError("the operator never rests")

    def next_fault(self) -> Fault | None:
        """What goes wrong in the next pass of a calm round: nothing."""
        return None

    def settle(self, pod: Manifest) -> None:
        """What becomes of a pod when all is well."""
        self.controllers.place(pod)

    def teardown(self) -> None:
        """Once things calm down, it converges and then rests."""
        self.operator.outcomes.clear()
        for kind in (*CHILDREN, *OWN):
            self.operator.relist(kind)
        for _ in range(ROUNDS):
            version = self.cluster.version
            self.calm_round()
            if version == self.cluster.version and self.converged() is None:
                break
        assert self.converged() is None, self.converged()
        before = self.operator.api.writes
        self.operator.start()
        for _ in range(3):
            self.calm_round()
        assert self.operator.api.writes == before, (
            "at rest nothing is written, also by an operator that begins anew"
        )

    def converged(self) -> str | None:
        """What is still missing."""
        raise NotImplementedError
