"""The small pieces everything is made of: names, quantities, drift, merging, conditions, last words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from capstan_operator.core import conditions, drift, get, names, podtemplate, quantity, termination
from capstan_operator.core.conditions import Condition
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True), st.integers(1, 9999))
def test_names_are_short_and_tell_their_owners_apart(owner: str, attempt: int) -> None:
    name = names.job(owner, "worker", attempt)
    assert len(f"{name}-999") <= 63
    assert "--" not in name or "--" in owner
    assert name.endswith(f"-worker-{attempt}")
    assert names.job(owner[:-1] + ("x" if owner[-1] != "x" else "y"), "worker", attempt) != name


def test_hashes_do_not_depend_on_order() -> None:
    assert (
        names.digest({"a": 1, "b": [1, 2]})
        == names.digest({"b": [1, 2], "a": 1})
        != names.digest({"a": 1, "b": [2, 1]})
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [("1000m", 1), ("1", 1), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1e3", "1k"), (".5", "500m"), ("2.", 2)],
)
def test_quantities_are_compared_by_value(one: Any, other: Any) -> None:
    assert quantity.same(one, other)


@pytest.mark.parametrize("nothing", ["", "x", "1Zi", None, True, [], "1 Gi", "1e"])
def test_what_is_no_quantity(nothing: Any) -> None:
    assert quantity.value(nothing) is None


DESIRED = {
    "metadata": {"name": "a", "labels": {"x": "1"}},
    "spec": {
        "replicas": 1,
        "containers": [
            {
                "name": "c",
                "image": "i",
                "env": [{"name": "E", "value": ""}],
                "resources": {"limits": {"cpu": "1000m"}},
            }
        ],
        "args": ["a", "b"],
        "automount": False,
    },
}


def live(**changes: Any) -> dict[str, Any]:
    """As the API server would store it: with defaults, amounts in its own form, empty values left out."""
    container = {
        "name": "c",
        "image": "i",
        "imagePullPolicy": "Always",
        "env": [{"name": "E"}],
        "resources": {"limits": {"cpu": "1"}},
    }
    spec = {
        "replicas": 1,
        "containers": [{"name": "injected"}, container],
        "args": ["a", "b"],
        "automount": False,
        "more": 1,
    }
    return {
        "metadata": {"name": "a", "uid": "u", "labels": {"x": "1", "y": "2"}},
        "spec": {**spec, **changes},
    }


def test_what_others_add_is_no_drift() -> None:
    assert not drift.differs(live(), DESIRED)


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 2},
        {"containers": [{"name": "c", "image": "other"}]},
        {"containers": []},
        {"args": ["b", "a"]},
        {"args": ["a", "b", "c"]},
        {"automount": True},
        {"replicas": True},
        {"automount": 0},
        {"containers": None},
    ],
)
def test_what_others_change_is(change: dict[str, Any]) -> None:
    assert drift.differs(live(**change), DESIRED)


def test_a_label_added_to_a_selector_is_drift() -> None:
    desired = {"spec": {"selector": {"a": "1"}}}
    assert not drift.differs({"spec": {"selector": {"a": "1"}}}, desired)
    assert drift.differs({"spec": {"selector": {"a": "1", "b": "2"}}}, desired)


BASE = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "c",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "command": ["x", "y"],
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
        "tolerations": [{"key": "k"}],
    },
}


@pytest.mark.parametrize(
    ("overlay", "path", "expected"),
    [
        ({}, ("spec",), BASE["spec"]),
        ({"metadata": {"labels": {"b": "2"}}}, ("metadata", "labels"), {"a": "1", "b": "2"}),
        ({"metadata": {"labels": {"a": None}}}, ("metadata", "labels"), {}),
        ({"spec": {"tolerations": [{"key": "l"}]}}, ("spec", "tolerations"), [{"key": "k"}, {"key": "l"}]),
        (
            {"spec": {"volumes": [{"name": "v", "hostPath": {}}]}},
            ("spec", "volumes"),
            [{"name": "v", "hostPath": {}}],
        ),
        (
            {"spec": {"volumes": [{"name": "w"}]}},
            ("spec", "volumes"),
            [*BASE["spec"]["volumes"], {"name": "w"}],
        ),
        (
            {"spec": {"containers": [{"name": "c", "command": ["z"]}]}},
            ("spec", "containers", 0, "command"),
            ["z"],
        ),
        (
            {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {}}]}]}},
            ("spec", "containers", 0, "env"),
            [{"name": "A", "valueFrom": {}}, {"name": "B", "value": "2"}],
        ),
        ({"spec": {"containers": [{"name": "d"}]}}, ("spec", "containers", 1), {"name": "d"}),
        ({"spec": {"containers": "nonsense"}}, ("spec", "containers"), "nonsense"),
        ({"spec": {"containers": [7]}}, ("spec", "containers"), [7]),
    ],
)
def test_a_template_is_merged_by_name(overlay: Any, path: tuple[Any, ...], expected: Any) -> None:
    found: Any = podtemplate.merged(BASE, overlay)
    for step in path:
        found = found[step]
    assert found == expected


def test_terms_of_both_sides_must_hold() -> None:
    one, two, zone = {"key": "a"}, {"key": "b"}, {"key": "z"}
    found = podtemplate.merged(
        {"nodeSelectorTerms": [{"matchExpressions": [one]}, {"matchExpressions": [two]}]},
        {"nodeSelectorTerms": [{"matchExpressions": [zone]}]},
    )
    assert found == {
        "nodeSelectorTerms": [{"matchExpressions": [one, zone]}, {"matchExpressions": [two, zone]}]
    }


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = conditions.merged({}, [Condition("Ready", "False", "A", "a")], 1, NOW)
    later = NOW + timedelta(seconds=5)
    same = conditions.merged({"conditions": first}, [Condition("Ready", "False", "B", "b")], 2, later)[0]
    assert (same["lastTransitionTime"], same["reason"], same["observedGeneration"]) == (
        first[0]["lastTransitionTime"],
        "B",
        2,
    )
    other = conditions.merged({"conditions": first}, [Condition("Ready", "True", "C", "c")], 2, later)[0]
    assert other["lastTransitionTime"] == get.timestamp(later)
    assert conditions.since({"conditions": first}, "Ready") == NOW
    assert (
        len(conditions.merged({}, [Condition("Ready", "True", "C", "c" * 9999)], 1, NOW)[0]["message"])
        == 4096
    )


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Killed",
        "[1]",
        "{}",
        '{"capstan": 2, "class": "ok"}',
        '{"capstan": true, "class": "ok"}',
        '{"capstan": 1, "class": []}',
        "[" * 9999,
    ],
)
def test_words_that_are_not_the_agents(message: str) -> None:
    assert termination.parsed(message) is None


def test_the_agents_words_are_not_trusted_with_their_shape() -> None:
    said = termination.parsed(
        '{"capstan": 1, "class": "ok", "reason": "no reason", "message": 7, "output": {"digest": "md5:1"}}'
    )
    assert said is not None
    assert (said.reason, said.message, said.digest) == ("Unknown", "", "")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        # Names that nobody asks for.
        lambda i: st.lists(i) | st.dictionaries(st.text("abc"), i),
        max_leaves=6,
    )
)
def test_reading_anything_finds_nothing_and_never_fails(value: Any) -> None:
    assert get.mapping(value, "q", "r") == {}
    assert get.items(value, "q") == []
    assert get.text(value, "q", "r") == ""
    assert get.number(value, "q") == 0
    assert get.time(value, "q") is None
