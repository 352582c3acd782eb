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
    _recover(kube, helm, say)
    _helm(
        kube, helm, "upgrade", "--install", RELEASE, str(chart), "--create-namespace",
        "--take-ownership", "--wait", "--timeout", "180s", "--values", "-",
        stdin=json.dumps(values(images)),
    )  # fmt: skip
    say(kube.run("get", "pods", "-n", NAMESPACE, "-o", "wide").strip())


def _recover(kube: Kube, helm: str, say: Callable[[str], None]) -> None:
    """Undo what a helm that was killed has left half done: the next one refuses to go on from there."""
    releases = json.loads(
        _helm(kube, helm, "list", "--pending", "--filter", f"^{RELEASE}$", "--output", "json")
    )
    for release in releases:
        say(f"the release is {release['status']}, since a helm before this one was ended: that is undone")
        undo = ("uninstall", "--wait") if release["status"] == "pending-install" else ("rollback",)
        _helm(kube, helm, undo[0], RELEASE, *undo[1:])


def _helm(kube: Kube, helm: str, *args: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [helm, *args, "--kube-context", kube.context, "--namespace", NAMESPACE],
        env=kube.environment, input=stdin, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode != 0:
        raise HelmError(done.stderr.strip())
    return done.stdout
