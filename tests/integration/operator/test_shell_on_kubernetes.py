"""What a fake API server cannot vouch for: apply, preconditions, garbage collection, real rights."""

import random
import time
from typing import Any

import pytest
from capstan_demo.kube import Kube, until

pytestmark = pytest.mark.cluster

WRITES = ("apply", "delete", "update_status", "create", "patch")


def whole(
    kube: Kube, namespace: str, version: str, size: int = 3, attempt: int | None = None, name: str = "w"
) -> Any:
    """Wait until a Widget's children are there and its status says so; return it."""

    def met(widget: Any) -> bool:
        status = widget.get("status") or {}
        names = [f"{name}-{status.get('attempt')}", *(f"{name}-c{n}" for n in range(size))]
        return status.get("version") == version and status.get("children") == sorted(names)

    found = kube.wait("widget.shell.test.capstan.dev", name, namespace, met, seconds=90)
    assert attempt is None or found["status"]["attempt"] == attempt
    return found


def ours(kube: Kube, kind: str, namespace: str) -> dict[str, Any]:
    return {
        o["metadata"]["name"]: o for o in kube.list(kind, namespace, "app.kubernetes.io/managed-by=capstan")
    }


def test_makes_tells_and_rests(bare: Kube, namespace: str, operator: Any, widget: Any, settled: Any) -> None:
    process = operator().ready()
    widget()
    whole(bare, namespace, "1", attempt=1)
    settled(process)
    before, begun = process.requests(*WRITES), time.monotonic()
    bare.run("annotate", "-n", namespace, "widget.shell.test.capstan.dev/w", "note=nothing")
    bare.run("annotate", "-n", namespace, "configmap/w-c0", "note=nothing")
    until(lambda: time.monotonic() - begun > 5, seconds=10)
    assert process.requests(*WRITES) == before, "at rest nothing is written"
    events = bare.list("events", namespace)
    assert [e["message"] for e in events if e["reason"] == "Attempt"] == ["attempt 1 for version 1"]
    assert process.terminate() == 0


def test_repairs_what_is_edited_and_what_is_deleted(
    bare: Kube, namespace: str, operator: Any, widget: Any
) -> None:
    operator().ready()
    widget()
    whole(bare, namespace, "1")
    bare.patch("configmap", "w-c0", {"data": {"number": "vandalised"}}, namespace)
    bare.delete("configmap", "w-c1", namespace)
    bare.run("label", "-n", namespace, "configmap/w-c2", "app.kubernetes.io/managed-by-")
    until(
        lambda: (
            {n: o["data"]["number"] for n, o in ours(bare, "configmaps", namespace).items()}
            == {"w-c0": "0", "w-c1": "1", "w-c2": "2"}
        ),
        seconds=30,
    )


def test_a_new_version_is_a_new_attempt_and_the_old_one_goes(
    bare: Kube, namespace: str, operator: Any, widget: Any
) -> None:
    operator().ready()
    widget()
    whole(bare, namespace, "1", attempt=1)
    widget("2")
    assert whole(bare, namespace, "2", attempt=2)["status"]["history"] == ["1", "2"]
    assert list(ours(bare, "jobs", namespace)) == ["w-2"]


def test_killed_at_random_moments_nothing_is_lost_or_done_twice(
    bare: Kube, namespace: str, operator: Any, widget: Any
) -> None:
    dice = random.Random(3)
    versions = [str(n) for n in range(1, 9)]
    process = operator().ready()
    for version in versions:
        widget(version, size=6)
        moment = time.monotonic() + dice.uniform(0.0, 3.0)
        until(lambda at=moment: time.monotonic() > at, seconds=5)
        process.kill()  # before the next one begins, which needs its port
        process = operator()
    process.ready()
    status = whole(bare, namespace, versions[-1], size=6)["status"]
    assert len(status["history"]) == status["attempt"]
    assert status["history"] == sorted(set(status["history"]), key=int), "no version is decided on twice"
    until(lambda: list(ours(bare, "jobs", namespace)) == [f"w-{status['attempt']}"], seconds=30)


def test_an_object_of_somebody_else_is_never_touched(
    bare: Kube, namespace: str, operator: Any, widget: Any
) -> None:
    theirs = {"metadata": {"name": "w-c1", "namespace": namespace}, "data": {"number": "theirs"}}
    bare.apply({"apiVersion": "v1", "kind": "ConfigMap", **theirs})
    operator().ready()
    widget()
    kind = "widget.shell.test.capstan.dev"
    bare.wait(kind, "w", namespace, lambda w: "OwnershipConflict" in str(w.get("status")), seconds=30)
    found = bare.get("configmap", "w-c1", namespace)
    assert found is not None
    assert found["data"] == {"number": "theirs"}


def test_deleting_the_resource_deletes_its_children_and_nothing_comes_back(
    bare: Kube, namespace: str, operator: Any, widget: Any, settled: Any
) -> None:
    process = operator().ready()
    widget()
    whole(bare, namespace, "1")
    bare.run("delete", "-n", namespace, "widget.shell.test.capstan.dev/w", "--cascade=background")
    until(lambda: not ours(bare, "configmaps", namespace) and not ours(bare, "jobs", namespace), seconds=60)
    settled(process)
    assert not ours(bare, "configmaps", namespace)
    widget("again")
    assert whole(bare, namespace, "again")["status"]["history"] == ["again"]


def test_rights_taken_away_and_given_back(
    bare: Kube, namespace: str, operator: Any, widget: Any, rights: Any
) -> None:
    process = operator().ready()
    widget()
    whole(bare, namespace, "1")
    rights(False)
    widget("2")
    until(lambda: process.requests("update_status", code="403") > 0, seconds=60)
    assert process.status("/healthz") == 200
    rights(True)
    whole(bare, namespace, "2")


def test_the_crd_replaced_under_its_feet(
    bare: Kube, namespace: str, operator: Any, widget: Any, reinstall: Any
) -> None:
    process = operator().ready()
    widget()
    whole(bare, namespace, "1")
    bare.delete("crd", "widgets.shell.test.capstan.dev")
    until(lambda: not ours(bare, "configmaps", namespace), seconds=60)
    reinstall()
    widget("2")
    whole(bare, namespace, "2", attempt=1)
    assert process.status("/healthz") == 200
