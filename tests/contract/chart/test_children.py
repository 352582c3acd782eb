"""The children of the golden cases are what Kubernetes' own schemas allow, to the last field."""

import subprocess

import pytest
import yaml

from .conftest import ROOT, Manifest

pytestmark = pytest.mark.tools


def children() -> list[Manifest]:
    plans = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "tests/golden").glob("*/want.yaml"))]
    return [child for plan in plans for child in plan["apply"]]


def test_kubeconform_is_content_with_every_child(tool, schemas):
    found = children()
    assert {"Job", "Deployment", "Service", "NetworkPolicy"} <= {child["kind"] for child in found}
    command = [tool("kubeconform"), "-strict", "-summary", "-schema-location", schemas]
    stream = yaml.safe_dump_all(found)
    done = subprocess.run(command, input=stream, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Valid: {len(found)}" in done.stdout
    broken = stream.replace("subdomain:", "subdomains:", 1)
    assert subprocess.run(command, input=broken, capture_output=True, text=True, check=False).returncode == 1
