"""The models that this server knows, whether they are served or not."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from capstan_serving._native import Handle
from capstan_serving.backends import Backend
from capstan_serving.errors import NotFound, Unavailable
from capstan_serving.loading import Loaded
from capstan_serving.repository import Fingerprint

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model version, as the repository index shows it."""

    name: str
    version: int
    """0 when none can be named."""
    state: State
    reason: str = ""
    """Why it is not ready; of one that is, why it could not be replaced."""
    loaded: Loaded | None = None
    handle: Handle | None = None
    key: tuple[Fingerprint, str | None] | None = None
    """What it was loaded from: equal keys need not be loaded again."""

    @property
    def backend(self) -> Backend | None:
        """What executes it; None when it is not served."""
        return self.loaded.backend if self.loaded else None

    @property
    def load_seconds(self) -> float:
        """How long loading took."""
        return self.loaded.seconds if self.loaded else 0.0


def _not_allowed(*_: object) -> None:
    raise Unavailable(
        "explicit model load / unload is not allowed; start the server with --model-control-mode explicit"
    )


class Catalog:
    """All entries. Written by whoever loads and unloads, read by the server's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, dict[int, Entry]] = {}
        self.load: Callable[[str, str | None, Mapping[str, bytes]], None] = _not_allowed
        """Load a model by its name, with another configuration (JSON) and other files than the repository's.

        InvalidArgument, NotFound or Unavailable say why that failed."""
        self.unload: Callable[[str, bool], None] = _not_allowed
        """Unload a model. (No model depends on another, so there is nothing more to unload.)"""
        self.discover: Callable[[], Iterable[str]] = tuple
        """The names that the repository has now."""

    def __iter__(self) -> Iterator[Entry]:
        with self._lock:
            entries = [entry for versions in self._entries.values() for entry in versions.values()]
        return iter(sorted(entries, key=lambda entry: (entry.name, entry.version)))

    def index(self) -> list[Entry]:
        """Every model of the repository, loaded or not."""
        entries = list(self)
        known = {entry.name for entry in entries}
        entries += (
            Entry(name, 0, "UNAVAILABLE", "unloaded") for name in self.discover() if name not in known
        )
        return sorted(entries, key=lambda entry: (entry.name, entry.version))

    def versions(self, name: str) -> dict[int, Entry]:
        """A name's entries by version."""
        with self._lock:
            return dict(self._entries.get(name, {}))

    def put(self, entry: Entry) -> None:
        """Add or replace."""
        with self._lock:
            self._entries.setdefault(entry.name, {})[entry.version] = entry

    def replace(self, old: Entry, new: Entry | None) -> None:
        """Replace an entry, or remove it, unless another has taken its place already."""
        with self._lock:
            versions = self._entries.get(old.name, {})
            if versions.get(old.version) is not old:
                return
            if new:
                versions[old.version] = new
            else:
                del versions[old.version]
                if not versions:
                    del self._entries[old.name]

    def served(self, name: str) -> list[Entry]:
        """The versions of a name that are served, in order."""
        found = self.versions(name).values()
        return sorted((entry for entry in found if entry.state == "READY"), key=lambda entry: entry.version)

    def find(self, name: str, version: str = "") -> tuple[Entry, Loaded]:
        """What is served: the version, or else the highest. NotFound or Unavailable when there is none."""
        entries = self.versions(name)
        if not entries:
            raise NotFound(f"Request for unknown model: {name!r} is not found")
        if version:
            known = version.isascii() and version.isdigit() and len(version) < 20
            entry = entries.get(int(version)) if known else None
            if entry is None:
                raise NotFound(f"Request for unknown model: {name!r} version {version!r} is not found")
        else:
            entry = max(entries.values(), key=lambda entry: (entry.state == "READY", entry.version))
        if entry.state != "READY" or entry.loaded is None:
            raise Unavailable(f"model {name!r} is not loaded; the repository index says why")
        return entry, entry.loaded
