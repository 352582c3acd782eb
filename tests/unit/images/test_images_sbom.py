"""The lists of what images are made of name everything that the locks do, with version and hash."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
Listed = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    folder = tmp_path_factory.mktemp("sbom")
    subprocess.run([sys.executable, ROOT / "scripts" / "sbom.py", folder], check=True, capture_output=True)
    found = {path.name.removesuffix(".cdx.json"): json.loads(path.read_text()) for path in folder.iterdir()}
    assert {(b["bomFormat"], b["specVersion"]) for b in found.values()} == {("CycloneDX", "1.5")}
    return {image: bill.get("components", []) for image, bill in found.items()}


def hashes(component: dict[str, Any]) -> set[str]:
    places = [component, *component.get("externalReferences", [])]
    return {h["content"] for place in places for h in place.get("hashes", []) if h["alg"] == "SHA-256"}


@pytest.mark.parametrize(
    ("image", "options"),
    [
        ("operator", ["--package", "capstan-operator"]),
        ("agent", ["--package", "capstan-agent", "--extra", "storage"]),
        ("serving", ["--package", "capstan-serving", "--extra", "cpu"]),
        ("serving-gpu", ["--package", "capstan-serving", "--extra", "gpu"]),
        ("trainer", ["--project", "examples/digits"]),
    ],
)
def test_every_package_that_an_image_installs_is_listed(
    listed: Listed, image: str, options: list[str]
) -> None:
    """The Dockerfile installs what `uv export` says, and nothing whose hash that does not have."""
    exported = f"--no-emit-workspace {' '.join(options)} -o" if "--package" in options else " ".join(options)
    assert exported in (ROOT / "Dockerfile").read_text()
    export = [os.environ.get("UV", "uv"), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-workspace"]
    done = subprocess.run([*export, *options], cwd=ROOT, capture_output=True, text=True, check=True)
    installed = {
        (name, version): set(re.findall(r"sha256:([0-9a-f]{64})", rest))
        for name, version, rest in re.findall(r"(?m)^([\w.-]+)==(\S+)((?:.*\\\n)*.*)", done.stdout)
    }
    found = {(c["name"], c["version"]): hashes(c) for c in listed[image] if ":pypi/" in c["purl"]}
    for package, locked in installed.items():
        assert locked
        assert locked <= found.get(package, set()), package
    assert set(found) == set(installed)


@pytest.mark.parametrize("image", ["serving", "serving-gpu"])
def test_every_crate_is_listed(listed: Listed, image: str) -> None:
    locked = tomllib.loads((ROOT / "serving/native/Cargo.lock").read_text())["package"]
    crates = {
        (c["name"], c["version"]): {c["checksum"]} for c in locked if c["name"] != "capstan-serving-native"
    }
    found = {(c["name"], c["version"]): hashes(c) for c in listed[image] if ":cargo/" in c["purl"]}
    assert found == crates


def test_why_uv_failed_is_told(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'the lock is out of date' >&2\nexit 1\n")
    uv.chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "sbom.py", tmp_path],
        env=os.environ | {"UV": str(uv)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the lock is out of date" in done.stderr
