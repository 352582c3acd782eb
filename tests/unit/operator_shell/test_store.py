"""The store moves forward only, whatever it is fed in whatever order."""

from typing import Any

from capstan_operator.core.model import Manifest
from capstan_operator.shell.keys import Key, Resource, owner_of
from capstan_operator.shell.store import FOREVER, Store
from hypothesis import given
from hypothesis import strategies as st

PODS = Resource("v1", "Pod", "pods")


def pod(version: int, uid: str = "u1", name: str = "p", owner: str | None = "w", **more: Any) -> Manifest:
    labels = {"capstan.dev/kind": "Widget", "capstan.dev/name": owner} if owner else {}
    metadata = {
        "name": name,
        "namespace": "ns",
        "uid": uid,
        "resourceVersion": str(version),
        "labels": labels,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata} | more


def key(name: str = "w") -> Key:
    return Key("Widget", "ns", name)


def listed(store: Store, namespace: str | None, objects: list[Manifest], version: int) -> None:
    store.retain(PODS, namespace, store.take(objects), version)


def held(store: Store, name: str = "p") -> Manifest | None:
    return store.get("Pod", "ns", name)


def test_newer_replaces_older_and_not_the_other_way_round() -> None:
    told: list[Key] = []
    store = Store(owner_of, told.append)
    assert store.put(pod(5))
    assert store.put(pod(7, spec=1))
    assert not store.put(pod(7, spec=2))
    assert not store.put(pod(6))
    assert held(store) == pod(7, spec=1)
    assert told == [key(), key()]


def test_what_is_deleted_is_not_brought_back_by_late_news() -> None:
    store = Store(owner_of)
    store.put(pod(5))
    assert store.remove(pod(9))
    assert not store.put(pod(7))
    assert not store.put(pod(9))
    assert held(store) is None
    assert store.owned(key()) == ()


def test_a_deletion_heard_of_before_the_object() -> None:
    store = Store(owner_of)
    assert not store.remove(pod(9))
    assert not store.put(pod(5))
    assert held(store) is None


def test_an_object_that_left_our_selector_may_come_back() -> None:
    store = Store(owner_of)
    store.put(pod(5))
    store.remove(pod(6))
    assert store.put(pod(7))
    assert held(store) is not None


def test_a_late_deletion_does_not_undo_what_we_have_written_since() -> None:
    store = Store(owner_of)
    store.put(pod(5))
    store.put(pod(8))
    assert not store.remove(pod(6))
    assert held(store) == pod(8)


def test_a_new_incarnation_survives_the_old_ones_deletion() -> None:
    store = Store(owner_of)
    store.put(pod(5))
    store.put(pod(9, uid="u2"))
    assert not store.remove(pod(8, uid="u1"))
    assert not store.put(pod(10_000, uid="u1"))
    assert held(store) == pod(9, uid="u2")


def test_a_list_removes_what_it_lacks_but_not_what_is_newer_than_it() -> None:
    told: list[Key] = []
    store = Store(owner_of, told.append)
    store.put(pod(5, uid="old", name="old", owner="a"))
    store.put(pod(20, uid="new", name="new", owner="b"))
    store.put(pod(6, uid="other", name="q", owner="c") | {"kind": "Job"})
    told.clear()
    listed(store, None, [pod(8, uid="listed", name="listed", owner="d")], 10)
    assert held(store, "old") is None
    assert held(store, "new") is not None
    assert held(store, "listed") is not None
    assert store.get("Job", "ns", "q") is not None
    assert told == [key("d"), key("a")]


def test_a_list_of_one_namespace_says_nothing_about_another() -> None:
    store = Store(owner_of)
    store.put(pod(5))
    listed(store, "elsewhere", [], 10)
    assert held(store) is not None
    listed(store, "ns", [], 10)
    assert held(store) is None


def test_an_object_deleted_by_us_is_not_listed_back_to_life() -> None:
    store = Store(owner_of)
    store.put(pod(5))
    store.remove(pod(5), FOREVER)
    listed(store, None, [pod(5)], 10)
    assert held(store) is None


def test_a_kind_that_is_not_served_is_forgotten_but_not_buried() -> None:
    store = Store(owner_of)
    store.put(pod(5))
    store.drop(PODS, None)
    assert held(store) is None
    assert store.put(pod(5))


def test_what_is_held_is_nobodys_to_change() -> None:
    store = Store(owner_of)
    mine = pod(5, spec={"containers": []})
    mine["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.put(mine)
    mine["spec"]["containers"].append("more")
    seen = held(store)
    assert seen == pod(5, spec={"containers": []})
    seen["spec"]["containers"].append("more")
    assert store.owned(key()) == (pod(5, spec={"containers": []}),)


def test_relabelling_moves_a_child_and_tells_both_owners() -> None:
    told: list[Key] = []
    store = Store(owner_of, told.append)
    store.put(pod(5, owner="a"))
    told.clear()
    store.put(pod(6, owner="b"))
    assert store.owned(key("a")) == ()
    assert store.owned(key("b")) == (pod(6, owner="b"),)
    assert set(told) == {key("a"), key("b")}
    store.put(pod(7, owner=None))
    assert store.owned(key("b")) == ()
    assert held(store) is not None


def test_managed_fields_are_left_out_and_the_callers_object_is_left_alone() -> None:
    store, obj = Store(owner_of), pod(5)
    obj["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.put(obj)
    assert "managedFields" in obj["metadata"]
    kept = held(store)
    assert kept is not None
    assert "managedFields" not in kept["metadata"]


def test_counts_and_keys() -> None:
    store = Store(owner_of)
    store.put(pod(1, name="a", uid="1", owner="x"))
    store.put(pod(2, name="b", uid="2", owner="x"))
    assert store.count() == {"Pod": 2}
    assert store.keys("Pod") == [key("x")]


HISTORY = [
    ("put", pod(1, "u1")),
    ("put", pod(2, "u1", spec=1)),
    ("remove", pod(3, "u1", spec=1)),
    ("put", pod(4, "u2", owner="v")),
    ("put", pod(5, "u2", owner="w")),
    ("put", pod(6, "u3", name="q")),
    ("remove", pod(7, "u3", name="q")),
]


@given(st.permutations(HISTORY * 2))
def test_any_order_with_repetitions_leads_to_the_same_end(news: list[tuple[str, Manifest]]) -> None:
    store = Store(owner_of)
    for what, obj in news:
        getattr(store, what)(obj)
    assert held(store) == pod(5, "u2", owner="w")
    assert held(store, "q") is None
    assert store.owned(key("w")) == (pod(5, "u2", owner="w"),)
    assert store.owned(key("v")) == ()
