"""An accelerator's type is found by the labels of every kind of cluster; nothing else is taken for it."""

from typing import Any

import pytest
from capstan_operator.api.common import Accelerator, Resources
from capstan_operator.core import accelerators

CLUSTERS: list[tuple[str, dict[str, str]]] = [
    ("nvidia-a100", {"accelerator": "nvidia-a100"}),
    ("nvidia-a100", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}),
    ("nvidia-a100", {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}),
    ("nvidia-a100-80gb", {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"}),
    ("nvidia-h100", {"karpenter.k8s.aws/instance-gpu-name": "h100"}),
    ("nvidia-l4", {"eks.amazonaws.com/instance-gpu-name": "l4"}),
    ("nvidia-v100", {"k8s.amazonaws.com/accelerator": "nvidia-tesla-v100"}),
    ("nvidia-t4", {"karpenter.azure.com/sku-gpu-name": "T4"}),
    ("nvidia-t4", {"node.kubernetes.io/instance-type": "Standard_NC4as_T4_v3"}),
    ("amd-mi300x", {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}),
    ("acme-npu-9", {"accelerator": "acme-npu-9"}),
]


def goes_to(kind: str, labels: dict[str, str]) -> bool:
    """Whether the scheduler would take such a node."""
    node = accelerators.affinity(Accelerator(type=kind, count=1, resource="a/b"), None)["nodeAffinity"]
    terms = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return any(all(labels.get(e["key"]) in e["values"] for e in term["matchExpressions"]) for term in terms)


@pytest.mark.parametrize(("kind", "labels"), CLUSTERS)
def test_any_of_the_labels_will_do(kind: str, labels: dict[str, str]) -> None:
    assert goes_to(kind, labels)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("nvidia-a100", {}),
        ("nvidia-a100", {"accelerator": "nvidia"}),
        ("nvidia-a100", {"kubernetes.azure.com/accelerator": "nvidia"}),
        ("nvidia-a100", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"}),
        ("nvidia-a100", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-SHARED"}),
        ("nvidia-a100-80gb", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}),
        ("nvidia-a100-80gb", {"karpenter.k8s.aws/instance-gpu-name": "a100"}),
        ("nvidia-l4", {"nvidia.com/gpu.product": "NVIDIA-L40S"}),
    ],
)
def test_nothing_else_will(kind: str, labels: dict[str, str]) -> None:
    assert not goes_to(kind, labels)


def test_values_are_label_values() -> None:
    for labels in accelerators.TYPES.values():
        for values in (
            labels.nvidia,
            labels.amd,
            labels.gke,
            labels.eks,
            labels.aws,
            labels.aks,
            labels.sizes,
        ):
            assert len(set(values)) == len(values)
            assert all(
                0 < len(value) <= 63 and value.replace("-", "").replace("_", "").isalnum() for value in values
            )


def test_no_type_means_any_node_and_a_framework_is_a_wish() -> None:
    assert accelerators.affinity(None, None) == {}
    found = accelerators.affinity(Accelerator(type=None, count=1, resource="a/b"), "pytorch")["nodeAffinity"]
    assert list(found) == ["preferredDuringSchedulingIgnoredDuringExecution"]


@pytest.mark.parametrize(
    ("accelerator", "limits", "expected"),
    [
        (None, None, 0),
        ({"count": 8}, None, 8),
        (None, {"nvidia.com/gpu": "4"}, 4),
        (None, {"nvidia.com/mig-1g.10gb": 2}, 2),
        (None, {"amd.com/gpu": 1, "cpu": "4"}, 1),
        (None, {"nvidia.com/gpumem": 4000}, 0),
        (None, {"acme.example/gpu": 4}, 0),
    ],
)
def test_the_count_comes_from_exact_names(accelerator: Any, limits: Any, expected: int) -> None:
    given = Accelerator.model_validate(accelerator) if accelerator else None
    assert accelerators.count(given, Resources(requests=None, limits=limits)) == expected


def test_the_accelerator_is_a_limit() -> None:
    given = Accelerator.model_validate({"count": 2})
    found = accelerators.amounts(given, Resources(requests={"cpu": 1}, limits=None))
    assert found == {"requests": {"cpu": 1}, "limits": {"nvidia.com/gpu": 2}}
    assert accelerators.amounts(None, None) == {}
