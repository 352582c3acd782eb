"""Puts Capstan on a cluster, from its chart, with helm."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from capstan_demo.kube import Kube, Manifest

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "capstan"
NAMESPACE = "capstan-system"
RELEASE = "capstan"


class HelmError(Exception):
    """helm said no; the message is what it said."""


def values(images: Mapping[str, str]) -> Manifest:
    """Return the chart's values for these image references ({"operator": "registry/operator:tag", ...})."""
    return {"image": {name: images[name] for name in ("operator", "serving", "agent")}}


def install(
    kube: Kube,
    helm: str,
    images: Mapping[str, str],
    say: Callable[[str], None],
    chart: Path = CHART,
) -> None:
    """Install or upgrade the chart and wait until the operator is ready; raise HelmError otherwise."""
    command = [
        helm, "upgrade", "--install", RELEASE, str(chart),
        "--kube-context", kube.context,
        "--namespace", NAMESPACE, "--create-namespace",
        "--take-ownership", "--wait", "--timeout", "180s", "--values", "-",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env=kube.environment, input=json.dumps(values(images)),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode != 0:
        raise HelmError(done.stderr.strip())
    say(kube.run("get", "pods", "-n", NAMESPACE, "-o", "wide").strip())
