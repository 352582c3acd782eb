"""Which cluster the demo and the end-to-end tests use, and how images get there.

A context the user names is used as it is. Otherwise, where a Docker engine and kind or k3d are at hand, a
cluster of theirs; otherwise the local one.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from capstan_cluster import nodes
from capstan_cluster.build import Builder, Say
from capstan_cluster.cluster import Cluster
from capstan_cluster.commands import Run, run
from capstan_cluster.config import CONTEXT, Config, cache_dir
from capstan_cluster.errors import ClusterError

Loads = Literal["containerd", "kind", "k3d", "none"]
"""How images are brought to the cluster's nodes; `none`: they must be in a registry."""


@dataclass(frozen=True)
class Target:
    """A cluster to use. `kubeconfig` is a path, or several as in KUBECONFIG."""

    kubeconfig: str
    context: str
    loads: Loads
    kubectl_program: str = "kubectl"
    say: Say = print
    runner: Run = field(default=run, repr=False)
    local: Cluster | None = field(default=None, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What other clients, such as helm, need to find the cluster; the context they must be told."""
        return {"KUBECONFIG": self.kubeconfig}

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float | None = 120) -> str:
        """Run kubectl on this cluster and give its output. `timeout` is in seconds."""
        command = [self.kubectl_program, "--context", self.context, *arguments]
        return self.runner(command, stdin=stdin, env=self.environment, timeout=timeout)

    def load(self, *images: str) -> None:
        """Bring images to the nodes: to kind and k3d from Docker, to the local cluster from buildah."""
        name = self.context.partition("-")[2]
        match self.loads:
            case "containerd":
                assert self.local  # noqa: S101  resolve() sets both or neither
                self.local.load(images)
            case "kind":
                self.runner(["kind", "load", "docker-image", *images, "--name", name])
            case "k3d":
                self.runner(["k3d", "image", "import", *images, "--cluster", name])
            case "none":
                raise ClusterError(
                    f"images cannot be brought to the nodes of {self.context} from here",
                    "push them to a registry (make images REGISTRY=...), and name it: make demo REGISTRY=...",
                )


Which = Callable[[str], str | None]


def resolve(
    context: str | None = None,
    *,
    config: Config | None = None,
    say: Say = print,
    runner: Run = run,
    which: Which = shutil.which,
    environ: Mapping[str, str] | None = None,
) -> Target:
    """The cluster to use, booted if it is ours to boot. `context`: one of the user's kubeconfig."""
    environ = os.environ if environ is None else environ
    if context:
        return _named(context, say, runner, which, environ)
    if tool := docker_tool(runner, which):
        _need_kubectl(which)
        return _with_docker(tool, config or Config.load(environ), say, runner, environ)
    cluster = Cluster(config or Config.load(environ), say, Builder(), runner)
    cluster.up()
    kubectl = str(cluster.builder.path("kubectl"))
    return Target(str(cluster.config.kubeconfig), CONTEXT, "containerd", kubectl, say, runner, cluster)


def _named(context: str, say: Say, runner: Run, which: Which, environ: Mapping[str, str]) -> Target:
    _need_kubectl(which)
    kubeconfig = environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    known = runner(
        ["kubectl", "config", "get-contexts", "--output=name"], env={"KUBECONFIG": kubeconfig}
    ).split()
    if context not in known:
        raise ClusterError(
            f"there is no context {context!r} in {kubeconfig}",
            f"it has {', '.join(known) or 'none'}; KUBECONFIG names another file",
        )
    loads: Loads = "none"
    if context.startswith("kind-") and which("kind"):
        loads = "kind"
    elif context.startswith("k3d-") and which("k3d"):
        loads = "k3d"
    return Target(kubeconfig, context, loads, say=say, runner=runner)


def docker_tool(runner: Run = run, which: Which = shutil.which) -> Literal["kind", "k3d"] | None:
    """Kind or k3d, when it is there and Docker's engine answers."""
    tool: Literal["kind", "k3d"] | None = "kind" if which("kind") else "k3d" if which("k3d") else None
    if not tool or not which("docker"):
        return None
    try:
        runner(["docker", "info"], timeout=20)
    except ClusterError:
        return None  # the client without an engine
    return tool


def _with_docker(
    tool: Literal["kind", "k3d"], config: Config, say: Say, runner: Run, environ: Mapping[str, str]
) -> Target:
    """A cluster named as ours, made by kind or k3d unless it is there, whose nodes offer accelerators too."""
    kubeconfig = str(cache_dir(environ) / f"{tool}-{config.name}.kubeconfig")
    Path(kubeconfig).parent.mkdir(parents=True, exist_ok=True)
    name = config.name
    if tool == "kind":
        there = name in runner(["kind", "get", "clusters"]).split()
        make = ["kind", "create", "cluster", "--name", name, "--kubeconfig", kubeconfig, "--wait", "180s"]
        fetch = ["kind", "export", "kubeconfig", "--name", name, "--kubeconfig", kubeconfig]
    else:
        there = name in _k3d_clusters(runner)
        make = ["k3d", "cluster", "create", name, "--wait", "--kubeconfig-update-default=false"]
        fetch = ["k3d", "kubeconfig", "write", name, "--output", kubeconfig]
    if not there:
        say(f"making a cluster {name} with {tool}")
        runner(make)
    runner(fetch)
    target = Target(kubeconfig, f"{tool}-{name}", tool, say=say, runner=runner)
    for node in json.loads(target.kubectl("get", "nodes", "--output=json"))["items"]:
        if not nodes.offers(node, config.gpus):
            nodes.offer(target.kubectl, node["metadata"]["name"], config.gpus)
    return target


def delete_with_docker(
    config: Config, say: Say = print, runner: Run = run, which: Which = shutil.which
) -> bool:
    """Delete the cluster that kind or k3d made for us; return whether there was one."""
    tool = docker_tool(runner, which)
    if tool == "kind" and config.name in runner(["kind", "get", "clusters"]).split():
        runner(["kind", "delete", "cluster", "--name", config.name])
    elif tool == "k3d" and config.name in _k3d_clusters(runner):
        runner(["k3d", "cluster", "delete", config.name])
    else:
        return False
    say(f"deleted the cluster {config.name} of {tool}")
    return True


def _k3d_clusters(runner: Run) -> list[str]:
    return [item["name"] for item in json.loads(runner(["k3d", "cluster", "list", "-o", "json"]))]


def _need_kubectl(which: Which) -> None:
    if not which("kubectl"):
        raise ClusterError("kubectl is not installed", "see https://kubernetes.io/docs/tasks/tools")
