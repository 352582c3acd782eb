"""The containers that fetch, before anything else in a pod: models for servers, data for programs.

What is rendered here must parse with the agent's own command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from capstan_operator.api.sources import CLAIM_SCHEME, Credentials, DataSource
from capstan_operator.core import claims, pods
from capstan_operator.core.model import Manifest, Settings

#: The container that fetches a model; those that fetch data are called so, a dash and the data's name.
MODEL: Final = "fetch"
#: Where a container that fetches data finds the volume for it, whatever path the program finds it at.
_TARGET: Final = "/var/run/capstan/data"


def is_fetch(container: str) -> bool:
    """Whether a container of this name fetches."""
    return container == MODEL or container.startswith(f"{MODEL}-")


def container(
    name: str,
    arguments: Sequence[str],
    mounts: list[Manifest],
    credentials: Credentials | None,
    settings: Settings,
) -> Manifest:
    """An init container that fetches. A Secret's keys are its environment, and no other container's."""
    result: Manifest = {
        "name": name,
        "image": settings.agent_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["capstan-agent", "fetch", *arguments, "--allow", ",".join(settings.fetch_allow)],
        "securityContext": dict(pods.READ_ONLY),
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": mounts,
    }
    if credentials:
        result["envFrom"] = [{"secretRef": {"name": credentials.secret_ref.name}}]
    return result


def data_containers(data: Sequence[DataSource], settings: Settings) -> list[Manifest]:
    """One for each item that is not on a volume, which is mounted as it is."""
    return [
        container(
            f"{MODEL}-{item.name}",
            [
                *("--uri", item.uri, "--target", _TARGET, "--layout", "data"),
                *(("--digest", item.digest) if item.digest else ()),
            ],
            [{"name": _volume(item), "mountPath": _TARGET}],
            item.credentials,
            settings,
        )
        for item in data
        if not _mounted(item)
    ]


def data_volumes(data: Sequence[DataSource], written: Sequence[str]) -> list[Manifest]:
    """Where the data lies. Claims that the program does not write to otherwise are attached read-only.

    Then the kubelet makes no empty folder of a path that is not there, and claims that are ReadOnlyMany do.
    """
    others = {claims.place(uri).claim for uri in written}
    read = [item.uri for item in data if _mounted(item) and claims.place(item.uri).claim not in others]
    return [
        *claims.volumes(read, read_only=True),
        *(pods.empty_dir(_volume(item)) for item in data if not _mounted(item)),
    ]


def data_mounts(data: Sequence[DataSource]) -> list[Manifest]:
    """Where the program finds the data."""
    return [
        claims.mount(item.uri, item.mount_path)
        if _mounted(item)
        else {"name": _volume(item), "mountPath": item.mount_path, "readOnly": True}
        for item in data
    ]


def data_env(data: Sequence[DataSource]) -> dict[str, str]:
    """What tells the program where the data is."""
    return {f"CAPSTAN_DATA_{item.name.upper().replace('-', '_')}": item.mount_path for item in data}


def _mounted(item: DataSource) -> bool:
    return item.uri.startswith(CLAIM_SCHEME)


def _volume(item: DataSource) -> str:
    return f"data-{item.name}"
