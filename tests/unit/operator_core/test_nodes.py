"""Nodes that a job does not go back to."""

from typing import Any

import pytest
from capstan_operator.core.policies import nodes
from capstan_operator.core.policies.failure import Failure


def failed(reason: str, node: str = "a", class_: str = "infrastructure") -> Failure:
    return Failure(class_, reason, "m", node=node)  # type: ignore[arg-type]  # (a literal)


@pytest.mark.parametrize("reason", ["DeletionByTaintManager", "NodeLost", "PodLost", "Killed", "OutOfcpu"])
def test_what_may_be_the_nodes_fault_is_counted(reason: str) -> None:
    assert nodes.counted({}, failed(reason)) == {"a": 1}
    assert nodes.counted({"failedNodes": {"a": 1, "b": 1}}, failed(reason)) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    "failure",
    [
        failed("PreemptionByScheduler"),
        failed("EvictionByEvictionAPI"),
        failed("PodDeleted"),
        failed("PodLost", node=""),
        failed("NonZeroExit", class_="user"),
        failed("OutOfMemory", class_="outOfMemory"),
    ],
)
def test_what_is_not_is_not(failure: Failure) -> None:
    assert nodes.counted({"failedNodes": {"b": 1}}, failure) == {"b": 1}


def test_so_many_are_remembered_the_worst_first() -> None:
    known = {f"n{number:02}": 1 for number in range(nodes.REMEMBERED)} | {"n00": 2}
    found = nodes.counted({"failedNodes": known}, failed("NodeLost", "z"))
    assert len(found) == nodes.REMEMBERED
    assert found["n00"] == 2
    assert found["z"] == 1
    assert "n01" not in found


def test_two_failures_are_enough() -> None:
    assert nodes.avoided({"failedNodes": {"b": 3, "a": 2, "c": 1, "d": "x"}}) == ["a", "b"]
    assert nodes.avoided({"failedNodes": "x"}) == []


def test_every_alternative_avoids_them() -> None:
    def term(*keys: str) -> dict[str, Any]:
        return {"matchExpressions": [{"key": key, "operator": "Exists"} for key in keys]}

    other = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["a"]}
    affinity = {"nodeAffinity": {nodes._REQUIRED: {"nodeSelectorTerms": [term("x"), term("y")]}}}
    found = nodes.avoiding(affinity, ["a"])["nodeAffinity"][nodes._REQUIRED]["nodeSelectorTerms"]
    assert [t["matchExpressions"][0]["key"] for t in found] == ["x", "y"]
    assert all(t["matchExpressions"][-1] == other for t in found)
    (only,) = nodes.avoiding({}, ["a"])["nodeAffinity"][nodes._REQUIRED]["nodeSelectorTerms"]
    assert only == {"matchExpressions": [other]}
    assert nodes.avoiding(affinity, []) is affinity
