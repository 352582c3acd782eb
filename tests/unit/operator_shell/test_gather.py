"""Who mentions whom, and which of the labelled objects are this incarnation's."""

from typing import Any

from capstan_operator.core.model import ChildKind, Manifest, ObjectRef
from capstan_operator.shell.gather import References, observed
from capstan_operator.shell.keys import Key, owner_among, owner_of
from capstan_operator.shell.store import Store

A, B, C = (Key("Widget", "ns", name) for name in "abc")


def test_mentions_are_kept_both_ways() -> None:
    references = References()
    references.set(A, frozenset({C}))
    references.set(B, frozenset({C, A}))
    assert references.to(C) == [A, B]
    references.set(A, frozenset())
    assert references.to(C) == [B]
    references.set(B, frozenset({A}))
    assert references.to(C) == []
    assert references.to(A) == [B]


def labelled(kind: str, name: str, controller: tuple[str, str, str] | None) -> Manifest:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "ns",
        "uid": f"uid-{name}",
        "resourceVersion": "5",
        "labels": {"capstan.dev/kind": "Widget", "capstan.dev/name": "a"},
    }
    if controller is not None:
        api_version, owner, uid = controller
        metadata["ownerReferences"] = [
            {"apiVersion": "example.com/v1", "kind": "Bystander", "name": "x", "uid": "x"},
            {"apiVersion": api_version, "kind": owner, "name": "y", "uid": uid, "controller": True},
        ]
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def test_only_what_this_incarnation_controls_is_seen(make_kind: Any) -> None:
    kind = make_kind(children=(ChildKind("batch/v1", "Job", "jobs"), ChildKind("v1", "Pod", "pods")))
    children = Store(owner_of)
    seen_and_unseen = {
        "job": ("Job", ("test.dev/v1", "Widget", "me")),
        "pod-of-job": ("Pod", ("batch/v1", "Job", "uid-job")),
        "pod-of-replicaset": ("Pod", ("apps/v1", "ReplicaSet", "some-uid")),
        "pod-of-gone-job": ("Pod", ("batch/v1", "Job", "uid-of-no-job-any-more")),
        "not-old-job": ("Job", ("test.dev/v1", "Widget", "my-predecessor")),
        "not-pod-of-old-job": ("Pod", ("batch/v1", "Job", "uid-not-old-job")),
        "not-pod-of-another": ("Pod", ("test.dev/v1", "Gadget", "it")),
        "not-orphan": ("Pod", None),
    }
    for name, (child, controller) in seen_and_unseen.items():
        children.put(labelled(child, name, controller))
    me = {"kind": "Widget", "metadata": {"name": "a", "namespace": "ns", "uid": "me"}}
    seen = observed(kind, me, Store(), children)
    assert {child["metadata"]["name"] for child in seen.children} == {
        "job",
        "pod-of-job",
        "pod-of-replicaset",
        "pod-of-gone-job",
    }


def test_a_reference_to_nothing_is_simply_not_there(make_kind: Any) -> None:
    kind = make_kind(references=lambda _: (ObjectRef("test.dev/v1", "Widget", "ns", "nothing"),))
    me = {"kind": "Widget", "metadata": {"name": "a", "namespace": "ns", "uid": "me"}}
    assert observed(kind, me, Store(), Store()).references == ()


def test_whose_a_child_is_survives_its_labels() -> None:
    owner = owner_among({"Widget"})
    controller = {"kind": "Widget", "name": "w", "uid": "u", "controller": True}
    mine = {"kind": "Job", "metadata": {"name": "j", "namespace": "ns", "ownerReferences": [controller]}}
    assert owner(mine) == Key("Widget", "ns", "w")
    labels = {"capstan.dev/kind": "Widget", "capstan.dev/name": "else"}
    assert owner({**mine, "metadata": mine["metadata"] | {"labels": labels}}) == Key("Widget", "ns", "w")
    job = {"kind": "Job", "name": "j", "uid": "v", "controller": True}
    pod = {"metadata": {"name": "p", "namespace": "ns", "labels": labels, "ownerReferences": [job]}}
    assert owner(pod) == Key("Widget", "ns", "else")
    assert owner({"metadata": {"name": "p", "labels": labels | {"capstan.dev/kind": "Other"}}}) is None
