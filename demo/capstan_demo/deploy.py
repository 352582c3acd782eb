"""Puts Capstan on a cluster, from its chart, with helm."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from capstan_demo.kube import Kube, Manifest

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "capstan"
NAMESPACE = "capstan-system"
RELEASE = "capstan"
PATIENCE = 300
"""Seconds that helm gets."""


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
    """Undo what a helm that was killed has left half done: the next one refuses to go on from there.

    A release that is being changed is left to whoever does that, for as long as a helm of ours would take.
    """
    for release in _pending(kube, helm):
        age = _age(release)
        if age < PATIENCE:
            rest = PATIENCE - age
            say(f"the release is {release['status']}: another helm may be at work, for {rest:.0f} s at most")
        while _age(release) < PATIENCE and release in _pending(kube, helm):
            time.sleep(5)
        if release not in _pending(kube, helm):
            continue
        say(f"the release is {release['status']}, since a helm before this one was ended: that is undone")
        gone = release["status"] in ("pending-install", "uninstalling")
        undo = ("uninstall", RELEASE, "--wait", "--timeout", "180s") if gone else ("rollback", RELEASE)
        _helm(kube, helm, *undo)


def _pending(kube: Kube, helm: str) -> list[dict[str, str]]:
    asked = ("list", "--pending", "--uninstalling", "--filter", f"^{RELEASE}$", "--output", "json")
    found: list[dict[str, str]] = json.loads(_helm(kube, helm, *asked))
    return found


def _age(release: dict[str, str]) -> float:
    """Seconds since a release was last touched, which helm tells as Go prints times."""
    day, clock, zone = release["updated"].split()[:3]
    changed = datetime.strptime(f"{day} {clock.partition('.')[0]} {zone}", "%Y-%m-%d %H:%M:%S %z")
    return (datetime.now(UTC) - changed).total_seconds()


def _helm(kube: Kube, helm: str, *args: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(
            [helm, *args, "--kube-context", kube.context, "--namespace", NAMESPACE], env=kube.environment,
            input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise HelmError(f"helm {args[0]} has not ended after {PATIENCE} s") from error
    if done.returncode != 0:
        raise HelmError(done.stderr.strip())
    return done.stdout
