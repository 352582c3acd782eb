"""The cluster's processes: what each is started with and how its health is asked. Pure."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from capstan_cluster.config import Config
from capstan_cluster.render import STORAGE_NAMESPACE

Trust = Literal["none", "ca", "any"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A URL that answers 200 when all is well. `trust`: whom to believe when it is https."""

    url: str
    trust: Trust = "none"


@dataclass(frozen=True, slots=True)
class Component:
    """One long-running process."""

    name: str
    argv: tuple[str, ...]
    probe: Probe | Path | None = None
    """How to ask whether it is well: a URL, a socket that accepts, or None: it is when it runs."""
    inherits: tuple[str, ...] = ()
    """Variables of our environment that it gets besides PATH."""

    def generation(self, files: Mapping[str, str]) -> str:
        """Changes when the process would have to be started anew: its arguments or the `files` they name."""
        digest = hashlib.sha256("\0".join(self.argv).encode())
        for path in sorted(files):
            if any(path in word for word in self.argv):
                digest.update(f"\0{path}\0{files[path]}".encode())
        return digest.hexdigest()[:16]


def _flags(values: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(
        f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()
    )


def components(config: Config, program: Callable[[str], Path], helper_image: str) -> tuple[Component, ...]:
    """All of them, in the order in which they are started."""
    ports = config.ports

    def pki(name: str) -> str:
        return str(config.pki(name))

    def user(component: str) -> str:
        return str(config.etc(f"{component}.kubeconfig"))

    def component(name: str, flags: Mapping[str, object], probe: Probe | Path | None = None) -> Component:
        return Component(name, (str(program(name)), *_flags(flags)), probe)

    etcd_url = f"https://127.0.0.1:{ports['etcd']}"
    etcd_peer = f"http://127.0.0.1:{ports['etcd-peer']}"
    etcd_health = f"http://127.0.0.1:{ports['etcd-health']}"
    etcd = {
        "name": "default",
        "data-dir": config.state_dir / "etcd",
        "listen-client-urls": etcd_url,
        "advertise-client-urls": etcd_url,
        "listen-peer-urls": etcd_peer,
        "initial-advertise-peer-urls": etcd_peer,
        "initial-cluster": f"default={etcd_peer}",
        "listen-metrics-urls": etcd_health,
        "cert-file": pki("etcd.crt"),
        "key-file": pki("etcd.key"),
        "client-cert-auth": True,
        "trusted-ca-file": pki("etcd-ca.crt"),
        # what the demo and the tests write outlives any crash of a process; a power cut it need not
        "unsafe-no-fsync": True,
        "log-level": "warn",
    }
    apiserver = {
        "etcd-servers": etcd_url,
        "etcd-cafile": pki("etcd-ca.crt"),
        "etcd-certfile": pki("apiserver-etcd.crt"),
        "etcd-keyfile": pki("apiserver-etcd.key"),
        "bind-address": str(IPv4Address(0)),  # pods reach it at the node's address, we at loopback
        "advertise-address": config.address,
        "secure-port": ports["kube-apiserver"],
        "service-cluster-ip-range": config.service_cidr,
        "client-ca-file": pki("ca.crt"),
        "tls-cert-file": pki("apiserver.crt"),
        "tls-private-key-file": pki("apiserver.key"),
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": pki("sa.pub"),
        "service-account-signing-key-file": pki("sa.key"),
        "kubelet-certificate-authority": pki("ca.crt"),
        "kubelet-client-certificate": pki("apiserver-kubelet.crt"),
        "kubelet-client-key": pki("apiserver-kubelet.key"),
        "kubelet-preferred-address-types": "InternalIP",  # the node's name resolves nowhere
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": True,
        # what tests compare the operator's rights with
        "audit-policy-file": config.etc("audit-policy.yaml"),
        "audit-log-path": config.log("audit"),
        "audit-log-maxsize": 64,
        "audit-log-maxbackup": 1,
        "profiling": False,
    }
    controllers = {
        "kubeconfig": user("kube-controller-manager"),
        "bind-address": "127.0.0.1",
        "secure-port": ports["kube-controller-manager"],
        "leader-elect": False,
        "use-service-account-credentials": True,
        "service-account-private-key-file": pki("sa.key"),
        "root-ca-file": pki("ca.crt"),
        "cluster-signing-cert-file": pki("ca.crt"),
        "cluster-signing-key-file": pki("ca.key"),
        "profiling": False,
    }
    scheduler = {
        "kubeconfig": user("kube-scheduler"),
        "bind-address": "127.0.0.1",
        "secure-port": ports["kube-scheduler"],
        "leader-elect": False,
        "profiling": False,
    }
    kubelet = {
        "config": config.etc("kubelet.yaml"),
        "kubeconfig": user("kubelet"),
        "hostname-override": config.node,
        "node-ip": config.address,
        "root-dir": config.state_dir / "kubelet",
    }
    proxy = {
        "kubeconfig": user("kube-proxy"),
        "hostname-override": config.node,
        "proxy-mode": "iptables",
        "cluster-cidr": config.pod_cidr,
        "healthz-bind-address": f"127.0.0.1:{ports['kube-proxy-health']}",
        "metrics-bind-address": f"127.0.0.1:{ports['kube-proxy-metrics']}",
        # leave the machine's own settings as they are
        "iptables-localhost-nodeports": False,
        "conntrack-max-per-core": 0,
        "conntrack-min": 0,
        "conntrack-tcp-timeout-established": "0s",
        "conntrack-tcp-timeout-close-wait": "0s",
    }
    volumes = {
        "config": config.etc("volumes.json"),
        "helper-pod-file": config.etc("volume-helper.yaml"),
        "helper-image": helper_image,
        "namespace": STORAGE_NAMESPACE,
        "service-account-name": "local-path-provisioner",
        "configmap-name": "unused",
        "kubeconfig": user("local-path-provisioner"),
    }
    return (
        component("etcd", etcd, Probe(f"{etcd_health}/health")),
        Component(
            "containerd",
            (str(program("containerd")), "--config", str(config.etc("containerd.toml"))),
            config.containerd_socket,
            # it pulls images
            (
                "HTTP_PROXY",
                "HTTPS_PROXY",
                "NO_PROXY",
                "http_proxy",
                "https_proxy",
                "no_proxy",
                "SSL_CERT_FILE",
            ),
        ),
        component(
            "kube-apiserver", apiserver, Probe(f"https://127.0.0.1:{ports['kube-apiserver']}/readyz", "ca")
        ),
        component(
            "kube-controller-manager",
            controllers,
            Probe(f"https://127.0.0.1:{ports['kube-controller-manager']}/healthz", "any"),
        ),
        component(
            "kube-scheduler", scheduler, Probe(f"https://127.0.0.1:{ports['kube-scheduler']}/healthz", "any")
        ),
        component("kubelet", kubelet, Probe(f"http://127.0.0.1:{ports['kubelet-health']}/healthz")),
        component("kube-proxy", proxy, Probe(f"http://127.0.0.1:{ports['kube-proxy-health']}/livez")),
        Component(
            "coredns",
            (str(program("coredns")), "-conf", str(config.etc("Corefile"))),
            Probe(f"http://127.0.0.1:{ports['coredns-ready']}/ready"),
        ),
        Component(
            "local-path-provisioner",
            (str(program("local-path-provisioner")), "start", *_flags(volumes)),
        ),
    )
