"""What a fetch does before the first byte, and after another one that was cut short."""

import tracemalloc
from pathlib import PurePosixPath

import pytest
from capstan_agent import download, errors
from capstan_agent.download import Wanted
from capstan_agent.fetch import Request, fetch
from capstan_agent.partial import Partial
from capstan_agent.progress import Progress
from capstan_agent.sources import SOURCES
from capstan_agent.sources.listing import File, Listing


def quiet(_line: str) -> None:
    """Nobody listens."""


def away(_start, _stop, _room):
    raise errors.SourceUnavailable("The server is away.")


def test_a_size_that_is_a_lie_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1 << 10)
    file = File(PurePosixPath("a"), 10**9, "a", away, "tag", ranges=True)
    tracemalloc.start()
    try:
        with pytest.raises(errors.SourceUnavailable):
            download.download([Wanted(file, tmp_path / "a")], Progress(file.size, quiet, lambda: 0.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.timeout(30)
def test_a_reader_that_ends_unforeseen_ends_the_download(tmp_path, monkeypatch):
    """And what had come before stays, to go on with."""
    monkeypatch.setattr(download, "CHUNK", 4)

    def read(start, _stop, _room):
        if start == 8:
            raise MemoryError("no room for a buffer")
        yield b"abcd"

    file = File(PurePosixPath("a"), 40, "a", read, "tag", ranges=True)
    with pytest.raises(MemoryError, match="no room for a buffer"):
        download.download([Wanted(file, tmp_path / "a")], Progress(40, quiet, lambda: 0.0))
    assert (tmp_path / "a").read_bytes() == b"abcdabcd"


@pytest.mark.timeout(30)
def test_a_digest_that_cannot_be_made_ends_the_download(tmp_path, monkeypatch):
    class Broken:
        def update(self, _data):
            raise MemoryError("no room for a digest")

    monkeypatch.setattr(download.hashlib, "sha256", Broken)
    file = File(PurePosixPath("a"), 4, "a", lambda *_: iter([b"abcd"]), "tag", ranges=True)
    with pytest.raises(MemoryError, match="no room for a digest"):
        download.download([Wanted(file, tmp_path / "a", hashed=True)], Progress(4, quiet, lambda: 0.0))


def test_what_finds_no_room_is_not_begun(tmp_path, monkeypatch):
    file = File(PurePosixPath(), 10**18, "s3://models/a.onnx", away)
    monkeypatch.setitem(SOURCES, "s3", lambda _uri, _places: Listing((file,), single=True, name="a.onnx"))
    with pytest.raises(errors.DiskFull, match="1,000,000,000,000,000,000 bytes"):
        fetch(Request("s3://models/a.onnx", tmp_path, tmp_path / "target", "m", "1"), quiet)
    assert not list((tmp_path / "target").rglob("*.partial"))


def test_what_an_archive_left_is_removed(tmp_path):
    """As a container that is killed while unpacking leaves it: each attempt would take more room."""
    file = File(PurePosixPath("kept/a"), 4, "a", away, "tag", ranges=True)
    found, partial = Listing((file,), single=False), Partial(tmp_path / "partial")
    partial.begin("s3://models/a", found)
    partial.path(file).parent.mkdir()
    partial.path(file).write_bytes(b"ab")
    for path in ("archive", "files/b/c/d", "files/kept/e"):
        (tmp_path / "partial" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "partial" / path).write_bytes(b"x")
    (tmp_path / "partial/other/empty").mkdir(parents=True)
    (tmp_path / "partial/files/link").symlink_to(tmp_path)
    partial.begin("s3://models/a", found)
    left = {str(path.relative_to(tmp_path / "partial")) for path in (tmp_path / "partial").rglob("*")}
    assert left == {"state.json", "files", "files/kept", "files/kept/a"}
    assert partial.have(file) == 2


@pytest.mark.parametrize("path", ["set", "set/.partial"], ids=["folder", "file"])
def test_data_that_is_named_as_what_is_not_complete(tmp_path, path):
    source, target = tmp_path / "claims/data/set", tmp_path / "target"
    source.mkdir(parents=True)
    (source / ".partial").write_bytes(b"p")
    (source / "a.csv").write_bytes(b"a")
    with pytest.raises(errors.InvalidURI, match=r"'\.partial'.*rename"):
        fetch(Request(f"pvc://data/{path}", tmp_path / "claims", target, layout="data"), quiet)
    assert not list(target.iterdir())
