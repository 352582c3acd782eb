"""The shell as a process on a real Kubernetes, under a service account that may do exactly what it needs."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from capstan_cluster.target import resolve
from capstan_demo.kube import Kube, until

GROUP = "shell.test.capstan.dev"
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"widgets.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}
CHILD_VERBS = ["get", "list", "watch", "create", "patch", "delete"]
RULES = [
    {"apiGroups": [GROUP], "resources": ["widgets"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [GROUP], "resources": ["widgets/status"], "verbs": ["update"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": CHILD_VERBS},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": CHILD_VERBS},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]


@pytest.fixture(scope="session")
def bare() -> Kube:
    """A cluster; what is installed on it does not matter."""
    target = resolve(os.environ.get("CONTEXT"), say=print)
    return Kube(target.kubeconfig, target.context, target.kubectl_program)


@pytest.fixture(scope="session")
def crd(bare: Kube) -> Iterator[dict[str, Any]]:
    install(bare)
    yield CRD
    bare.delete("crd", f"widgets.{GROUP}")


def install(kube: Kube) -> None:
    """Install the CRD and wait until it is served."""
    kube.apply(CRD)
    kube.run("wait", "--for=condition=Established", f"crd/widgets.{GROUP}", "--timeout=30s")


@pytest.fixture
def namespace(bare: Kube, crd: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    name = "shell-" + str(abs(hash(request.node.name)) % 10**8)
    bare.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    bare.delete("namespace", name, wait=False)


@pytest.fixture
def rights(bare: Kube, namespace: str) -> Callable[[bool], None]:
    """Grant the operator its rights, or take them away."""

    def grant(yes: bool) -> None:
        if not yes:
            bare.delete("rolebinding", "shell", namespace)
            return
        meta = {"name": "shell", "namespace": namespace}
        rbac = "rbac.authorization.k8s.io"
        bare.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
            {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": RULES},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": meta,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "shell"},
                "subjects": [{"kind": "ServiceAccount", **meta}],
            },
        )

    grant(True)
    return grant


class Process:
    """The operator's process."""

    def __init__(self, arguments: list[str], port: int, log: Path) -> None:
        self.port, self.log = port, log
        script = str(Path(__file__).with_name("widgets.py"))
        with log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, script, *arguments], stderr=out)

    def ready(self) -> "Process":
        until(lambda: self.status("/readyz") == 200, seconds=60, last=self.log.read_text)
        return self

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except OSError:
            return 0

    def requests(self, *verbs: str, code: str = "") -> float:
        """Return how many requests of these verbs, with this answer, were made so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith("capstan_operator_api_requests_total")]
        wanted = [line for line in found if any(f'verb="{verb}"' in line for verb in verbs)]
        return sum(float(line.split()[-1]) for line in wanted if f'code="{code}' in line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def free_port() -> int:
    """A port below the ephemeral range, so that no connection takes it while no operator listens."""
    for port in random.sample(range(10240, 32768), 100):
        with socket.socket(socket.AF_INET6) as candidate, contextlib.suppress(OSError):
            candidate.bind(("::", port))
            return port
    raise AssertionError("no port is free")


@pytest.fixture
def operator(bare: Kube, namespace: str, rights: Any, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    port = free_port()
    flat = json.loads(bare.run("config", "view", "--raw", "--minify", "-o", "json"))
    token = bare.run("create", "token", "shell", "-n", namespace).strip()
    flat["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(flat))
    started: list[Process] = []

    def start(server: str = "") -> Process:
        if server:
            flat["clusters"][0]["cluster"] = {"server": server}
            kubeconfig.write_text(yaml.safe_dump(flat))
        arguments = ["--kubeconfig", str(kubeconfig), "--namespaces", namespace, "--metrics-port", str(port)]
        started.append(Process(arguments, port, tmp_path / "log"))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.kill()
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if '"logger": "kopf.' not in line]
    assert not [line for line in lines if "a bug" in line or "Traceback" in line], lines


@pytest.fixture
def widget(bare: Kube, namespace: str) -> Callable[..., None]:
    def put(version: str = "1", size: int = 3, name: str = "w") -> None:
        bare.apply(
            {
                "apiVersion": f"{GROUP}/v1",
                "kind": "Widget",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"version": version, "size": size},
            }
        )

    return put


@pytest.fixture
def reinstall(bare: Kube) -> Callable[[], None]:
    return lambda: install(bare)


@pytest.fixture
def settled() -> Callable[[Process], None]:
    """Wait until the operator makes no more writes."""

    def wait(process: Process) -> None:
        writes = ("apply", "delete", "update_status", "create", "patch")
        last, since = process.requests(*writes), time.monotonic()

        def quiet() -> bool:
            nonlocal last, since
            now = process.requests(*writes)
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since > 3

        until(quiet, seconds=60)

    return wait
