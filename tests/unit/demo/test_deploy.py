"""How Capstan gets onto a cluster: which images, and what becomes of a release that was left half done."""

import json
from pathlib import Path

import pytest
from capstan_demo import deploy
from capstan_demo.environment import VERSION, Published, published
from capstan_demo.kube import Kube

IMAGES = {name: f"r/{name}:1" for name in ("operator", "serving", "agent")}
LONG_AGO = "2026-01-02 03:04:05.678901234 +0000 UTC"
PROGRAM = """#!/bin/sh
echo "$*" >> {folder}/calls
case $1 in list) cat {folder}/releases;; esac
"""


def calls_of_helm(folder: Path, *statuses: str) -> list[str]:
    """What helm is told to do where a release with this status is pending."""
    (folder / "releases").write_text(
        json.dumps([{"name": "capstan", "status": status, "updated": LONG_AGO} for status in statuses])
    )
    for name in ("helm", "kubectl"):
        program = folder / name
        program.write_text(PROGRAM.format(folder=folder))
        program.chmod(0o755)
    said: list[str] = []
    kube = Kube("config", "here", str(folder / "kubectl"))
    deploy.install(kube, str(folder / "helm"), IMAGES, said.append)
    if statuses:
        assert statuses[0] in said[0]
    calls = [line.split()[0] for line in (folder / "calls").read_text().splitlines()[:-1]]
    return [call for call in calls if call != "list"]


@pytest.mark.parametrize(
    ("status", "undone"),
    [
        ("pending-upgrade", "rollback"),
        ("pending-rollback", "rollback"),
        ("pending-install", "uninstall"),
        ("uninstalling", "uninstall"),
    ],
)
def test_what_a_killed_helm_left_is_undone_first(tmp_path: Path, status: str, undone: str) -> None:
    assert calls_of_helm(tmp_path, status) == [undone, "upgrade"]


def test_what_another_helm_is_doing_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends while we wait for it: nothing is undone."""
    monkeypatch.setattr(deploy, "_age", lambda _: 1.0)
    monkeypatch.setattr(deploy.time, "sleep", lambda _: (tmp_path / "releases").write_text("[]"))
    assert calls_of_helm(tmp_path, "pending-upgrade") == ["upgrade"]


def test_a_release_that_is_well_is_upgraded(tmp_path: Path) -> None:
    assert calls_of_helm(tmp_path) == ["upgrade"]


def test_a_registry_has_the_images_of_other_releases_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY", raising=False)
    monkeypatch.delenv("TAG", raising=False)
    assert published(tag="0.1.0") is None
    monkeypatch.setenv("REGISTRY", "registry.example.com/ml")
    assert published() == Published("registry.example.com/ml", VERSION)
    monkeypatch.setenv("TAG", "dev")
    assert published() == Published("registry.example.com/ml", "dev")
    assert published(tag="0.1.0") == Published("registry.example.com/ml", "0.1.0")
