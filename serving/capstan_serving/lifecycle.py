"""How models come and go while the server runs.

A new version is loaded before the old one is let go, and the old one keeps serving when the new one cannot be
loaded. Requests that found the old one are answered by it; when the last has been, its memory is given back.
"""

import dataclasses
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from capstan_serving import memory
from capstan_serving._native import Handle, Server
from capstan_serving.catalog import Catalog, Entry
from capstan_serving.config import plan
from capstan_serving.config.schema import ModelConfig
from capstan_serving.errors import InvalidArgument, ModelLoadError, NotFound, Unavailable
from capstan_serving.loading import Loaded, Loader
from capstan_serving.repository import Fingerprint, ModelFolder, Repository, from_files

_log = logging.getLogger(__name__)

_RELEASE_CHECK = 3600.0


class Lifecycle:
    """Loads and unloads the models of a catalog. Its methods may be called from several threads at once."""

    def __init__(self, catalog: Catalog, repository: Repository, loader: Loader, server: Server) -> None:
        self._catalog = catalog
        self._repository = repository
        self._loader = loader
        self._server = server
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._seen: dict[str, Fingerprint] = {}

    def start(self, names: Iterable[str] | None, threads: int, stop: threading.Event) -> None:
        """Load several models at once, or all. What goes wrong is in the catalog.

        OSError when the repository cannot be read."""
        folders = self._repository.folders()
        wanted = list(folders) if names is None else list(dict.fromkeys(names))
        done = iter(range(1, len(wanted) + 1))

        def load(name: str) -> None:
            if stop.is_set():
                return
            folder = folders.get(name)
            if folder is None:
                self._fail(name, [0], f"model {name!r} is not in the repository; correct --load-model")
            else:
                self._seen[name] = folder.fingerprint()
                with self._lock(name):
                    self._load(folder, None)
            _log.info("%d of %d models are done: %s", next(done), len(wanted), name)

        with ThreadPoolExecutor(threads, "load") as pool:
            list(pool.map(load, wanted))

    def names(self) -> Iterable[str]:
        """The models that the repository has now. Unavailable when it cannot be read."""
        try:
            return self._repository.folders()
        except OSError as error:
            raise _unreadable(error) from error

    def load(self, name: str, config: str | None, files: Mapping[str, bytes]) -> None:
        """Load a model, or load it anew. InvalidArgument, NotFound or Unavailable say why it could not be."""
        if files and config is None:
            raise InvalidArgument(f"failed to load {name!r}: files need a config; send it with them")
        try:
            known = self._repository.find(name)
        except OSError as error:
            raise _unreadable(error) from error
        if known is None:
            raise NotFound(f"failed to load {name!r}: it is not in the model repository")
        try:
            folder = from_files(name, files) if files else known
        except ModelLoadError as error:
            raise InvalidArgument(f"failed to load {name!r}: {error}") from error
        with self._lock(name):
            failures = self._load(folder, config)
        if failures:
            raise InvalidArgument(f"failed to load {name!r}: {'; '.join(failures)}")

    def unload(self, name: str, _unload_dependents: bool = False) -> None:
        """Serve a model no longer. Its requests are still answered; then its memory is given back."""
        if not self._catalog.versions(name):
            raise NotFound(f"failed to unload {name!r}: it is not known")
        with self._lock(name):
            for entry in self._catalog.versions(name).values():
                if entry.state == "UNLOADING":
                    continue
                self._retire(entry, dataclasses.replace(_bare(entry), state="UNAVAILABLE", reason="unloaded"))

    def poll(self) -> None:
        """Follow what changed in the repository."""
        try:
            folders = self._repository.folders()
        except OSError as error:
            _log.error("the model repository cannot be read (%s); what is loaded is served on", error)
            return
        for name, folder in folders.items():
            seen = folder.fingerprint()
            if self._seen.get(name) != seen:
                self._seen[name] = seen
                with self._lock(name):
                    self._load(folder, None)
        for name in self._seen.keys() - folders.keys():
            _log.info("model %s is gone from the repository", name)
            del self._seen[name]
            with self._lock(name):
                for entry in self._catalog.versions(name).values():
                    self._retire(entry, None)
                self._server.forget_model(name)

    def _lock(self, name: str) -> threading.Lock:
        """One load or unload of a model at a time."""
        with self._guard:
            return self._locks[name]

    def _load(self, folder: ModelFolder, override: str | None) -> list[str]:
        """Load what changed, and let go what is wanted no longer. Why some could not be loaded."""
        try:
            return self._load_versions(folder, override)
        except Exception as error:  # noqa: BLE001 - one model must not take the others along
            return self._broken(folder.name, list(self._catalog.versions(folder.name)) or [0], error)

    def _load_versions(self, folder: ModelFolder, override: str | None) -> list[str]:
        name = folder.name
        present: list[int] = []
        try:
            present = folder.versions()
            config = self._loader.configuration(folder, override)
            wanted = plan.versions(config, present, str(folder.path))
        except ModelLoadError as error:
            return self._fail(name, list(self._catalog.versions(name)) or present[-1:] or [0], str(error))
        failures = []
        for version in wanted:
            failures += self._load_version(folder, version, config, override)
        if not failures:
            for version, entry in self._catalog.versions(name).items():
                if version not in wanted:
                    self._retire(entry, None)
        return failures

    def _load_version(
        self, folder: ModelFolder, version: int, config: Any, override: str | None
    ) -> list[str]:
        name = folder.name
        key = (folder.fingerprint(version), override)
        old = self._catalog.versions(name).get(version)
        if old and old.loaded and old.key == key:
            self._catalog.put(dataclasses.replace(old, reason=""))
            return []
        if not (old and old.loaded):
            self._catalog.put(Entry(name, version, "LOADING"))
        own = ModelConfig()
        own.CopyFrom(config)
        try:
            loaded = self._loader.load(folder, version, own)
            handle = self._serve(name, version, loaded)
        except ModelLoadError as error:
            return self._fail(name, [version], str(error))
        except Exception as error:  # noqa: BLE001 - nor one version
            return self._broken(name, [version], error)
        self._catalog.put(Entry(name, version, "READY", loaded=loaded, handle=handle, key=key))
        _log.info("model %s version %d is loaded, in %.2f s", name, version, loaded.seconds)
        for provider in loaded.missing:
            used = ", ".join(loaded.backend.providers)
            _log.warning(
                "model %s version %d: %s cannot be used; executed by %s", name, version, provider, used
            )
        if old and old.loaded:
            self._release(old, None)
        memory.trim()
        return []

    def _serve(self, name: str, version: int, loaded: Loaded) -> Handle:
        try:
            return self._server.add_model(
                name,
                version,
                signature=loaded.signature,
                execute=loaded.execute,
                workers=loaded.workers,
                scheduling=loaded.scheduling,
                labels=loaded.labels,
            )
        except BaseException:
            loaded.backend.close()
            raise

    def _broken(self, name: str, versions: list[int], error: Exception) -> list[str]:
        _log.exception("loading model %s failed", name)
        return self._fail(name, versions, f"loading it failed ({error}); this is a bug of the server's")

    def _fail(self, name: str, versions: list[int], reason: str) -> list[str]:
        """Say why versions cannot be served; one that is served already is served on."""
        _log.error("model %s cannot be served: %s", name, reason)
        entries = self._catalog.versions(name)
        for version in versions:
            old = entries.get(version)
            if old and old.loaded:
                self._catalog.put(dataclasses.replace(old, reason=reason))
            else:
                self._catalog.put(Entry(name, version, "UNAVAILABLE", reason))
                self._server.add_failed_model(name, version)
        return [reason]

    def _retire(self, entry: Entry, after: Entry | None) -> None:
        """Take a version out of service. `after` is what the index shows when its memory is given back."""
        self._server.remove_model(entry.name, entry.version)
        if entry.loaded is None:
            self._catalog.replace(entry, after)
            return
        leaving = dataclasses.replace(_bare(entry), state="UNLOADING")
        self._catalog.replace(entry, leaving)
        self._release(entry, lambda: self._catalog.replace(leaving, after))
        _log.info("model %s version %d is unloaded", entry.name, entry.version)

    def _release(self, entry: Entry, then: Callable[[], None] | None) -> None:
        """Give back what a version holds, once its last request is answered."""

        def release(loaded: Loaded, handle: Handle) -> None:
            while not handle.wait(_RELEASE_CHECK):
                pass
            loaded.backend.close()
            memory.trim()
            if then:
                then()

        threading.Thread(
            target=release, args=(entry.loaded, entry.handle), name=f"release-{entry.name}", daemon=True
        ).start()


def _unreadable(error: OSError) -> Unavailable:
    return Unavailable(f"the model repository cannot be read ({error}); check the folder and its mode")


def _bare(entry: Entry) -> Entry:
    return Entry(entry.name, entry.version, entry.state)
