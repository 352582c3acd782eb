"""Models that come and go, where the world around them fails. (With real models: tests/contract/serving.)"""

import logging
import threading

import pytest
from capstan_serving.catalog import Catalog, Entry
from capstan_serving.errors import ModelLoadError, NotFound, Unavailable
from capstan_serving.lifecycle import Lifecycle
from capstan_serving.loading import Loaded
from capstan_serving.repository import ModelFolder


class Repository:
    """Whose folders a test sets; an exception is raised."""

    def __init__(self, folders):
        self.now = folders

    def folders(self):
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    def find(self, name):
        return self.folders().get(name)


class Loader:
    """Loads nothing; `b` is a model on which the server has a bug."""

    def configuration(self, folder, override=None):
        if folder.name == "b":
            raise KeyError("a bug")
        raise ModelLoadError("no such thing")


class Handle:
    def __init__(self):
        self.done = threading.Event()

    def wait(self, timeout):
        return self.done.wait(timeout)


class Server:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def life(tmp_path):
    for name in "abc":
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(b"")
    folders = {name: ModelFolder(name, tmp_path / name, tmp_path) for name in "abc"}
    catalog, repository = Catalog(), Repository(folders)
    return Lifecycle(catalog, repository, Loader(), Server()), catalog, repository


def reasons(catalog):
    return {entry.name: (entry.state, entry.reason) for entry in catalog}


def test_a_bug_on_one_model_does_not_take_the_others_along(life):
    lifecycle, catalog, _ = life
    lifecycle.start(None, 1, threading.Event())
    assert [name for name, (_, reason) in reasons(catalog).items() if reason == "no such thing"] == ["a", "c"]
    state, reason = reasons(catalog)["b"]
    assert (state, "this is a bug of the server's" in reason) == ("UNAVAILABLE", True)


def test_polling_goes_on(life, tmp_path):
    lifecycle, catalog, _ = life
    lifecycle.poll()
    assert set(reasons(catalog)) == {"a", "b", "c"}
    lifecycle.poll()


def test_a_repository_that_cannot_be_read_says_so_and_what_is_served_is_served_on(life, caplog):
    lifecycle, catalog, repository = life
    lifecycle.start(None, 1, threading.Event())
    before = reasons(catalog)
    repository.now = PermissionError("Permission denied")
    for call in (lifecycle.names, lambda: lifecycle.load("a", None, {})):
        with pytest.raises(Unavailable, match=r"cannot be read \(Permission denied\); check the folder"):
            call()
    with caplog.at_level(logging.ERROR):
        lifecycle.poll()
    assert "is served on" in caplog.text
    assert reasons(catalog) == before


def test_what_is_not_there_is_not_found(life):
    lifecycle, _, _ = life
    for call in (lambda: lifecycle.load("nothing", None, {}), lambda: lifecycle.unload("nothing")):
        with pytest.raises(NotFound, match="'nothing'"):
            call()


def test_a_model_is_unloading_until_its_last_request_is_answered(life, tmp_path):
    lifecycle, catalog, _ = life
    handle, closed = Handle(), threading.Event()
    backend = type("Backend", (), {"close": lambda _: closed.set()})()
    loaded = Loaded(*[None] * 2, backend, *[None] * 4, {}, (), 0.0)
    catalog.put(Entry("a", 1, "READY", loaded=loaded, handle=handle))
    lifecycle.unload("a")
    lifecycle.unload("a")  # asked again
    assert reasons(catalog)["a"] == ("UNLOADING", "")
    assert not closed.is_set()
    handle.done.set()
    assert closed.wait(10)
    for _ in range(1000):
        if reasons(catalog)["a"] == ("UNAVAILABLE", "unloaded"):
            break
        threading.Event().wait(0.01)
    assert reasons(catalog)["a"] == ("UNAVAILABLE", "unloaded")
