"""A second cluster, beside the one that others use: booted, run in, broken, mended, and gone without a trace.

It has a network namespace of its own, as two clusters on one machine must.
"""

import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capstan_cluster.build import Builder
from capstan_cluster.commands import run
from capstan_cluster.config import Config
from capstan_cluster.helper_image import reference

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="booting a cluster needs root"),
    pytest.mark.timeout(900),
]

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A network namespace."""
    name = f"capstan-{uuid.uuid4().hex[:8]}"
    run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])
    yield name
    run(["ip", "netns", "delete", name])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    state = tmp_path_factory.mktemp("cluster") / "state"
    return Config.load({}, state_dir=state, name="lifecycle", interface="lifecycle0", pod_cidr="10.62.0.0/16")


def options(config: Config) -> list[str]:
    """The configuration on the command line."""
    return [
        f"--state-dir={config.state_dir}",
        f"--name={config.name}",
        f"--interface={config.interface}",
        f"--pod-cidr={config.pod_cidr}",
    ]


@pytest.fixture(scope="module")
def inside(namespace: str) -> Cli:
    """Runs a program in the namespace."""

    def call(*argv: str | Path, stdin: str | None = None) -> str:
        return run(["nsenter", f"--net=/run/netns/{namespace}", *argv], stdin=stdin, timeout=600)

    return call


@pytest.fixture(scope="module")
def cli(inside: Cli, config: Config) -> Iterator[Cli]:
    program = shutil.which("capstan-cluster")
    assert program

    def call(command: str) -> str:
        return inside(program, command, *options(config))

    yield call
    call("down")


@pytest.fixture(scope="module")
def kubectl(inside: Cli, config: Config) -> Cli:
    program = Builder().path("kubectl")

    def call(*arguments: str, stdin: str | None = None) -> str:
        return inside(program, "--kubeconfig", config.kubeconfig, *arguments, stdin=stdin)

    return call


def traces(inside: Cli, config: Config) -> dict[str, list[str]]:
    """All that a cluster of this configuration could leave on the machine."""
    owner = f"CAPSTAN_CLUSTER_OWNER={config.state_dir}".encode()
    processes = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if owner in environ.read_bytes():
                processes.append(environ.parent.name)
        except OSError:
            continue
    saved = [line for tool in ("iptables-save", "ip6tables-save") for line in inside(tool).splitlines()]
    mounted = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "processes": processes,
        "rules": [line for line in saved if line.startswith("-A") or " - [" in line],
        "links": [link["ifname"] for link in json.loads(inside("ip", "-json", "link"))],
        "mounts": [line for line in mounted if str(config.state_dir) in line or str(config.run_dir) in line],
        "control groups": [str(path) for path in Path("/sys/fs/cgroup").rglob(config.cgroup.lstrip("/"))],
        "files": [str(path) for path in (config.state_dir, config.run_dir) if path.exists()],
        "settings": [inside("cat", "/proc/sys/net/ipv4/ip_forward")],
    }


def pod(name: str, image: str) -> str:
    """A pod under the restricted standard, with a volume and an accelerator."""
    container = {
        "name": "main",
        "image": image,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "resources": {"limits": {"memory": "64Mi", "cpu": "100m", "nvidia.com/gpu": 1}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec = {
        "containers": [container],
        "nodeSelector": {"accelerator": "nvidia-a100"},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    items = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": "trial"},
            "spec": claim,
        },
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "trial"}, "spec": spec},
    ]
    return "\n".join(f"---\n{json.dumps(item)}" for item in items)


def pids(cli: Cli) -> dict[str, int]:
    """The process id of each component, as `status` tells them; it fails when one is not well."""
    return {line.split()[0]: int(line.split()[1]) for line in cli("status").splitlines()}


def test_a_cluster_boots_runs_is_mended_and_leaves_no_trace(
    cli: Cli, kubectl: Cli, inside: Cli, config: Config
) -> None:
    before = traces(inside, config)
    cli("up")
    helper = reference(Builder().key("node-helper"))
    kubectl("create", "namespace", "trial")
    kubectl("label", "namespace", "trial", "pod-security.kubernetes.io/enforce=restricted")
    kubectl("wait", "--namespace=trial", "--for=create", "serviceaccount/default", "--timeout=60s")
    kubectl("apply", "--filename=-", stdin=pod("one", helper))
    kubectl("wait", "--namespace=trial", "--for=condition=Ready", "pod/one", "--timeout=120s")
    claim = json.loads(kubectl("get", "--namespace=trial", "pvc", "data", "--output=json"))
    assert claim["status"]["phase"] == "Bound"
    (volume,) = config.state_dir.joinpath("volumes").iterdir()
    assert volume.stat().st_mode & 0o777 == 0o777

    # what is well is left alone
    running = pids(cli)
    cli("up")
    assert pids(cli) == running

    # half of it dies; the pod does not notice
    for component in ("etcd", "containerd", "kubelet", "kube-proxy", "coredns"):
        os.kill(running[component], signal.SIGKILL)
    inside("ip", "link", "delete", config.interface)
    cli("up")
    assert pids(cli)["kube-apiserver"] == running["kube-apiserver"]
    now = json.loads(kubectl("get", "--namespace=trial", "pod", "one", "--output=json"))
    assert now["status"]["containerStatuses"][0]["restartCount"] == 0
    (node,) = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"

    cli("down")
    assert traces(inside, config) == before


def test_up_that_was_killed_midway_is_finished_by_the_next(
    cli: Cli, kubectl: Cli, inside: Cli, config: Config, namespace: str
) -> None:
    before = traces(inside, config)
    program = shutil.which("capstan-cluster")
    assert program
    with subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{namespace}", program, "up", *options(config)],
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stderr
        for line in first.stderr:
            if "etcd, containerd" in line:
                first.kill()
                break
    cli("up")
    assert " Ready " in kubectl("get", "nodes")
    assert len(pids(cli)) == 9
    cli("down")
    assert traces(inside, config) == before
