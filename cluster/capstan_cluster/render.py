"""The configuration files and manifests of the cluster, as pure functions of its `Config`."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import yaml

from capstan_cluster.config import CONTEXT, Config

STORAGE_NAMESPACE = "local-path-storage"

Manifest = dict[str, Any]


def yaml_text(document: object) -> str:
    """One YAML document."""
    return yaml.safe_dump(document, sort_keys=False)


def containerd_config(config: Config, runc: str, helper_image: str) -> str:
    """containerd: everything in our own folders, so that nothing is left behind, nor shared with another.

    `restrict_oom_score_adj` is for machines without CAP_SYS_RESOURCE.
    """
    run = config.run_dir
    cri = "io.containerd.cri.v1"
    tables: dict[str, dict[str, object]] = {
        "": {
            "version": 4,
            "root": f"{config.state_dir}/containerd",
            "state": f"{run}/containerd",
            "imports": [],
            "disabled_plugins": ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"],
        },
        "plugins.'io.containerd.server.v1.grpc'": {"address": str(config.containerd_socket)},
        "plugins.'io.containerd.server.v1.ttrpc'": {"address": f"{config.containerd_socket}.ttrpc"},
        "plugins.'io.containerd.shim.v1.manager'": {"socket_dir": f"{run}/shims"},
        "plugins.'io.containerd.internal.v1.opt'": {"path": f"{config.state_dir}/opt"},
        f"plugins.'{cri}.images'": {"snapshotter": "overlayfs"},
        f"plugins.'{cri}.images'.pinned_images": {"sandbox": helper_image},
        f"plugins.'{cri}.runtime'": {"restrict_oom_score_adj": True, "netns_mounts_under_state_dir": True},
        f"plugins.'{cri}.runtime'.cni": {
            "bin_dirs": ["/usr/lib/cni", "/opt/cni/bin"],
            "conf_dir": str(config.etc("cni")),
            "use_internal_loopback": True,
        },
        f"plugins.'{cri}.runtime'.containerd.runtimes.runc": {"runtime_type": "io.containerd.runc.v2"},
        f"plugins.'{cri}.runtime'.containerd.runtimes.runc.options": {
            "SystemdCgroup": False,
            "BinaryName": runc,
            "Root": f"{run}/runc",
        },
    }
    lines: list[str] = []
    for name, values in tables.items():
        lines += [f"[{name}]"] if name else []
        # JSON's strings, numbers, booleans and arrays of strings are TOML's as well
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def cni_config(config: Config) -> str:
    """The pods' network: each pod on a link of its own, routed by the node.

    Routed, not bridged: every packet passes the node's IP layer, so Services work between pods of one node
    without br_netfilter. Addresses in use are kept in the run folder: they must not outlive a restart.
    """
    plugin = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(config.pod_cidr), "gateway": str(config.address)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": f"{config.run_dir}/addresses",
        },
    }
    return (
        json.dumps({"cniVersion": "1.0.0", "name": config.pod_network, "plugins": [plugin]}, indent=2) + "\n"
    )


def kubelet_config(config: Config) -> str:
    """kubelet: on control groups v1 or v2, under a group of our own; it evicts only at the very end."""
    return yaml_text(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": str(config.address),
            "port": config.ports["kubelet"],
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": config.ports["kubelet-health"],
            "authentication": {
                "x509": {"clientCAFile": str(config.pki("ca.crt"))},
                "webhook": {"enabled": True},
                "anonymous": {"enabled": False},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(config.pki("kubelet.crt")),
            "tlsPrivateKeyFile": str(config.pki("kubelet.key")),
            "containerRuntimeEndpoint": f"unix://{config.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": config.cgroup,
            "failCgroupV1": False,
            "failSwapOn": False,
            "featureGates": {"KubeletInUserNamespace": True},
            "clusterDomain": "cluster.local",
            "clusterDNS": [str(config.address)],
            "podLogsDir": f"{config.state_dir}/pod-logs",
            "podPidsLimit": 8192,
            "maxPods": 250,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "4s",
            "nodeStatusReportFrequency": "4s",
            "serializeImagePulls": False,
        }
    )


def audit_policy() -> str:
    """What the API server notes of requests: that Capstan made them, and nothing of anybody else's."""
    return yaml_text(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "userGroups": ["system:serviceaccounts:capstan-system"]},
                {"level": "None"},
            ],
        }
    )


def corefile(config: Config) -> str:
    """CoreDNS: the cluster's names from the API server, all others from the machine's own resolver."""
    return f""".:53 {{
    bind {config.address}
    errors
    health 127.0.0.1:{config.ports["coredns-health"]} {{
        lameduck 0s
    }}
    ready 127.0.0.1:{config.ports["coredns-ready"]}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {config.etc("coredns.kubeconfig")} {CONTEXT}
        pods insecure
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 10 {{
        disable success cluster.local
        disable denial cluster.local
    }}
}}
"""


def kubeconfig(config: Config, user: str, ca: bytes, certificate: bytes, key: bytes) -> str:
    """A kubeconfig with everything inside, so that it can be copied elsewhere."""

    def encoded(content: bytes) -> str:
        return base64.b64encode(content).decode()

    server = f"https://127.0.0.1:{config.ports['kube-apiserver']}"
    return yaml_text(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": CONTEXT, "cluster": {"server": server, "certificate-authority-data": encoded(ca)}}
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": encoded(certificate),
                        "client-key-data": encoded(key),
                    },
                }
            ],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
            "current-context": CONTEXT,
        }
    )


def volume_config(config: Config) -> str:
    """local-path-provisioner: where volumes are, and the program in the helper image that makes them."""
    paths = [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [f"{config.state_dir}/volumes"]}]
    return (
        json.dumps({"nodePathMap": paths, "setupCommand": "/volume", "teardownCommand": "/volume"}, indent=2)
        + "\n"
    )


def volume_helper_pod(image: str) -> str:
    """The pod in which the helper makes or removes a volume's folder."""
    container = {"name": "helper-pod", "image": image, "imagePullPolicy": "Never"}
    return yaml_text(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "helper-pod"},
            "spec": {
                "priorityClassName": "system-node-critical",
                "automountServiceAccountToken": False,
                "containers": [container],
            },
        }
    )


def manifests() -> list[Manifest]:
    """What the cluster's own components need in the API: their rights and the default storage class."""
    read = ["get", "list", "watch"]
    write = [*read, "create", "patch", "update", "delete"]
    dns_rules = [
        _rule("", ["services", "namespaces", "pods"], ["list", "watch"]),
        _rule("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
    ]
    volume_rules = [
        _rule("", ["nodes", "persistentvolumeclaims", "configmaps", "pods", "pods/log"], read),
        _rule("", ["persistentvolumes"], write),
        _rule("", ["events"], ["create", "patch"]),
        _rule("storage.k8s.io", ["storageclasses"], read),
    ]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STORAGE_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "local-path-provisioner", "namespace": STORAGE_NAMESPACE},
        },
        *_granted("coredns", dns_rules, None),
        *_granted("local-path-provisioner", volume_rules, None),
        *_granted("local-path-provisioner", [_rule("", ["pods"], write)], STORAGE_NAMESPACE),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "local-path",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
    ]


def _rule(group: str, resources: list[str], verbs: list[str]) -> Manifest:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _granted(component: str, rules: list[Manifest], namespace: str | None) -> list[Manifest]:
    """A role and its binding to the user `capstan:<component>`; cluster-wide without a namespace."""
    scope = "Role" if namespace else "ClusterRole"
    metadata: Mapping[str, str] = {
        "name": f"capstan:{component}",
        **({"namespace": namespace} if namespace else {}),
    }
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{group}/v1", "kind": scope, "metadata": dict(metadata), "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{scope}Binding",
            "metadata": dict(metadata),
            "roleRef": {"apiGroup": group, "kind": scope, "name": f"capstan:{component}"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": f"capstan:{component}"}],
        },
    ]
