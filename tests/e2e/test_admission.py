"""What the real API server takes: everything it takes, the operator can plan; what it refuses, it explains.

Hundreds of documents in one test: server-side dry runs, which store nothing, over one connection.
"""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from capstan_demo.environment import Environment
from capstan_demo.kube import Manifest
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Observed, Settings
from capstan_operator.shell import login
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.errors import Rejected
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.metrics import Metrics

from tests.unit.api.test_crds import BAD

pytestmark = pytest.mark.cluster

PLANS = {kind.kind: kind.plan for kind in KINDS}
RESOURCES = {k.kind: Resource(k.api_version, k.kind, k.plural) for k in KINDS} | {
    c.kind: Resource(c.api_version, c.kind, c.plural) for k in KINDS for c in k.children
}
SETTINGS = Settings(agent_image="agent:1", serving_image="serving:1")
DIGEST = "sha256:" + "0" * 64

COMMON: Manifest = {
    "accelerator": {"type": "nvidia-a100", "count": 1, "resource": "nvidia.com/gpu"},
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    "template": {"metadata": {"annotations": {"a": "b"}}, "spec": {"tolerations": [{"operator": "Exists"}]}},
}
WHOLE: dict[str, Manifest] = {
    "TrainingJob": {
        "framework": "pytorch",
        "image": "i:1",
        "command": ["train"],
        "args": ["--epochs=3"],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}],
        "workingDir": "/app",
        "replicas": 2,
        "processesPerReplica": "auto",
        "checkpoint": {"uri": "pvc://a/b", "gracePeriod": "90s"},
        "output": {"uri": "pvc://a/c", "format": "onnx"},
        "supervise": True,
        **COMMON,
    },
    "InferenceService": {
        "model": {"uri": "pvc://a/b.onnx", "name": "m", "version": "3", "format": "onnx", "digest": DIGEST},
        "runtime": {"name": "capstan", "image": "i:1"},
        "replicas": {"min": 2},
        **COMMON,
    },
}
#: What each place of a spec is tried with.
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1_001, 100_000, 2**31, 2**63, 1.5, "", " ", "x", "auto", "é𝄞\u202e", "a\nb",
    "../../etc", "x" * 40_000, "9" * 70,
    [], ["a"], [[]], [None], [{"name": "A"}, {"name": "A"}], {}, {"a": "b"}, {"x": {"y": {"z": []}}},
    {f"key-{n}": "1" for n in range(200)},
)  # fmt: skip
NAMES = {"a" * 63: True, "a" * 64: False, "1a": False, "a-": False, "a.b": False, "ä": False, "a_b": False}


def document(kind: str, spec: Any, name: str = "x") -> Manifest:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "capstan.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def replaced(value: Any, wrong: Any) -> list[Any]:
    """The value with each place in it, one at a time, being something else."""
    if isinstance(value, dict):
        places = [(key, {**value, key: w}) for key in value for w in replaced(value[key], wrong)]
        return [wrong, *(made for _, made in places)]
    if isinstance(value, list):
        return [
            wrong,
            *([*value[:n], w, *value[n + 1 :]] for n in range(len(value)) for w in replaced(value[n], wrong)),
        ]
    return [wrong]


async def answers(environment: Environment, documents: list[Manifest]) -> list[Manifest | Rejected]:
    """What the API server makes of documents that it need not keep."""
    kube, limit = environment.kube, asyncio.Semaphore(16)
    api = KubernetesApi(await login.configuration(kube.kubeconfig, kube.context), Metrics())

    async def one(doc: Manifest) -> Manifest | Rejected:
        path = RESOURCES[doc["kind"]].path(doc["metadata"]["namespace"])
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        async with limit:
            try:
                return await api._json("create", "POST", path, query, doc)
            except Rejected as error:  # any other error is one: 5xx, no answer
                return error

    try:
        return await asyncio.gather(*map(one, documents))
    finally:
        await api.close()


def children(taken: Manifest) -> list[Manifest]:
    """What is planned for a resource that was taken; it must not be called invalid."""
    plan = PLANS[taken["kind"]](taken, Observed(), datetime.now(UTC), SETTINGS)
    said = plan.status["conditions"][0]
    assert said["reason"] != "InvalidSpec", (said["message"], json.dumps(taken["spec"])[:2000])
    return list(plan.apply)


async def test_what_is_taken_can_be_planned_and_what_is_refused_is_refused_cleanly(
    installed: Environment,
) -> None:
    documents = [
        document(kind, spec)
        for kind, whole in WHOLE.items()
        for wrong in WRONG
        for spec in replaced(whole, wrong)
    ]
    assert len(documents) > 1000
    found = await answers(installed, documents)
    taken = [made for made in found if not isinstance(made, Rejected)]
    refused = [error for error in found if isinstance(error, Rejected)]
    assert len(taken) > 50
    assert len(refused) > 500
    assert {error.status for error in refused} <= {400, 422}
    for made in taken:
        children(made)


async def test_every_sentence_is_the_api_servers_too(installed: Environment) -> None:
    found = await answers(installed, [document(kind, spec) for kind, spec, _ in BAD])
    for (_, spec, _), answer in zip(BAD, found, strict=True):
        assert isinstance(answer, Rejected), spec
        assert "spec" in answer.message


async def test_names_at_the_limit_and_their_children(installed: Environment) -> None:
    """A resource with the longest name has children that the API server takes, its unicode and all."""
    plain = {
        "TrainingJob": {k: v for k, v in WHOLE["TrainingJob"].items() if k != "template"},
        "InferenceService": WHOLE["InferenceService"],
    }
    plain["TrainingJob"] |= {"args": ["é𝄞\u202e", "a\nb", ""], "replicas": 1000}
    names = [(kind, name, good) for kind in plain for name, good in NAMES.items()]
    found = await answers(installed, [document(kind, plain[kind], name) for kind, name, _ in names])
    for (_, name, good), answer in zip(names, found, strict=True):
        assert isinstance(answer, Rejected) is not good, (name, answer)
    made = [child for answer in found if not isinstance(answer, Rejected) for child in children(answer)]
    refused = [
        (c["kind"], a.message)
        for c, a in zip(made, await answers(installed, made), strict=True)
        if isinstance(a, Rejected)
    ]
    assert made
    assert refused == []
