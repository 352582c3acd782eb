"""The models that this server knows, loaded or not, and how they are loaded."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from capstan_serving._native import Server
from capstan_serving.backends import Backend
from capstan_serving.backends.onnx import OnnxBackend
from capstan_serving.errors import ModelLoadError, NotFound, Unavailable
from capstan_serving.repository import Found
from capstan_serving.scheduling import Scheduling

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model version; without a backend, `reason` says why."""

    name: str
    version: int
    backend: Backend | None
    reason: str = ""
    load_seconds: float = 0.0

    @property
    def state(self) -> str:
        """As the repository index calls it."""
        return "READY" if self.backend else "UNAVAILABLE"


class Catalog:
    """All entries, by name. Written by the main thread, read by the server's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        with self._lock:
            return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def put(self, entry: Entry) -> None:
        """Add or replace."""
        with self._lock:
            self._entries[entry.name] = entry

    def find(self, name: str, version: str = "") -> tuple[Entry, Backend]:
        """A loaded model; NotFound or Unavailable when there is none."""
        with self._lock:
            entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"Request for unknown model: {name!r} is not found")
        if version and not (version.isascii() and version.isdigit() and int(version) == entry.version):
            raise NotFound(f"Request for unknown model: {name!r} version {version!r} is not found")
        if entry.backend is None:
            raise Unavailable(f"model {name!r} could not be loaded; the repository index says why")
        return entry, entry.backend


def load(found: Found, server: Server, workers: int) -> Entry:
    """Load a model and let the server serve it. What goes wrong becomes the entry's reason."""
    start = time.monotonic()
    try:
        if found.file is None:
            raise ModelLoadError(found.reason)
        backend = OnnxBackend(found.file)
    except ModelLoadError as error:
        server.add_failed_model(found.name, found.version)
        _log.error("model %s cannot be served: %s", found.name, error)
        return Entry(found.name, found.version, None, str(error))
    server.add_model(
        found.name,
        found.version,
        signature=backend.signature,
        execute=backend.execute,
        workers=workers,
        scheduling=Scheduling(),
    )
    seconds = time.monotonic() - start
    _log.info("model %s version %d is loaded, in %.2f s", found.name, found.version, seconds)
    return Entry(found.name, found.version, backend, load_seconds=seconds)
