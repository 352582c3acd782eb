"""What a node says, and what it is given."""

import json

import pytest
from capstan_cluster import nodes
from capstan_cluster.config import GPU_RESOURCE, NODE_LABELS


def node(status="True", heard="1970-01-01T00:01:40Z", gpus="4"):
    resources = {GPU_RESOURCE: gpus}
    return {
        "metadata": {"labels": dict(NODE_LABELS)},
        "status": {
            "conditions": [{"type": "Ready", "status": status, "lastHeartbeatTime": heard}],
            "capacity": resources,
            "allocatable": resources,
        },
    }


@pytest.mark.parametrize(
    ("given", "since", "ready"),
    [
        (node(), 0, True),
        (node(status="Unknown"), 0, False),
        (node(), 99.9, True),
        (node(), 100.5, False),  # of the same second: it may be the former kubelet's
        ({}, 0, False),
    ],
)
def test_a_node_is_ready_by_a_report_of_the_kubelet_that_runs_now(given, since, ready):
    assert nodes.is_ready(given, since) is ready


def test_a_node_that_has_lost_its_accelerators_or_labels_is_noticed():
    assert nodes.offers(node(), 4)
    assert not nodes.offers(node(gpus="0"), 4)
    bare = node()
    del bare["metadata"]["labels"]["accelerator"]
    assert not nodes.offers(bare, 4)


def test_accelerators_are_offered_as_capacity_and_as_allocatable():
    calls = []
    nodes.offer(lambda *arguments: calls.append(arguments) or "", "n", 2)
    labels, patch = calls
    assert labels[:4] == ("label", "--overwrite", "node", "n")
    assert set(labels[4:]) == {f"{key}={value}" for key, value in NODE_LABELS.items()}
    assert "--subresource=status" in patch
    given = json.loads(patch[-1].removeprefix("--patch="))["status"]
    assert given == {"capacity": {GPU_RESOURCE: "2"}, "allocatable": {GPU_RESOURCE: "2"}}
