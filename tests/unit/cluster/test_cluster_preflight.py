"""Every lack of the machine is told, with what to do about it."""

import dataclasses
import json
from ipaddress import IPv4Network
from pathlib import Path

import capstan_cluster
import pytest
from capstan_cluster.config import Config
from capstan_cluster.preflight import (
    GIB,
    PACKAGES,
    Facts,
    filesystem_of,
    go_suffices,
    networks_in_use,
    problems,
)

GOOD = Facts(
    root=True,
    machine="x86_64",
    missing_packages=(),
    overlay=True,
    state_filesystem="ext4",
    controllers=frozenset({"cpu", "cpuset", "memory", "pids", "io"}),
    memory=16 * GIB,
    state_free=50 * GIB,
    cache_free=50 * GIB,
    to_build=("kubernetes",),
    go_version="go1.26.8",
    go_minimum="1.26.6",
    ours=False,
    busy_ports={},
    networks={"the route 192.168.0.0/24 on eth0": IPv4Network("192.168.0.0/24")},
    kubernetes_rules=False,
    interface_taken=False,
    iptables_error="",
)


def test_a_good_machine_lacks_nothing():
    assert problems(Config(), GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine": "aarch64"}, "x86_64"),
        ({"root": False}, "root"),
        ({"missing_packages": ("iptables", "gcc")}, "apt-get install --no-install-recommends iptables gcc"),
        ({"overlay": False}, "modprobe overlay"),
        ({"state_filesystem": "overlay"}, "--state-dir"),
        ({"controllers": frozenset({"cpu", "cpuset", "memory"})}, "pids"),
        ({"memory": 2 * GIB}, "memory"),
        ({"state_free": GIB}, "--state-dir"),
        ({"cache_free": GIB}, "CAPSTAN_CACHE"),
        ({"go_version": ""}, "found: none"),
        ({"go_version": "go1.25.9"}, "Go 1.26.6 or newer"),
        ({"busy_ports": {"kube-apiserver": 6443}}, "6443"),
        ({"networks": {"a VPN": IPv4Network("10.42.7.0/24")}}, "--pod-cidr"),
        ({"networks": {"a VPN": IPv4Network("10.43.0.0/30")}}, "--service-cidr"),
        ({"kubernetes_rules": True}, "another Kubernetes"),
        ({"interface_taken": True}, "--interface"),
        ({"iptables_error": "boom"}, "boom"),
    ],
)
def test_each_lack_is_told(change, said):
    (problem,) = problems(Config(), dataclasses.replace(GOOD, **change))
    assert said in str(problem)
    assert problem.remedy


def test_all_are_told_at_once():
    assert len(problems(Config(), dataclasses.replace(GOOD, root=False, overlay=False, memory=0))) == 3


def test_our_own_running_cluster_does_not_stand_in_its_own_way():
    ours = dataclasses.replace(
        GOOD,
        ours=True,
        busy_ports={"etcd": 6440},
        kubernetes_rules=True,
        state_free=GIB,
        networks={"pods": IPv4Network("10.42.0.3/32")},
    )
    assert problems(Config(), ours) == []


def test_go_is_not_needed_when_everything_is_built():
    assert problems(Config(), dataclasses.replace(GOOD, to_build=(), go_version="", cache_free=0)) == []


def test_what_is_looked_for_is_what_the_bootstrap_installs():
    text = (Path(capstan_cluster.__file__).parent / "packages.txt").read_text()
    assert {line for line in text.split("\n") if line and not line.startswith("#")} == set(PACKAGES)


def test_versions_of_go_are_compared_as_numbers():
    assert go_suffices("go1.26.10", "1.26.9")
    assert go_suffices("go1.27", "1.26.9")
    assert not go_suffices("go1.9.9", "1.26.0")
    assert not go_suffices("devel", "1.26.0")


def test_the_default_route_and_our_own_are_no_conflict():
    routes = {"default": "eth0", "10.0.0.0/8": "tun0", "10.43.0.0/16": "capstan0"}
    listed = json.dumps([{"dst": dst, "dev": dev} for dst, dev in routes.items()])
    assert list(networks_in_use(listed, Config()).values()) == [IPv4Network("10.0.0.0/8")]


def test_the_file_system_is_that_of_the_nearest_mount():
    info = "1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 0:5 / /var rw - overlay overlay rw\n"
    info += "3 2 8:2 / /var/lib rw - xfs /dev/b rw"
    assert filesystem_of(Path("/var/lib/x"), info) == "xfs"
    assert filesystem_of(Path("/var/x"), info) == "overlay"
    assert filesystem_of(Path("/home"), info) == "ext4"
