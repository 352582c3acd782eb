"""Which pods are deleted by force: those of nodes that the cluster has given up, and no others."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from capstan_operator.core.policies.lost import PATIENCE, given_up

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
#: What the taint's manager and the node's controller write on pods, and what only looks like it.
TAINTED = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]
MARKED = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]
PREEMPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
#: An administrator has tainted a node that lives.
DRAINED = [*TAINTED, {"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "True"}]
GATED = [MARKED[0], {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"}]
STOPPING = [{"type": "ContainersReady", "status": "False"}, {"type": "Ready", "status": "False"}]
RUNNING = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "True"}]


def over(seconds: float) -> str:
    """The end of a grace that is over for so many seconds."""
    return (NOW - timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize("conditions", [TAINTED, MARKED, TAINTED + MARKED])
def test_pods_of_dead_nodes_go_when_their_grace_is_long_over(make_pod: Any, conditions: Any) -> None:
    pod = make_pod(conditions=conditions, deleted=over(PATIENCE - 10))
    assert given_up([pod], NOW) == ((), 10)
    (ref,), look_again = given_up([pod], NOW + timedelta(seconds=10))
    assert (ref.kind, ref.name, ref.force, look_again) == ("Pod", "job-0", True, None)


@pytest.mark.parametrize("conditions", [PREEMPTED, GATED, STOPPING, RUNNING, DRAINED, []])
def test_pods_that_merely_take_long_to_end_are_left_to_their_node(make_pod: Any, conditions: Any) -> None:
    assert given_up([make_pod(conditions=conditions, deleted=over(9000))], NOW) == ((), None)


def test_pods_that_are_not_to_go_or_have_ended_are_left(make_pod: Any) -> None:
    running = make_pod(conditions=MARKED)
    ended = make_pod(conditions=TAINTED, deleted=over(9000), phase="Failed")
    assert given_up([running, ended], NOW) == ((), None)


def test_what_was_forced_once_is_not_forced_again(make_pod: Any) -> None:
    assert given_up([make_pod(conditions=TAINTED, deleted=over(9000), grace=0)], NOW) == ((), None)
