"""From an accelerator's type to the nodes that have it, by whatever labels the cluster carries.

Kubernetes has no standard label for this. Each of these is set by something in wide use, and a node
selector's terms are alternatives, so a pod goes wherever any of them says that the accelerator is there:

- `accelerator`: the Kubernetes documentation's own example, put on nodes by hand ("Schedule GPUs").
- `nvidia.com/gpu.product`: NVIDIA's GPU feature discovery: the product's name as the driver reports it, with
  dashes for spaces. Partitioned and time-shared GPUs are called otherwise (`...-MIG-1g.10gb`, `...-SHARED`)
  and so are never taken for whole ones (github.com/NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery).
- `amd.com/gpu.product-name`: AMD's node labeller (github.com/ROCm/k8s-device-plugin, cmd/k8s-node-labeller).
- `cloud.google.com/gke-accelerator`: GKE (cloud.google.com/kubernetes-engine/docs/concepts/gpus).
- `k8s.amazonaws.com/accelerator`: EKS node groups, for the cluster autoscaler
  (github.com/kubernetes/autoscaler, cluster-autoscaler/cloudprovider/aws, "GPU Node Groups").
- `eks.amazonaws.com/instance-gpu-name`: EKS Auto Mode; `karpenter.k8s.aws/instance-gpu-name`: Karpenter on
  AWS: the EC2 API's GPU name in lower case (karpenter.sh, "Well-Known Labels").
- `karpenter.azure.com/sku-gpu-name`: AKS node auto-provisioning: the name in the VM's size
  (github.com/Azure/karpenter-provider-azure, pkg/apis). Fixed AKS node pools say only
  `kubernetes.azure.com/accelerator: nvidia`, which is no model, so there the VM's size is looked at:
  `node.kubernetes.io/instance-type` (learn.microsoft.com/azure/virtual-machines/sizes/overview).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from capstan_operator.api.common import Accelerator, Resources
from capstan_operator.core import quantity
from capstan_operator.core.model import Manifest

PLAIN: Final = "accelerator"
NVIDIA: Final = "nvidia.com/gpu.product"
AMD: Final = "amd.com/gpu.product-name"
GKE: Final = "cloud.google.com/gke-accelerator"
EKS: Final = "k8s.amazonaws.com/accelerator"
AWS_NAMES: Final = ("eks.amazonaws.com/instance-gpu-name", "karpenter.k8s.aws/instance-gpu-name")
AKS_NAME: Final = "karpenter.azure.com/sku-gpu-name"
AKS_SIZE: Final = "node.kubernetes.io/instance-type"

FRAMEWORK: Final = "framework"

#: Resources whose amount is a number of accelerators. Exact names: what merely sounds like a GPU is none
#: (nvidia.com/gpumem, vendor.example/gpu-memory). A MIG profile is part of the name.
_COUNTED: Final = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "google.com/tpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
)
_COUNTED_PREFIX: Final = "nvidia.com/mig-"


@dataclass(frozen=True, slots=True)
class Labels:
    """What nodes with one type of accelerator are called. `aws` are EC2's names, `sizes` Azure's VM sizes."""

    nvidia: tuple[str, ...] = ()
    amd: tuple[str, ...] = ()
    gke: tuple[str, ...] = ()
    eks: tuple[str, ...] = ()
    aws: tuple[str, ...] = ()
    aks: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()

    def __add__(self, other: Labels) -> Labels:
        """Either."""
        return Labels(
            self.nvidia + other.nvidia,
            self.amd + other.amd,
            tuple(dict.fromkeys(self.gke + other.gke)),
            tuple(dict.fromkeys(self.eks + other.eks)),
            tuple(dict.fromkeys(self.aws + other.aws)),
            tuple(dict.fromkeys(self.aks + other.aks)),
            self.sizes + other.sizes,
        )


# EC2 and Azure's provisioner do not tell the two sizes of the A100 by name, so where memory is asked for only
# labels that say it are used.
_A100_40GB = Labels(
    nvidia=("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB"),
    gke=("nvidia-tesla-a100",),
    sizes=("Standard_ND96asr_v4",),
)
_A100_80GB = Labels(
    nvidia=("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe", "A100-SXM4-80GB"),
    gke=("nvidia-a100-80gb",),
    sizes=(
        "Standard_NC24ads_A100_v4",
        "Standard_NC48ads_A100_v4",
        "Standard_NC96ads_A100_v4",
        "Standard_ND96amsr_A100_v4",
    ),
)
_H100_80GB = Labels(
    nvidia=("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe"),
    gke=("nvidia-h100-80gb", "nvidia-h100-mega-80gb"),
    sizes=("Standard_ND96isr_H100_v5",),
)
_H100_94GB = Labels(
    nvidia=("NVIDIA-H100-NVL",), sizes=("Standard_NC40ads_H100_v5", "Standard_NC80adis_H100_v5")
)

TYPES: Final[dict[str, Labels]] = {
    "nvidia-gb200": Labels(
        nvidia=("NVIDIA-GB200",),
        gke=("nvidia-gb200",),
        aws=("gb200",),
        aks=("GB200",),
        sizes=("Standard_ND128isr_NDR_GB200_v6",),
    ),
    "nvidia-b200": Labels(nvidia=("NVIDIA-B200",), gke=("nvidia-b200",), aws=("b200",)),
    "nvidia-h200": Labels(
        nvidia=("NVIDIA-H200", "NVIDIA-H200-NVL"),
        gke=("nvidia-h200-141gb",),
        aws=("h200",),
        aks=("H200",),
        sizes=("Standard_ND96isr_H200_v5",),
    ),
    "nvidia-h100": _H100_80GB + _H100_94GB + Labels(eks=("nvidia-h100",), aws=("h100",), aks=("H100",)),
    "nvidia-h100-80gb": _H100_80GB + Labels(aws=("h100",)),
    "nvidia-a100": _A100_40GB
    + _A100_80GB
    + Labels(eks=("nvidia-tesla-a100", "nvidia-a100"), aws=("a100",), aks=("A100",)),
    "nvidia-a100-40gb": _A100_40GB,
    "nvidia-a100-80gb": _A100_80GB,
    "nvidia-l40s": Labels(nvidia=("NVIDIA-L40S",), eks=("nvidia-l40s",), aws=("l40s",)),
    "nvidia-l40": Labels(nvidia=("NVIDIA-L40",)),
    "nvidia-l4": Labels(nvidia=("NVIDIA-L4",), gke=("nvidia-l4",), eks=("nvidia-l4",), aws=("l4",)),
    "nvidia-a10g": Labels(nvidia=("NVIDIA-A10G",), eks=("nvidia-a10g", "nvidia-tesla-a10g"), aws=("a10g",)),
    "nvidia-a10": Labels(
        nvidia=("NVIDIA-A10",), aks=("A10",), sizes=("Standard_NV36ads_A10_v5", "Standard_NV72ads_A10_v5")
    ),
    "nvidia-a30": Labels(nvidia=("NVIDIA-A30",)),
    "nvidia-a40": Labels(nvidia=("NVIDIA-A40",)),
    "nvidia-t4": Labels(
        nvidia=("Tesla-T4",),
        gke=("nvidia-tesla-t4",),
        eks=("nvidia-tesla-t4",),
        aws=("t4",),
        aks=("T4",),
        sizes=(
            "Standard_NC4as_T4_v3",
            "Standard_NC8as_T4_v3",
            "Standard_NC16as_T4_v3",
            "Standard_NC64as_T4_v3",
        ),
    ),
    "nvidia-v100": Labels(
        nvidia=(
            "Tesla-V100-SXM2-16GB",
            "Tesla-V100-SXM2-32GB",
            "Tesla-V100-SXM3-32GB",
            "Tesla-V100-PCIE-16GB",
            "Tesla-V100-PCIE-32GB",
            "Tesla-V100S-PCIE-32GB",
        ),
        gke=("nvidia-tesla-v100",),
        eks=("nvidia-tesla-v100",),
        aws=("v100",),
        aks=("V100",),
        sizes=(
            "Standard_NC6s_v3",
            "Standard_NC12s_v3",
            "Standard_NC24s_v3",
            "Standard_NC24rs_v3",
            "Standard_ND40rs_v2",
        ),
    ),
    "nvidia-p100": Labels(
        nvidia=("Tesla-P100-PCIE-16GB", "Tesla-P100-PCIE-12GB", "Tesla-P100-SXM2-16GB"),
        gke=("nvidia-tesla-p100",),
    ),
    "amd-mi300x": Labels(
        amd=("AMD_Instinct_MI300X_OAM", "AMD_Instinct_MI300X_VF"),
        aks=("MI300X",),
        sizes=("Standard_ND96isr_MI300X_v5",),
    ),
    "amd-mi325x": Labels(amd=("AMD_Instinct_MI325_OAM", "AMD_Instinct_MI325X_OAM")),
}


def affinity(accelerator: Accelerator | None, framework: str | None) -> Manifest:
    """The node affinity: the accelerator's nodes required, nodes kept for the framework preferred."""
    node: Manifest = {}
    if accelerator and accelerator.type:
        node["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}
                for key, values in _labels(accelerator.type)
            ]
        }
    if framework:
        node["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {
                "weight": 10,
                "preference": {
                    "matchExpressions": [{"key": FRAMEWORK, "operator": "In", "values": [framework]}]
                },
            }
        ]
    return {"nodeAffinity": node} if node else {}


def _labels(kind: str) -> list[tuple[str, tuple[str, ...]]]:
    known = TYPES.get(kind, Labels())
    candidates = [
        (PLAIN, (kind,)),
        (NVIDIA, known.nvidia),
        (AMD, known.amd),
        (GKE, known.gke),
        (EKS, known.eks),
        *((key, known.aws) for key in AWS_NAMES),
        (AKS_NAME, known.aks),
        (AKS_SIZE, known.sizes),
    ]
    return [(key, values) for key, values in candidates if values]


def amounts(accelerator: Accelerator | None, resources: Resources | None) -> Manifest:
    """The container's resources. Extended resources go into the limits; requests follow from them."""
    result: Manifest = {}
    if resources and resources.requests:
        result["requests"] = dict(resources.requests)
    limits = dict((resources.limits if resources else None) or {})
    if accelerator:
        limits[accelerator.resource] = accelerator.count
    if limits:
        result["limits"] = limits
    return result


def count(accelerator: Accelerator | None, resources: Resources | None) -> int:
    """How many accelerators a pod has, wherever the spec says so."""
    if accelerator:
        return accelerator.count
    limits = (resources.limits if resources else None) or {}
    total = sum(
        (quantity.value(amount) or 0)
        for name, amount in limits.items()
        if name in _COUNTED or name.startswith(_COUNTED_PREFIX)
    )
    return int(total)
