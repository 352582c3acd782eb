"""Writes what is generated, each from the one before: `make generate`. A test checks that nothing is stale.

models -> docs/api.md
models -> manifests/crds -> the chart's copy of them -> the chart with its default values -> manifests/base
scripts/dashboards -> manifests/dashboards -> the chart's copy of them
manifests/alerts -> the chart's copy of them
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import dashboards
import yaml
from capstan_cluster.build import Builder, module_of
from capstan_operator.api.crd import crds
from capstan_operator.api.reference import reference

SOURCE = Path(__file__).resolve().parents[1]
GENERATED = "# Generated: change the models or the chart, then `make generate`.\n"
# What says that helm manages an object, and comments that name files of the chart.
HELMS = re.compile(
    r"^ *helm\.sh/chart:.*\n|^ *app\.kubernetes\.io/managed-by: Helm\n|^# Source: .*\n", re.MULTILINE
)


def write_crds(folder: Path) -> list[Path]:
    """One file for each kind, and the list of them that kustomize wants."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = []
    for crd in crds():
        path = folder / f"{crd['metadata']['name']}.yaml"
        path.write_text(GENERATED + yaml.safe_dump(crd, sort_keys=False, width=110, allow_unicode=True))
        written.append(path)
    names = "".join(f"  - {path.name}\n" for path in sorted(written))
    kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    (folder / "kustomization.yaml").write_text(GENERATED + kustomization + names)
    return written


def write_dashboards(folder: Path) -> list[Path]:
    """Grafana's dashboards, and the list of them that kustomize makes ConfigMaps of."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = []
    for name, text in dashboards.files().items():
        (folder / name).write_text(text)
        written.append(folder / name)
    maps = [{"name": path.stem, "files": [path.name]} for path in written]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "generatorOptions": {"labels": {"grafana_dashboard": "1"}, "disableNameSuffixHash": True},
        "configMapGenerator": maps,
    }
    (folder / "kustomization.yaml").write_text(GENERATED + yaml.safe_dump(kustomization, sort_keys=False))
    return written


def copy(files: list[Path], folder: Path) -> None:
    """The same files in another folder, and nothing else there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)


def write_base(chart: Path, target: Path) -> None:
    """The chart's objects, without its CRDs and its test."""
    Builder().build((module_of("helm"),), print)
    command: list[str | Path] = [
        Builder().path("helm"),
        "template",
        "capstan",
        chart,
        "--namespace",
        "capstan-system",
    ]
    options = ["--set", "crds.enabled=false", "--skip-tests"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    target.write_text(GENERATED + HELMS.sub("", done.stdout))


def main(root: Path) -> None:
    """Generate everything below `root`."""
    files = write_crds(root / "manifests/crds")
    copy(files, root / "charts/capstan/charts/capstan-crds/files")
    (root / "docs").mkdir(exist_ok=True)
    (root / "docs/api.md").write_text(reference())
    copy(write_dashboards(root / "manifests/dashboards"), root / "charts/capstan/dashboards")
    copy([root / "manifests/alerts/capstan.yaml"], root / "charts/capstan/rules")
    write_base(root / "charts/capstan", root / "manifests/base/operator.yaml")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE)
