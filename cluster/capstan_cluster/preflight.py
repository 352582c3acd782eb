"""What this machine lacks for a local cluster, each with what to do, before anything is built or changed.

Gathering the facts and judging them are apart: `problems` is pure.
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from capstan_cluster.build import CLUSTER_MODULES, Builder, go_minimum
from capstan_cluster.commands import Run, run
from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError
from capstan_cluster.network import foreign_kubernetes
from capstan_cluster.processes import ports_in_use

GIB = 1 << 30
_STATE_GIB, _BUILD_GIB, _MEMORY_GIB = 12, 8, 4
_CONTROLLERS = frozenset({"cpu", "cpuset", "memory", "pids"})

PACKAGES: dict[str, tuple[str, ...]] = {
    "ca-certificates": ("/etc/ssl/certs/ca-certificates.crt",),
    "gcc": ("gcc",),
    "libc6-dev": ("/usr/include/stdlib.h",),
    "libseccomp-dev": ("/usr/include/seccomp.h",),
    "pkg-config": ("pkg-config",),
    "containernetworking-plugins": ("/usr/lib/cni/ptp", "/opt/cni/bin/ptp"),
    "iproute2": ("ip",),
    "iptables": ("iptables",),
    "kmod": ("modprobe",),
    "mount": ("mount",),
    "buildah": ("buildah",),
    "mmdebstrap": ("mmdebstrap",),
}
"""Each package of packages.txt and what shows that it is there: any of these, a file or a program on PATH."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is missing, and what to do."""

    what: str
    remedy: str

    def __str__(self) -> str:
        """One line to read, one to act on."""
        return f"{self.what}\n    {self.remedy}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about the machine. Sizes are in bytes."""

    root: bool
    machine: str
    missing_packages: tuple[str, ...]
    overlay: bool
    state_filesystem: str
    controllers: frozenset[str]
    memory: int
    state_free: int
    cache_free: int
    to_build: tuple[str, ...]
    go_version: str
    go_minimum: str
    ours: bool
    busy_ports: dict[str, int]
    networks: dict[str, IPv4Network]
    kubernetes_rules: bool
    interface_taken: bool
    iptables_error: str


def problems(config: Config, facts: Facts) -> list[Problem]:
    """Everything that stands in the way, not just the first."""
    found: list[Problem] = []

    def check(bad: object, what: str, remedy: str) -> None:
        if bad:
            found.append(Problem(what, remedy))

    check(
        facts.machine != "x86_64",
        f"this machine is {facts.machine}; the cluster is built for x86_64",
        "use a cluster of yours: make demo CONTEXT=...",
    )
    check(
        not facts.root,
        "root is needed: pods are made of mounts, network links and control groups",
        "use sudo",
    )
    packages = " ".join(facts.missing_packages)
    check(
        packages,
        f"Debian packages are missing: {packages}",
        f"apt-get install --no-install-recommends {packages}",
    )
    check(
        not facts.overlay,
        "the kernel has no overlay file system",
        "modprobe overlay; in a container, ask its host to",
    )
    check(
        facts.state_filesystem in {"overlay", "nfs", "nfs4", "fuse"},
        f"{config.state_dir} is on {facts.state_filesystem}, which cannot hold containers",
        "choose a --state-dir on a disk, such as a volume of the container you are in",
    )
    lacking = ", ".join(sorted(_CONTROLLERS - facts.controllers))
    check(
        lacking,
        f"control group controllers are missing: {lacking}",
        "mount them (v1), or boot with systemd.unified_cgroup_hierarchy=1 (v2)",
    )
    check(
        facts.memory < _MEMORY_GIB * GIB,
        f"{facts.memory / GIB:.1f} GiB of memory are too little",
        f"{_MEMORY_GIB} GiB or more are needed",
    )
    check(
        not facts.ours and facts.state_free < _STATE_GIB * GIB,
        f"{facts.state_free / GIB:.1f} GiB are free for {config.state_dir}, images need {_STATE_GIB}",
        "free some, or choose another --state-dir",
    )
    if facts.to_build:
        names = ", ".join(facts.to_build)
        check(
            facts.cache_free < _BUILD_GIB * GIB,
            f"{facts.cache_free / GIB:.1f} GiB are free in the cache, building {names} needs {_BUILD_GIB}",
            "free some, or set CAPSTAN_CACHE and GOCACHE to another disk",
        )
        check(
            not go_suffices(facts.go_version, facts.go_minimum),
            f"Go {facts.go_minimum} or newer is needed to build {names}; found: {facts.go_version or 'none'}",
            "`make` installs it where it can; or see https://go.dev/dl",
        )
    if not facts.ours:
        found += _conflicts(config, facts)
    check(
        facts.iptables_error,
        f"iptables does not work: {facts.iptables_error}",
        "load the kernel's nf_tables module",
    )
    return found


def _conflicts(config: Config, facts: Facts) -> list[Problem]:
    found = [
        Problem(
            f"the {which} network {ours} overlaps {theirs}, which {name} uses", f"choose another with {flag}"
        )
        for which, ours, flag in (
            ("pods'", config.pod_cidr, "--pod-cidr"),
            ("services'", config.service_cidr, "--service-cidr"),
        )
        for name, theirs in facts.networks.items()
        if ours.overlaps(theirs)
    ]
    if facts.busy_ports:
        listed = ", ".join(f"{port} ({name})" for name, port in facts.busy_ports.items())
        found.append(
            Problem(f"something listens on ports {listed}", "stop it, or choose others with --first-port")
        )
    if facts.kubernetes_rules:
        found.append(
            Problem(
                "another Kubernetes runs in this machine's network (iptables has its KUBE-SERVICES)",
                "use it (make demo CONTEXT=...), or take it down",
            )
        )
    if facts.interface_taken:
        found.append(
            Problem(
                f"there is a network interface {config.interface} already", "choose another with --interface"
            )
        )
    return found


def go_suffices(have: str, minimum: str) -> bool:
    """Whether `go1.26.8` is at least `1.26.0`."""
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", have)
    if not match:
        return False
    return [int(part or 0) for part in match.groups()] >= [int(part) for part in minimum.split(".")]


def gather(config: Config, builder: Builder, runner: Run = run) -> Facts:
    """Find out about this machine. Changes nothing, save that the kernel may load the overlay module."""
    missing = tuple(name for name, signs in PACKAGES.items() if not any(_present(sign) for sign in signs))
    try:
        go_version = builder.go_version()
    except ClusterError:
        go_version = ""
    to_build = CLUSTER_MODULES if not go_version else builder.missing(CLUSTER_MODULES)
    root, ours = os.geteuid() == 0, config.marker.exists()
    error, saved = "", ""
    if root and "iptables" not in missing:
        try:
            saved = runner(["iptables-save"])
        except ClusterError as failed:
            error = failed.message
    mounts = Path("/proc/self/mountinfo").read_text()
    networks = (
        {} if "iproute2" in missing else networks_in_use(runner(["ip", "-json", "-4", "route"]), config)
    )
    return Facts(
        root=root,
        machine=platform.machine(),
        missing_packages=missing,
        overlay=_overlay(runner),
        state_filesystem=filesystem_of(_existing(config.state_dir), mounts),
        controllers=_controllers(),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        state_free=shutil.disk_usage(_existing(config.state_dir)).free,
        cache_free=shutil.disk_usage(_existing(builder.cache)).free,
        to_build=tuple(module.name for module in to_build),
        go_version=go_version,
        go_minimum=go_minimum(builder.sources),
        ours=ours,
        busy_ports=ports_in_use(config.ports),
        networks=networks,
        kubernetes_rules=foreign_kubernetes(saved),
        interface_taken=not ours and _interface_exists(config.interface, runner, missing),
        iptables_error=error,
    )


def require_root() -> None:
    """Stop unless we are root."""
    if os.geteuid():
        raise ClusterError("root is needed", "use sudo")


def require(config: Config, builder: Builder) -> None:
    """Stop with every problem there is."""
    if found := problems(config, gather(config, builder)):
        raise ClusterError(report(found))


def report(found: Sequence[Problem]) -> str:
    """The problems as a list to read."""
    return "this machine lacks something:\n" + "\n".join(f"  - {problem}" for problem in found)


def networks_in_use(routes: str, config: Config) -> dict[str, IPv4Network]:
    """From `ip -json route`: the networks this machine knows, save the default route and our own."""
    result = {}
    for route in json.loads(routes):
        if route["dst"] != "default" and route.get("dev") != config.interface:
            result[f"the route {route['dst']} on {route.get('dev', '?')}"] = IPv4Network(
                route["dst"], strict=False
            )
    return result


def filesystem_of(path: Path, mountinfo: str) -> str:
    """The type of the file system that holds `path`."""
    best, kind = Path(), ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4])
        if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, after.split()[0]
    return kind


def _present(sign: str) -> bool:
    if sign.startswith("/"):
        return Path(sign).exists()
    return shutil.which(sign, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _overlay(runner: Run) -> bool:
    def known() -> bool:
        return "\toverlay\n" in Path("/proc/filesystems").read_text()

    if not known() and os.geteuid() == 0:
        try:
            runner(["modprobe", "overlay"])
        except ClusterError:
            return False
    return known()


def _controllers() -> frozenset[str]:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        return frozenset(unified.read_text().split())
    return frozenset(path.name for path in Path("/sys/fs/cgroup").iterdir())


def _interface_exists(name: str, runner: Run, missing: Sequence[str]) -> bool:
    if "iproute2" in missing:
        return False
    return any(link["ifname"] == name for link in json.loads(runner(["ip", "-json", "link"])))
