"""One pass: gather, plan, apply, status, events, and what every trouble on the way leads to."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from capstan_operator.core.model import Event, Kind, Manifest, ObjectRef, Observed, Plan, Settings
from capstan_operator.shell.apply import Applier
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.events import Recorder
from capstan_operator.shell.gather import References
from capstan_operator.shell.keys import Key, Resource, owner_of
from capstan_operator.shell.metrics import Metrics
from capstan_operator.shell.queue import WorkQueue
from capstan_operator.shell.reconcile import PATIENCE, Pass, Reconciler
from capstan_operator.shell.status import StatusWriter
from capstan_operator.shell.store import Store

W = Key("Widget", "ns", "w")
CONFIGMAPS = Resource("v1", "ConfigMap", "configmaps")
WIDGETS = Resource("test.dev/v1", "Widget", "widgets")


@pytest.fixture(autouse=True)
def plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what stands in the way be one field of the status: the core's words are the core's to test."""

    def conflict(plan: Plan, resource: Manifest, ref: ObjectRef, now: datetime) -> Plan:
        problem = f"OwnershipConflict {ref.kind} {ref.name}"
        return replace(plan, status=plan.status | {"problem": problem}, requeue_after=60.0)

    def rejection(
        plan: Plan, resource: Manifest, ref: ObjectRef, reason: str, message: str, now: datetime
    ) -> Plan:
        problem = f"{reason} {ref.kind} {ref.name}: {message}"
        return replace(plan, status=plan.status | {"problem": problem}, requeue_after=60.0)

    monkeypatch.setattr("capstan_operator.shell.reconcile.with_conflict", conflict)
    monkeypatch.setattr("capstan_operator.shell.reconcile.with_rejection", rejection)


class Rig:
    """A reconciler whose stores are filled by hand."""

    def __init__(self, cluster: Any, api: KubernetesApi, metrics: Metrics, kind: Kind, now: Any) -> None:
        self.cluster, self.metrics = cluster, metrics
        self.queue = WorkQueue(dice=lambda: 1.0)
        self.resources, self.children = Store(), Store(owner_of)
        self.references = References()
        self.recorder = Recorder(api, metrics, now)
        self.reconciler = Reconciler(
            kinds={"Widget": kind},
            settings=Settings("agent", "serving"),
            resources=self.resources,
            children=self.children,
            references=self.references,
            applier=Applier(api, self.children, {"ConfigMap": CONFIGMAPS}),
            statuses=StatusWriter(api, self.resources, {"Widget": WIDGETS}),
            recorder=self.recorder,
            queue=self.queue,
            metrics=metrics,
            now=now,
        )

    def see(self) -> None:
        """Bring the stores up to date with the cluster."""
        for obj in self.cluster.listed("widgets"):
            self.resources.put(obj)
        for obj in self.cluster.listed("configmaps"):
            self.children.put(obj)

    async def do(self, key: Key = W) -> Pass:
        return await self.reconciler.do(key)

    async def events(self) -> list[str]:
        task = asyncio.create_task(self.recorder.run())
        await self.recorder.flush()
        task.cancel()
        return [event["reason"] for event in self.cluster.listed("events")]

    def status(self) -> Any:
        return self.cluster.objects["widgets", "ns", "w"].get("status")


@pytest.fixture
def rig(cluster: Any, api: KubernetesApi, metrics: Metrics, make_kind: Any, clock: Any) -> Callable[..., Rig]:
    return lambda **changes: Rig(cluster, api, metrics, make_kind(**changes), clock)


async def test_makes_the_children_then_tells_then_rests(rig: Any, cluster: Any, widget: Any) -> None:
    widget(children=["a", "b"])
    it = rig()
    it.see()
    first = await it.do()
    assert (first.outcome, first.generation) == ("changed", 1)
    assert {c["metadata"]["name"] for c in cluster.listed("configmaps")} == {"a", "b"}
    await it.do()
    assert it.status() == {"children": ["a", "b"], "references": []}
    before = len(cluster.requests)
    rest = await it.do()
    assert (rest.outcome, rest.writes) == ("unchanged", 0)
    assert len(cluster.requests) == before, "at rest no request is made"


async def test_passes_that_wait_for_nothing_let_others_have_their_turn(rig: Any) -> None:
    it = rig()
    for number in range(50):
        it.queue.add(Key("Widget", "ns", f"gone-{number}"))
    work = asyncio.create_task(it.reconciler.work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert it.metrics.registry.get_sample_value(
        "capstan_operator_reconciles_total", {"kind": "Widget", "outcome": "gone"}
    ) in {1, 2}
    it.queue.close()
    await work


async def test_our_own_writes_are_seen_before_the_watch_tells(rig: Any, widget: Any) -> None:
    widget(children=["a"])
    it = rig()
    it.see()
    await it.do()
    assert [c["metadata"]["name"] for c in it.children.owned(W)] == ["a"]
    assert (await it.do()).outcome == "changed"
    assert it.resources.get(*W)["status"]["children"] == ["a"]


async def test_repairs_what_somebody_edited_and_what_somebody_deleted(
    rig: Any, cluster: Any, widget: Any
) -> None:
    widget(children=["a", "b"])
    it = rig()
    it.see()
    await it.do()
    await it.do()
    edited = cluster.objects["configmaps", "ns", "a"]
    cluster.put("configmaps", edited | {"data": {"value": "vandalised"}})
    it.children.remove(cluster.delete("configmaps", "ns", "b"), 10**9)
    it.see()
    await it.do()
    assert {c["metadata"]["name"]: c["data"]["value"] for c in cluster.listed("configmaps")} == {
        "a": "x",
        "b": "x",
    }


async def test_a_child_that_lost_its_labels_is_labelled_and_only_then_planned_with(
    rig: Any, cluster: Any, widget: Any
) -> None:
    """A plan that cannot see what is there may want of it what the API server refuses."""
    widget(children=["a"])
    it = rig()
    it.see()
    await it.do()
    bare = cluster.objects["configmaps", "ns", "a"]
    bare = cluster.put(
        "configmaps", bare | {"metadata": bare["metadata"] | {"labels": {}}, "data": {"value": "y"}}
    )
    it.children.remove(bare)  # as a watch tells what has left its selector
    assert (await it.do()).outcome == "stale"
    found = cluster.objects["configmaps", "ns", "a"]
    assert (found["metadata"]["labels"]["capstan.dev/name"], found["data"]["value"]) == ("w", "y")
    await it.do()
    assert cluster.objects["configmaps", "ns", "a"]["data"]["value"] == "x"


async def test_a_child_of_nobody_or_of_another_is_left_alone(
    rig: Any, cluster: Any, widget: Any, make_child: Any
) -> None:
    other = widget("other")
    widget(children=["mine", "taken", "orphan"])
    cluster.put("configmaps", make_child(other, "taken", "theirs"))
    cluster.put("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "orphan"}})
    it = rig()
    for obj in cluster.listed("widgets"):
        it.resources.put(obj)
    result = await it.do()
    assert result.outcome == "conflict"
    assert it.status()["problem"] == "OwnershipConflict ConfigMap taken"
    assert cluster.objects["configmaps", "ns", "taken"]["data"] == {"value": "theirs"}
    assert result.requeue_after == 60
    cluster.delete("configmaps", "ns", "taken")
    assert (await it.do()).outcome == "conflict"
    assert it.status()["problem"] == "OwnershipConflict ConfigMap orphan"
    cluster.delete("configmaps", "ns", "orphan")
    assert (await it.do()).outcome == "changed"
    assert "problem" not in it.status()


async def test_labels_are_a_claim_not_a_proof(rig: Any, cluster: Any, widget: Any, make_child: Any) -> None:
    me = widget(children=["a"])
    it = rig()
    it.see()
    forged = make_child(me, "forged")
    forged["metadata"]["ownerReferences"] = []
    cluster.put("configmaps", forged)
    it.see()
    await it.do()
    await it.do()
    assert it.status()["children"] == ["a"]


async def test_what_a_predecessor_left_is_waited_for(
    rig: Any, cluster: Any, widget: Any, make_child: Any
) -> None:
    cluster.put("configmaps", make_child(widget(children=["a"]), "a", "old"))
    cluster.delete("widgets", "ns", "w")
    widget(children=["a"])
    it = rig()
    it.see()
    result = await it.do()
    assert (result.outcome, result.requeue_after) == ("transient", 0.25)
    assert it.status() == {"children": [], "references": []}, "the status is the truth all the same"
    it.children.remove(cluster.delete("configmaps", "ns", "a"), 10**9)
    assert (await it.do()).outcome == "changed"


async def test_a_child_that_is_being_deleted_is_not_revived(
    rig: Any, cluster: Any, widget: Any, make_child: Any
) -> None:
    child = make_child(widget(children=["a"]), "a")
    child["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.put("configmaps", child)
    it = rig()
    it.see()
    assert (await it.do()).outcome == "transient"
    assert not any(line.startswith("PATCH") for line in cluster.requests)


@pytest.mark.parametrize(
    ("code", "reason"), [(403, "Forbidden"), (422, "Invalid"), (413, "RequestEntityTooLarge")]
)
async def test_a_rejected_child_is_in_the_status(
    code: int, reason: str, rig: Any, cluster: Any, widget: Any
) -> None:
    widget(children=["a"])
    cluster.fail("PATCH.*configmaps", code, body={"reason": reason, "message": "no"}, times=2)
    it = rig()
    it.see()
    result = await it.do()
    assert (result.outcome, result.requeue_after) == ("rejected", 60)
    assert it.status()["problem"] == f"{reason} ConfigMap a: no"
    writes = len(cluster.writes())
    await it.do()
    assert cluster.writes()[writes:] == [cluster.writes()[0]], "the same status is not written again"
    await it.do()
    assert "problem" not in it.status()


@pytest.mark.parametrize("code", [0, 409, 429, 500, 503])
async def test_transient_trouble_backs_off_and_heals(code: int, rig: Any, cluster: Any, widget: Any) -> None:
    widget(children=["a"])
    body = {"reason": "Conflict"} if code == 409 else None
    cluster.fail(
        "PATCH.*configmaps", code, body=body, times=2, headers={"Retry-After": "9"} if code == 429 else {}
    )
    it = rig()
    it.see()
    delays = [(await it.do()).requeue_after for _ in range(2)]
    assert delays == ([9, 9] if code == 429 else [0.25, 0.5])
    assert (await it.do()).outcome == "changed"
    assert it.queue.failures(W) == 0


@pytest.mark.parametrize("code", [403, 422])
async def test_not_being_let_look_again_is_transient(code: int, rig: Any, cluster: Any, widget: Any) -> None:
    widget(children=["a"])
    cluster.fail("PUT.*status", 409, body={"reason": "Conflict"})
    cluster.fail("GET.*/widgets/w$", code)
    it = rig()
    it.see()
    assert (await it.do()).outcome == "transient"
    assert (await it.do()).outcome == "changed"


async def test_trouble_that_stays_is_said_in_the_status_and_tried_on(
    rig: Any, cluster: Any, widget: Any
) -> None:
    widget(children=["a"])
    hook = {"reason": "InternalError", "message": "failed calling webhook"}
    cluster.fail("PATCH.*configmaps", 500, body=hook, times=PATIENCE + 1)
    it = rig()
    it.see()
    for _ in range(PATIENCE):
        await it.do()
    assert "problem" not in it.status()
    result = await it.do()
    assert "failed calling webhook" in it.status()["problem"]
    assert result.outcome == "transient"
    await it.do()
    assert "problem" not in it.status()


async def test_a_bug_in_plan_is_that_resources_trouble_alone(
    rig: Any, widget: Any, until: Any, make_kind: Any, caplog: pytest.LogCaptureFixture, metrics: Metrics
) -> None:
    good = make_kind().plan

    def plan(resource: Manifest, *rest: Any) -> Plan:
        if resource["metadata"]["name"] == "bad":
            raise ZeroDivisionError
        result: Plan = good(resource, *rest)
        return result

    widget("bad")
    widget(children=["a"])
    it = rig(plan=plan)
    it.see()
    worker = asyncio.create_task(it.reconciler.work())
    it.queue.add(Key("Widget", "ns", "bad"))
    it.queue.add(W)
    await until(lambda: it.status() is not None)
    it.queue.close()
    await worker
    assert "ZeroDivisionError" in caplog.text
    assert 'reconciles_total{kind="Widget",outcome="error"} 1.0' in metrics.render().decode()
    assert it.queue.failures(Key("Widget", "ns", "bad")) == 1


def deciding(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
    """Decide once to be at attempt 1, then make the child of that attempt."""
    status = resource.get("status") or {}
    decided = {"attempt": 1, "children": len(seen.children)}
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "attempt-1",
            "namespace": "ns",
            "ownerReferences": [
                {"kind": "Widget", "name": "w", "uid": resource["metadata"]["uid"], "controller": True}
            ],
        },
    }
    first = status.get("attempt") != 1
    events = (Event("Normal", "Decided", "attempt 1"),) if first else ()
    return Plan(status=decided, apply=(child,), decision=first, events=events)


async def test_a_decision_is_on_record_before_anything_is_done(rig: Any, cluster: Any, widget: Any) -> None:
    widget()
    it = rig(plan=deciding)
    it.see()
    await it.do()
    assert [line.split("?")[0].rsplit("/", 1)[1] for line in cluster.writes()] == ["status", "attempt-1"]
    assert await it.events() == ["Decided"]


async def test_a_decision_from_an_old_view_is_not_acted_on(rig: Any, cluster: Any, widget: Any) -> None:
    widget()
    it = rig(plan=deciding)
    it.see()
    cluster.put("widgets", cluster.objects["widgets", "ns", "w"] | {"spec": {"changed": True}})
    result = await it.do()
    assert result.outcome == "stale"
    assert not cluster.listed("configmaps")
    assert await it.events() == []
    assert it.resources.get(*W)["spec"] == {"changed": True}, "the next pass plans from what is"
    assert (await it.do()).outcome == "changed"
    assert cluster.listed("configmaps")


async def test_a_decision_recorded_and_then_a_crash_is_carried_out_by_the_next_pass(
    rig: Any, cluster: Any, widget: Any
) -> None:
    widget()
    cluster.fail("PATCH", 503)
    it = rig(plan=deciding)
    it.see()
    assert (await it.do()).outcome == "transient"
    assert it.status()["attempt"] == 1
    again = rig(plan=deciding)
    again.see()
    assert (await again.do()).outcome == "changed"
    assert cluster.listed("configmaps")
    assert await it.events() == ["Decided"]


@pytest.mark.parametrize("terminating", [True, False])
async def test_a_deleted_resource_is_left_in_peace(
    terminating: bool, rig: Any, cluster: Any, widget: Any
) -> None:
    it = rig()
    if terminating:
        obj = widget(children=["a"])
        cluster.put(
            "widgets", obj | {"metadata": obj["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
        )
    it.see()
    assert (await it.do()).outcome == "gone"
    assert cluster.writes() == []


async def test_a_resource_deleted_in_mid_pass(rig: Any, cluster: Any, widget: Any) -> None:
    widget()
    it = rig()
    it.see()
    cluster.delete("widgets", "ns", "w")
    assert (await it.do()).outcome == "gone"
    assert it.resources.get(*W) is None
    assert it.queue.failures(W) == 0


async def test_prunes_this_incarnation_in_the_background(
    rig: Any, cluster: Any, widget: Any, make_child: Any
) -> None:
    child = cluster.put("configmaps", make_child(widget(), "old"))
    uid = child["metadata"]["uid"]

    def plan(_: Manifest, seen: Observed, *__: Any) -> Plan:
        return Plan(
            status={"left": len(seen.children)},
            delete=tuple(ObjectRef("v1", "ConfigMap", "ns", "old", uid) for _ in seen.children),
        )

    it = rig(plan=plan)
    it.see()
    assert (await it.do()).outcome == "changed"
    assert not cluster.listed("configmaps")
    assert (await it.do()).writes == 1
    assert it.status() == {"left": 0}


async def test_references_are_shown_and_remembered(rig: Any, widget: Any) -> None:
    widget("base")
    widget(refs=["base"])

    def references(resource: Manifest) -> tuple[ObjectRef, ...]:
        return tuple(
            ObjectRef("test.dev/v1", "Widget", "ns", name) for name in resource["spec"].get("refs", ())
        )

    it = rig(references=references)
    it.see()
    await it.do()
    assert it.status()["references"] == ["base"]
    assert it.references.to(Key("Widget", "ns", "base")) == [W]


async def test_the_status_being_forbidden_is_backed_off_from(rig: Any, cluster: Any, widget: Any) -> None:
    widget()
    cluster.fail("PUT", 403, body={"reason": "Forbidden", "message": "no"})
    it = rig()
    it.see()
    assert (await it.do()).outcome == "transient"
    assert (await it.do()).outcome == "changed"


async def test_requeue_after_is_heard(rig: Any, widget: Any) -> None:
    widget()
    it = rig(plan=lambda *_: Plan(status={}, requeue_after=0.01))
    it.see()
    await it.do()
    assert await asyncio.wait_for(it.queue.get(), 5) == W
