"""Boots the local cluster, mends it, and takes it down, in an order in which every step may be the last.

`up` makes what is missing and leaves alone what is right, so it is also the way to repair. `down` removes
whatever it finds by name, so it needs no memory of how far `up` came.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capstan_cluster import (
    cgroups,
    helper_image,
    mounts,
    network,
    nodes,
    pki,
    preflight,
    probes,
    processes,
    render,
)
from capstan_cluster.build import CLUSTER_MODULES, Builder, Say
from capstan_cluster.commands import Run, run
from capstan_cluster.components import Component, components
from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError
from capstan_cluster.images import Containerd
from capstan_cluster.lock import locked

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_SECONDS = 90
_USERS = {
    "kube-controller-manager": "kube-controller-manager",
    "kube-scheduler": "kube-scheduler",
    "kubelet": "kubelet",
    "kube-proxy": "kube-proxy",
    "coredns": "coredns",
    "local-path-provisioner": "local-path-provisioner",
}


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """How a component is doing."""

    name: str
    pid: int | None
    healthy: bool


class Cluster:
    """One local cluster."""

    def __init__(
        self,
        config: Config | None = None,
        say: Say = print,
        builder: Builder | None = None,
        runner: Run = run,
    ) -> None:
        """`say`: where progress is told."""
        self.config = config or Config.load()
        self.builder = builder or Builder()
        self._say = say
        self._run = runner

    def up(self) -> None:
        """Boot the cluster, or mend what is missing of it; returns when the node is ready."""
        config, began = self.config, time.monotonic()
        preflight.require(config, self.builder)
        with locked(config.state_dir, self._say):
            self._claim()
            self.builder.build(CLUSTER_MODULES, self._say)
            if self._is_up():
                self._say(f"the cluster is up; its kubeconfig is {config.kubeconfig}")
                return
            self._boot()
        self._say(
            f"the cluster is up after {time.monotonic() - began:.1f} s; its kubeconfig is {config.kubeconfig}"
        )

    def down(self) -> None:
        """Take the cluster down and remove all it left on this machine; built programs stay in the cache."""
        config = self.config
        preflight.require_root()
        if not config.state_dir.exists():
            self._say("there is no cluster here")
            return
        with locked(config.state_dir, self._say):
            if not config.marker.exists() and any(config.state_dir.iterdir()):
                raise ClusterError(
                    f"{config.state_dir} holds something that is not a cluster of ours", "nothing was removed"
                )
            with self._step("stopping processes"):
                self._kill()
            with self._step("removing mounts, control groups and network"):
                mounts.unmount((config.state_dir, config.run_dir), self._run)
                cgroups.remove(config)
                network.remove(config, self._run)
                _forget(config)
            with self._step("removing state"):
                shutil.rmtree(config.run_dir, ignore_errors=True)
                shutil.rmtree(config.state_dir)

    def status(self) -> list[ComponentStatus]:
        """Each component, its process and its health; empty when there is no cluster."""
        if not self.config.marker.exists():
            return []
        running = processes.of_cluster(self.config)
        result = []
        for component in self._components():
            found = processes.of_component(component, running)
            well = bool(found) and probes.healthy(component, self.config.pki("ca.crt"))
            result.append(ComponentStatus(component.name, found[0].pid if found else None, well))
        return result

    def load(self, images: Iterable[str]) -> None:
        """Bring images from buildah's storage to the node."""
        Containerd(self.config, self.builder.path("ctr"), self._run).load(images, self._say)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator, and give its output."""
        command: list[str | Path] = [
            self.builder.path("kubectl"),
            "--kubeconfig",
            self.config.kubeconfig,
            *arguments,
        ]
        return self._run(command, stdin=stdin, timeout=120)

    # how `up` does it

    @property
    def _helper(self) -> str:
        return helper_image.reference(self.builder.key("node-helper"))

    def _components(self) -> tuple[Component, ...]:
        return components(self.config, self.builder.path, self._helper)

    def _claim(self) -> None:
        """Say that the folder is ours; stop when it is something else, or differently configured."""
        config = self.config
        if config.marker.exists():
            if (made := Config.from_json(config.marker.read_text())) != config:
                raise ClusterError(
                    f"the cluster in {config.state_dir} was made with another configuration: {made}",
                    "take it down first, or give this one another --state-dir",
                )
        elif any(config.state_dir.iterdir()):
            raise ClusterError(
                f"{config.state_dir} is not empty and not a cluster of ours", "choose another --state-dir"
            )
        else:
            _write(config.marker, config.to_json())

    def _is_up(self) -> bool:
        config = self.config
        if not config.kubeconfig.exists():
            return False
        running = processes.of_cluster(config)
        files = self._files()
        for component in self._components():
            found = processes.of_component(component, running)
            right = len(found) == 1 and found[0].generation == component.generation(files)
            if not right or not probes.healthy(component, config.pki("ca.crt")):
                return False
        network.prepare(config, self._run)
        node = self._node()
        return nodes.is_ready(node) and nodes.offers(node, config.gpus)

    def _boot(self) -> None:
        config = self.config
        with self._step("network, certificates, configuration"):
            self._forget_last_boot()
            network.prepare(config, self._run)
            cgroups.create(config)
            pki.issue(config)
            files = self._files()
            for path, content in files.items():
                _write(Path(path), content)
        start = {component.name: self._starter(component, files) for component in self._components()}
        with self._step("etcd, containerd"):
            self._all(start[name] for name in ("etcd", "containerd"))
        with self._step("kube-apiserver, the node's helper image"):
            apiserver = start["kube-apiserver"]()
            self._load_helper()
            apiserver()
        began = time.time()
        rest = [name for name in start if name not in {"etcd", "containerd", "kube-apiserver"}]
        with self._step(f"rights, storage class; {', '.join(rest)}"):
            documents = "---\n".join(render.yaml_text(manifest) for manifest in render.manifests())
            running = processes.of_cluster(config)
            kubelet = next(component for component in self._components() if component.name == "kubelet")
            kept = [
                process.generation == kubelet.generation(files)
                for process in processes.of_component(kubelet, running)
            ]
            waits = [start[name]() for name in rest]
            self.kubectl(
                "apply", "--server-side", "--field-manager=capstan-cluster", "--filename=-", stdin=documents
            )
            for wait in waits:
                wait()
        with self._step("the node"):
            self._await_node(0 if kept == [True] else began)

    def _all(self, starters: Iterable[Callable[[], Callable[[], None]]]) -> None:
        """Start all, then wait for all."""
        for wait in [start() for start in starters]:
            wait()

    def _starter(self, component: Component, files: dict[str, str]) -> Callable[[], Callable[[], None]]:
        """What starts a component unless it runs as it should, and gives what waits until it is well."""
        config, generation = self.config, component.generation(files)

        def start() -> Callable[[], None]:
            found = processes.of_component(component, processes.of_cluster(config))
            keep = [process for process in found if process.generation == generation][:1]
            processes.stop(config, [process for process in found if process not in keep])
            child = None if keep else processes.start(config, component, generation)

            def alive() -> bool:
                return child.poll() is None if child else processes.exists(config, keep[0])

            def wait() -> None:
                processes.wait_until(
                    component.name,
                    lambda: alive() and probes.healthy(component, config.pki("ca.crt")),
                    seconds=_START_SECONDS,
                    alive=alive,
                    log=config.log(component.name),
                )

            return wait

        return start

    def _files(self) -> dict[str, str]:
        """Every rendered file, by path."""
        config = self.config

        def kubeconfig(user: str) -> str:
            parts = ("ca.crt", f"{user}.crt", f"{user}.key")
            return render.kubeconfig(config, user, *(config.pki(part).read_bytes() for part in parts))

        return {
            str(config.etc("containerd.toml")): render.containerd_config(
                config, str(self.builder.path("runc")), self._helper
            ),
            str(config.etc("cni/10-pods.conflist")): render.cni_config(config),
            str(config.etc("kubelet.yaml")): render.kubelet_config(config),
            str(config.etc("audit-policy.yaml")): render.audit_policy(),
            str(config.etc("Corefile")): render.corefile(config),
            str(config.etc("volumes.json")): render.volume_config(config),
            str(config.etc("volume-helper.yaml")): render.volume_helper_pod(self._helper),
            **{str(config.etc(f"{name}.kubeconfig")): kubeconfig(user) for name, user in _USERS.items()},
            str(config.kubeconfig): kubeconfig("admin"),
        }

    def _forget_last_boot(self) -> None:
        """After a restart of the machine, what the run folder says is true no longer."""
        config, marker = self.config, self.config.run_dir / "boot_id"
        boot_id = BOOT_ID.read_text()
        if not marker.exists() or marker.read_text() != boot_id:
            shutil.rmtree(config.run_dir, ignore_errors=True)
            config.run_dir.mkdir(mode=0o700)
            _write(marker, boot_id)

    def _load_helper(self) -> None:
        containerd = Containerd(self.config, self.builder.path("ctr"), self._run)
        if not containerd.has(self._helper, self._helper):
            archive = self.config.run_dir / "node-helper.tar"
            helper_image.write(self.builder.path("node-helper"), self._helper, archive)
            containerd.import_archive(archive, self._helper)
            archive.unlink()

    def _node(self) -> dict[str, Any]:
        found = self.kubectl("get", "node", self.config.node, "--ignore-not-found", "--output=json")
        return dict(json.loads(found)) if found else {}

    def _await_node(self, since: float) -> None:
        """Wait until the kubelet that runs now says the node is ready, then let it offer accelerators."""
        config = self.config
        processes.wait_until(
            f"node {config.node}",
            lambda: nodes.is_ready(self._node(), since),
            seconds=_START_SECONDS,
            log=config.log("kubelet"),
        )
        if not nodes.offers(self._node(), config.gpus):
            nodes.offer(self.kubectl, config.node, config.gpus)

    def _kill(self) -> None:
        """End the components first, so that nothing is started anew, then the pods and their shims."""
        config = self.config
        for _ in range(3):  # what was being started while we looked is found the next time
            if found := processes.of_cluster(config):
                processes.stop(config, found, grace=0)
            cgroups.kill(config)
        if left := processes.of_cluster(config):
            raise ClusterError(f"processes {[process.pid for process in left]} came anew", "run this again")

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._say(f"{what}: {time.monotonic() - began:.1f} s")


def _write(path: Path, content: str) -> None:
    """Write a file that only we may read, at once or not at all; one that is right is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() == content:
        return
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(content)
    new.replace(path)


def _forget(config: Config) -> None:
    """Remove what the network plug-in and the kubelet file outside our folders."""
    for result in Path("/var/lib/cni/results").glob(f"{config.pod_network}-*"):
        result.unlink()
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(config.state_dir):
            link.unlink()
