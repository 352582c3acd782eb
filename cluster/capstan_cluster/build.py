"""Builds the cluster's programs from their upstream Go modules, each once, and finds them again by content.

A module of ours in tools/ pins each upstream release with all it requires. Its programs are kept in the cache
under a key made of those files, the flags and Go's version: whatever would change a program changes its key.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from capstan_cluster.commands import Run, run
from capstan_cluster.config import cache_dir
from capstan_cluster.errors import ClusterError

SOURCES = Path(__file__).resolve().parents[1] / "tools"
KUBERNETES = "v1.36.3"

Say = Callable[[str], None]
"""Where a line about progress goes."""


@dataclass(frozen=True, slots=True)
class Module:
    """One folder of tools/: the programs built from it (name to Go package), and how."""

    name: str
    programs: Mapping[str, str]
    ldflags: str = ""
    tags: str = ""
    cgo: bool = False
    seconds: int = 30  # about how long a first build takes on two cores, for the person who waits

    @property
    def flags(self) -> list[str]:
        """The arguments of `go build`."""
        flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags=-s -w {self.ldflags}".strip()]
        return [*flags, f"-tags={self.tags}"] if self.tags else flags

    @property
    def environment(self) -> dict[str, str]:
        """What of the environment decides the result."""
        return {
            "CGO_ENABLED": "1" if self.cgo else "0",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "GOFLAGS": "",
        }


def _kubernetes() -> Module:
    major, minor = KUBERNETES.removeprefix("v").split(".")[:2]
    version = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    names = (
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubectl",
    )
    return Module(
        "kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in names},
        ldflags=" ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in version.items()),
        seconds=340,
    )


_CONTAINERD = "github.com/containerd/containerd/v2/cmd"

MODULES: tuple[Module, ...] = (
    _kubernetes(),
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, seconds=40),
    Module(
        "containerd",
        {name: f"{_CONTAINERD}/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        seconds=100,
    ),
    Module("runc", {"runc": "github.com/opencontainers/runc"}, tags="seccomp", cgo=True, seconds=20),
    Module("coredns", {"coredns": "."}, seconds=60),
    Module("local-path-provisioner", {"local-path-provisioner": "github.com/rancher/local-path-provisioner"}),
    Module("node-helper", {"node-helper": "."}, seconds=3),
    Module("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}, seconds=90),
    Module("kubeconform", {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}, seconds=10),
    Module("kube-score", {"kube-score": "github.com/zegl/kube-score/cmd/kube-score"}, seconds=30),
    Module("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}, seconds=60),
    Module("fake-gcs-server", {"fake-gcs-server": "github.com/fsouza/fake-gcs-server"}, seconds=60),
)
CLUSTER_MODULES: tuple[Module, ...] = MODULES[:7]
"""What `up` needs; the rest is built when someone asks for it."""


def module_of(tool: str, modules: tuple[Module, ...] = MODULES) -> Module:
    """The module that `tool` names, or that has a program of that name."""
    for module in modules:
        if tool == module.name or tool in module.programs:
            return module
    known = ", ".join(sorted({name for module in modules for name in (module.name, *module.programs)}))
    raise ClusterError(f"there is no tool {tool!r}", f"known are {known}")


def go_minimum(sources: Path = SOURCES) -> str:
    """The version of Go that all modules are content with: the highest `go` line among them."""
    versions = [
        tuple(int(part) for part in match[1].split("."))
        for path in sources.glob("*/go.mod")
        if (match := re.search(r"^go ([\d.]+)$", path.read_text(), re.MULTILINE))
    ]
    return ".".join(str(part) for part in max(versions))


def key_of(module: Module, go_version: str, sources: Path = SOURCES) -> str:
    """Twelve hex digits that change whenever what would be built changes."""
    digest = hashlib.sha256()
    folder = sources / module.name
    for path in sorted(p for p in folder.iterdir() if p.suffix == ".go" or p.name in {"go.mod", "go.sum"}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    recipe = [go_version, *module.flags, *(f"{k}={v}" for k, v in sorted(module.environment.items()))]
    digest.update("\0".join([*recipe, *module.programs, *module.programs.values()]).encode())
    return digest.hexdigest()[:12]


@dataclass(slots=True)
class Builder:
    """Builds and finds programs in one cache."""

    cache: Path = field(default_factory=cache_dir)
    sources: Path = SOURCES
    runner: Run = run
    _go_version: str = ""

    def go_version(self) -> str:
        """The version of the Go toolchain on PATH, such as `go1.26.8`."""
        if not self._go_version:
            try:
                version = self.runner(["go", "env", "GOVERSION"], env={"GOTOOLCHAIN": "local", "GOFLAGS": ""})
            except ClusterError as error:
                raise ClusterError(
                    f"Go is needed to build the cluster's programs ({error.message})",
                    f"install Go {go_minimum(self.sources)} or newer; `make` does where it can",
                ) from None
            self._go_version = version.strip()
        return self._go_version

    def key(self, tool: str) -> str:
        """The key of what is built for a tool now."""
        return key_of(module_of(tool), self.go_version(), self.sources)

    def folder(self, module: Module) -> Path:
        """Where the programs of a module are, or will be."""
        return self.cache / "bin" / f"{module.name}-{key_of(module, self.go_version(), self.sources)}"

    def path(self, program: str) -> Path:
        """Where a program is, or will be."""
        module = module_of(program)
        if program not in module.programs:
            raise ClusterError(f"{program} is a module", f"its programs are {', '.join(module.programs)}")
        return self.folder(module) / program

    def missing(self, modules: tuple[Module, ...]) -> list[Module]:
        """Those not in the cache."""
        return [module for module in modules if not self.folder(module).is_dir()]

    def build(self, modules: tuple[Module, ...], say: Say) -> None:
        """Build what is missing, one module after the other, saying the time each takes."""
        if not self.missing(modules):
            return
        with self._lock(say):
            missing = self.missing(modules)  # whoever held the lock may have built them
            total = sum(module.seconds for module in missing)
            if total > 60:
                names = ", ".join(module.name for module in missing)
                say(f"building {names}: about {total // 60 + 1} minutes on two cores, once")
            for module in missing:
                started = time.monotonic()
                self._build(module)
                programs = ", ".join(module.programs)
                say(f"built {module.name} ({programs}) in {time.monotonic() - started:.0f} s")

    def _build(self, module: Module) -> None:
        final = self.folder(module)
        work = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=final.parent))
        try:
            for program, package in module.programs.items():
                self.runner(
                    ["go", "build", *module.flags, "-o", work / program, package],
                    env=module.environment,
                    cwd=self.sources / module.name,
                )
            work.chmod(0o755)
            work.rename(final)
        except ClusterError as error:
            raise ClusterError(
                f"{module.name} could not be built: {error.message}",
                "its Go modules come from where GOPROXY says: is the network up?",
            ) from None
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextlib.contextmanager
    def _lock(self, say: Say) -> Iterator[None]:
        folder = self.cache / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another build is at work; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
