"""What a pod needs so that its program can say how far it is, and its runner tell the operator."""

from __future__ import annotations

from typing import Final

from capstan_operator.core import get, pods
from capstan_operator.core.model import Endpoint, Manifest

#: What a token for the operator, and for nobody else, is for.
AUDIENCE: Final = "capstan.dev"
#: Where the program writes: a pipe that the runner makes, in a folder of its own.
_PIPE: Final = "capstan-progress"
_PIPE_FOLDER: Final = "/var/run/capstan/progress"
#: A token that says which pod this is. The kubelet renews it.
_TOKEN: Final = "capstan-token"  # noqa: S105  (a volume)
_TOKEN_FOLDER: Final = "/var/run/secrets/capstan.dev"  # noqa: S105


def variables(endpoint: Endpoint) -> list[Manifest]:
    """The environment of the runner and its program."""
    return pods.env(
        {
            "CAPSTAN_PROGRESS_FILE": f"{_PIPE_FOLDER}/pipe",
            "CAPSTAN_REPORT_URL": endpoint.url,
            "CAPSTAN_REPORT_CA": endpoint.authority,
            "CAPSTAN_REPORT_TOKEN_FILE": f"{_TOKEN_FOLDER}/token",
        }
    )


def volumes() -> list[Manifest]:
    """The pod's volumes."""
    source = {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}}
    return [pods.empty_dir(_PIPE), {"name": _TOKEN, "projected": {"sources": [source]}}]


def mounts() -> list[Manifest]:
    """Where they are in the program's container, and in no other."""
    return [
        {"name": _PIPE, "mountPath": _PIPE_FOLDER},
        {"name": _TOKEN, "mountPath": _TOKEN_FOLDER, "readOnly": True},
    ]


def wanted(job: Manifest) -> bool:
    """Whether the pods of a Job report progress: those that were made before it was wanted do not."""
    found = get.items(job, "spec", "template", "spec", "volumes")
    return any(volume.get("name") == _PIPE for volume in found)
