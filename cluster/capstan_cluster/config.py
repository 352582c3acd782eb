"""Everything that can be set about a local cluster, and every path, address and port that follows from it.

Two clusters can stand side by side when their names and state directories differ and each has a network
namespace of its own.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Self

from capstan_cluster.errors import ClusterError

CONTEXT = "capstan"
"""The name of the context in the kubeconfig that is written."""

GPU_RESOURCE = "nvidia.com/gpu"
NODE_LABELS: Mapping[str, str] = {
    "accelerator": "nvidia-a100",
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
    "framework": "pytorch",
}
"""What the node says about its accelerators, so that requests and affinities are scheduled for real."""

_PODS, _SERVICES = IPv4Network("10.42.0.0/16"), IPv4Network("10.43.0.0/16")

_PORTS = (
    "etcd",
    "etcd-peer",
    "etcd-health",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubelet-health",
    "kube-proxy-health",
    "kube-proxy-metrics",
    "coredns-health",
    "coredns-ready",
)


@dataclass(frozen=True, slots=True)
class Config:
    """One local cluster. The defaults are what `capstan-cluster up` boots."""

    state_dir: Path = Path("/var/lib/capstan-cluster")
    name: str = "capstan"
    pod_cidr: IPv4Network = _PODS
    service_cidr: IPv4Network = _SERVICES
    interface: str = "capstan0"
    first_port: int = 6440
    gpus: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is touched."""
        if not self.state_dir.is_absolute() or self.state_dir == Path("/"):
            raise ClusterError(f"the state directory must be an absolute path, not {self.state_dir}")
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", self.name):
            raise ClusterError(
                f"the cluster's name must be lower-case letters, digits and dashes, not {self.name!r}"
            )
        if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,15}", self.interface):
            raise ClusterError(
                f"{self.interface!r} is no name for a network interface (at most 15 characters)"
            )
        if self.pod_cidr.overlaps(self.service_cidr):
            raise ClusterError(
                f"the pods' network {self.pod_cidr} overlaps the services' {self.service_cidr}",
                "choose others with --pod-cidr and --service-cidr",
            )
        if self.pod_cidr.prefixlen > 24 or not 12 <= self.service_cidr.prefixlen <= 24:
            raise ClusterError(
                "the pods' network must be a /24 or larger, the services' between a /12 and a /24",
                "choose others with --pod-cidr and --service-cidr",
            )
        if not 1024 <= self.first_port <= 65535 - len(_PORTS):
            raise ClusterError(f"--first-port must leave room for {len(_PORTS)} ports above 1024")

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **flags: object) -> Self:
        """From `flags` (None: not given), else CAPSTAN_CLUSTER_<FIELD> of `environ`, else the default."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = flags.get(field.name)
            if value is None:
                value = environ.get(f"CAPSTAN_CLUSTER_{field.name.upper()}")
            if value is not None:
                values[field.name] = _parsed(field.name, str(value))
        return cls(**values)

    def to_json(self) -> str:
        """What `from_json` reads back."""
        return json.dumps({f.name: str(getattr(self, f.name)) for f in dataclasses.fields(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The configuration that a state directory was made with."""
        return cls(**{key: _parsed(key, value) for key, value in json.loads(text).items()})

    @property
    def node(self) -> str:
        """The node's name."""
        return f"{self.name}-node"

    @property
    def address(self) -> IPv4Address:
        """The node's address, the pods' gateway and the DNS server: the first of the pods' network."""
        return self.pod_cidr[1]

    @property
    def kubernetes_service(self) -> IPv4Address:
        """The cluster address of the API server."""
        return self.service_cidr[1]

    @property
    def cgroup(self) -> str:
        """The control group under which all pods of this cluster are."""
        return f"/{self.name}-pods"

    @property
    def pod_network(self) -> str:
        """The name of the pods' network, under which the network plug-in files what it remembers."""
        return f"{self.name}-pods"

    @property
    def ports(self) -> dict[str, int]:
        """A port for each thing that listens, counted up from `first_port` (the API server: 6443)."""
        return {name: self.first_port + index for index, name in enumerate(_PORTS)}

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state_dir / "admin.kubeconfig"

    @property
    def marker(self) -> Path:
        """The file that says that the state directory is ours, and how it was configured."""
        return self.state_dir / "cluster.json"

    @property
    def run_dir(self) -> Path:
        """What must not outlive a restart of the machine: sockets, containers' state, addresses in use.

        Its path is short, whatever the state directory's, because a socket's path must be.
        """
        return Path("/run") / f"capstan-{hashlib.sha256(bytes(self.state_dir)).hexdigest()[:8]}"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.run_dir / "containerd.sock"

    def pki(self, name: str) -> Path:
        """A file among the keys and certificates."""
        return self.state_dir / "pki" / name

    def etc(self, name: str) -> Path:
        """A rendered configuration file."""
        return self.state_dir / "etc" / name

    def log(self, component: str) -> Path:
        """The log of a component."""
        return self.state_dir / "logs" / f"{component}.log"


def _parsed(field: str, value: str) -> Any:
    try:
        match field:
            case "state_dir":
                return Path(value)
            case "pod_cidr" | "service_cidr":
                return IPv4Network(value)
            case "first_port" | "gpus":
                return int(value)
    except ValueError as error:
        raise ClusterError(f"{field.replace('_', ' ')}: {error}") from None
    return value


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where built programs are kept, from one cluster to the next."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("CAPSTAN_CACHE") or Path.home() / ".cache" / "capstan")
