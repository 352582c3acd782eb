"""The tools that judge the chart, and the schemas they judge by: all local, none fetched over the network."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from capstan_cluster.build import SOURCES, Builder, module_of

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "capstan"

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """Finds helm, kubectl, kubeconform or kube-score, built from its pinned Go module."""
    builder = Builder()
    builder.build(tuple(map(module_of, ("helm", "kubeconform", "kube-score", "kubectl"))), print)
    return builder.path


@pytest.fixture(scope="session")
def helm(tool: Callable[[str], Path]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs helm."""

    def run(*arguments: str | Path, values: Manifest | None = None) -> subprocess.CompletedProcess[str]:
        command = [tool("helm"), *arguments, *(["--values", "-"] if values else [])]
        given = json.dumps(values) if values else None
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def text(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Renders the chart with some values, as `helm template` prints it."""

    def rendered(*options: str, **values: Any) -> str:
        done = helm("template", "capstan", CHART, "--namespace", "capstan-system", *options, values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return rendered


@pytest.fixture(scope="session")
def render(text: Callable[..., str]) -> Render:
    """Renders the chart with some values, as objects."""
    return lambda *options, **values: objects(text(*options, **values))


def objects(stream: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(stream) if document]


def only(manifests: Sequence[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where kubeconform finds a strict JSON schema of every kind, made from Kubernetes' own OpenAPI.

    They lie in the Go module that the local cluster is built from.
    """
    download = ["go", "mod", "download", "-json", "k8s.io/kubernetes"]
    module = subprocess.run(download, cwd=SOURCES / "kubernetes", check=True, capture_output=True, text=True)
    folder = tmp_path_factory.mktemp("schemas")
    documents = Path(json.loads(module.stdout)["Dir"]) / "api/openapi-spec/v3"
    for document in documents.glob("*_openapi.json"):
        definitions = json.loads(document.read_text()).get("components", {}).get("schemas", {})
        for definition in definitions.values():
            if "properties" in definition:
                definition.setdefault("additionalProperties", False)
        defined = json.loads(json.dumps(definitions).replace("#/components/schemas/", "#/definitions/"))
        for name, definition in definitions.items():
            for kind in definition.get("x-kubernetes-group-version-kind", []):
                group = kind["group"].partition(".")[0]
                file = "-".join(filter(None, (kind["kind"].lower(), group, kind["version"])))
                schema = {"definitions": defined, "$ref": f"#/definitions/{name}"}
                (folder / f"{file}.json").write_text(json.dumps(schema))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
