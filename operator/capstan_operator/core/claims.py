"""Where `pvc://<claim>/<path>` is inside a container: every claim is mounted under its own name.

The agent's fetch looks for claims in the same folder; its command line and this must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from capstan_operator.api.sources import CLAIM_SCHEME
from capstan_operator.core import names
from capstan_operator.core.model import Manifest

ROOT: Final = "/var/run/capstan/claims"


@dataclass(frozen=True, slots=True)
class Place:
    """A path on a claim."""

    claim: str
    path: str

    @property
    def folder(self) -> str:
        """Where it is in a container."""
        return f"{ROOT}/{self.claim}/{self.path}"


def place(uri: str) -> Place:
    """The place a (valid) address names."""
    claim, _, path = uri.removeprefix(CLAIM_SCHEME).partition("/")
    return Place(claim, path.rstrip("/"))


def volumes(uris: list[str], read_only: bool = False) -> list[Manifest]:
    """One volume for each claim."""
    extra = {"readOnly": True} if read_only else {}
    return [
        {"name": _volume(claim), "persistentVolumeClaim": {"claimName": claim, **extra}}
        for claim in _claims(uris)
    ]


def mounts(uris: list[str], read_only: bool = False) -> list[Manifest]:
    """Where the volumes go."""
    extra = {"readOnly": True} if read_only else {}
    return [{"name": _volume(claim), "mountPath": f"{ROOT}/{claim}", **extra} for claim in _claims(uris)]


def mount(uri: str, path: str) -> Manifest:
    """One place of a claim, mounted at a path to be read."""
    found = place(uri)
    return {"name": _volume(found.claim), "mountPath": path, "subPath": found.path, "readOnly": True}


def _claims(uris: list[str]) -> list[str]:
    return list(dict.fromkeys(place(uri).claim for uri in uris))


def _volume(claim: str) -> str:
    """A volume's name is a DNS label, which a claim's need not be."""
    plain = claim if len(claim) <= names.LIMIT - len("claim-") and "." not in claim else names.digest(claim)
    return f"claim-{plain}"
