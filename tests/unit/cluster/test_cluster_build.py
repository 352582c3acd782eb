"""Programs are found by what they are made of."""

import re
import subprocess
from pathlib import Path

import pytest
from capstan_cluster.build import (
    CLUSTER_MODULES,
    MODULES,
    SOURCES,
    Builder,
    Module,
    go_minimum,
    key_of,
    module_of,
)
from capstan_cluster.cli import main
from capstan_cluster.errors import ClusterError
from capstan_cluster.preflight import go_suffices

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "tools" / "demo"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module demo\n\ngo 1.26.0\n")
    (folder / "main.go").write_text("package main\n")
    return tmp_path / "tools"


MODULE = Module("demo", {"demo": "."})


def test_the_key_changes_with_all_that_changes_the_program(sources):
    keys = {key_of(MODULE, "go1.26.6", sources)}
    keys.add(key_of(MODULE, "go1.26.7", sources))
    keys.add(key_of(Module("demo", {"demo": "."}, tags="x"), "go1.26.6", sources))
    keys.add(key_of(Module("demo", {"demo": "."}, cgo=True), "go1.26.6", sources))
    keys.add(key_of(Module("demo", {"demo": "./other"}), "go1.26.6", sources))
    (sources / "demo" / "main.go").write_text("package main // changed\n")
    keys.add(key_of(MODULE, "go1.26.6", sources))
    (sources / "demo" / "go.sum").write_text("")
    keys.add(key_of(MODULE, "go1.26.6", sources))
    assert len(keys) == 7


def test_the_key_does_not_change_with_anything_else(sources):
    before = key_of(MODULE, "go1.26.6", sources)
    (sources / "demo" / "README.md").write_text("hello")
    assert key_of(MODULE, "go1.26.6", sources) == before


class Go:
    """Stands in for the Go toolchain."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.builds = fail, 0

    def __call__(self, argv, **_):
        if argv[1] == "env":
            return "go1.26.6\n"
        self.builds += 1
        argv[argv.index("-o") + 1].write_text("program")
        if self.fail:
            raise ClusterError("go build failed")
        return ""


def test_a_program_is_built_once(tmp_path, sources):
    go, said = Go(), []
    builder = Builder(tmp_path / "cache", sources, go)
    for _ in range(2):
        builder.build((MODULE,), said.append)
    assert go.builds == 1
    assert (builder.folder(MODULE) / "demo").read_text() == "program"
    assert len(said) == 1
    assert "demo" in said[0]


def test_a_build_that_fails_leaves_nothing_that_looks_built(tmp_path, sources):
    builder = Builder(tmp_path / "cache", sources, Go(fail=True))
    with pytest.raises(ClusterError, match=r"demo could not be built[\s\S]*GOPROXY"):
        builder.build((MODULE,), print)
    assert builder.missing((MODULE,)) == [MODULE]
    assert not list((tmp_path / "cache" / "bin").iterdir())


def test_without_go_it_is_said_which_is_needed(tmp_path, sources):
    def no_go(argv, **_):
        raise ClusterError("go is not installed")

    with pytest.raises(ClusterError, match=r"1\.26\.0 or newer"):
        Builder(tmp_path, sources, no_go).go_version()


def test_every_module_is_pinned_and_its_programs_are_its_modules_tools():
    for module in MODULES:
        text = (SOURCES / module.name / "go.mod").read_text()
        for package in module.programs.values():
            assert package == "." or package in text
        assert not re.search(r"=> \.", text)
    tracked = subprocess.run(
        ["git", "ls-files", "cluster/tools"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for module in MODULES:
        assert f"cluster/tools/{module.name}/go.mod" in tracked
        assert (SOURCES / module.name / "go.sum").exists() or module.name == "node-helper"


def test_tools_are_found_by_the_modules_name_and_by_the_programs():
    assert module_of("kubectl") is module_of("kubernetes")
    assert module_of("ctr").name == "containerd"
    assert "helm" not in {module.name for module in CLUSTER_MODULES}
    with pytest.raises(ClusterError, match="known are"):
        module_of("hlem")


def test_the_go_that_the_bootstrap_installs_suffices():
    versions = (ROOT / "scripts" / "environment.sh").read_text()
    (installed,) = re.findall(r"^GO_VERSION=(.*)$", versions, re.MULTILINE)
    assert go_suffices(f"go{installed}", go_minimum())


def test_tools_are_built_by_name_each_module_once_and_without_names_what_the_cluster_needs(monkeypatch):
    built = []
    monkeypatch.setattr(Builder, "build", lambda self, modules, say: built.append([m.name for m in modules]))
    assert main(["build", "kubectl", "helm", "kubelet"]) == 0
    assert main(["build"]) == 0
    assert built == [["kubernetes", "helm"], [module.name for module in CLUSTER_MODULES]]


def test_a_tool_that_was_not_built_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CAPSTAN_CACHE", str(tmp_path))
    monkeypatch.setattr(Builder, "go_version", lambda self: "go1.26.6")
    assert main(["path", "helm"]) == 1
    assert "capstan-cluster build helm" in capsys.readouterr().err
