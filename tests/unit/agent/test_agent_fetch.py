"""Fetching models from claims: what is laid out, what is refused, and what the user is told."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from capstan_agent import __main__ as cli
from capstan_agent import errors
from capstan_agent.allow import Allow
from capstan_agent.fetch import Request, fetch
from capstan_agent.progress import Progress
from capstan_agent.sources import SOURCES

WEIGHTS = b"weights" * 1000
DIGEST = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claims" / "models"
    (folder / "digits").mkdir(parents=True)
    (folder / "digits" / "model.onnx").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[[str], Request]:
    return lambda uri: Request(uri, tmp_path / "claims", tmp_path / "repository", "digits", "1")


def quiet(_line: str) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("path", ["digits/model.onnx", "digits"], ids=["file", "folder"])
def test_the_machines_own_files_where_the_list_has_them(claim, request_for, path):
    request = replace(request_for(f"file://{claim}/{path}"), allow=Allow.parsed(["file"]))
    folder, output = fetch(request, quiet)
    assert (folder / "model.onnx").read_bytes() == WEIGHTS
    assert output.bytes == len(WEIGHTS)
    assert output.digest == (DIGEST if path.endswith(".onnx") else None)
    with pytest.raises(errors.SourceNotAllowed):
        fetch(replace(request, allow=Allow()), quiet)


def version(tmp_path: Path) -> Path:
    return tmp_path / "repository" / "digits" / "1"


def test_a_file(claim, request_for, tmp_path):
    lines: list[str] = []
    request = replace(request_for("pvc://models/digits/model.onnx"), digest=DIGEST)
    folder, output = fetch(request, lines.append)
    assert folder == version(tmp_path)
    assert (folder / "model.onnx").read_bytes() == WEIGHTS
    assert (output.file, output.bytes, output.digest) == ("model.onnx", len(WEIGHTS), DIGEST)
    assert lines[0] == "fetching pvc://models/digits/model.onnx: 1 file(s), 6.8 KiB"
    assert "complete" in lines[-1]
    assert [entry.name for entry in folder.parent.iterdir()] == ["1"]


def test_a_file_of_another_name_becomes_the_model(claim, request_for, tmp_path):
    (claim / "v7.onnx").write_bytes(b"7")
    fetch(request_for("pvc://models/v7.onnx"), quiet)
    assert (version(tmp_path) / "model.onnx").read_bytes() == b"7"


@pytest.mark.parametrize("uri", ["pvc://models/digits", "pvc://models/digits/"])
def test_a_folder(claim, request_for, tmp_path, uri):
    (claim / "digits" / "data").mkdir()
    (claim / "digits" / "data" / "weights.bin").write_bytes(b"w")
    _, output = fetch(request_for(uri), quiet)
    assert (version(tmp_path) / "model.onnx").read_bytes() == WEIGHTS
    assert (version(tmp_path) / "data" / "weights.bin").read_bytes() == b"w"
    assert (output.bytes, output.digest) == (len(WEIGHTS) + 1, None)


def test_links_inside_the_claim_are_followed(claim, request_for, tmp_path):
    (claim / "latest").symlink_to("digits")
    (claim / "digits" / "shared.bin").symlink_to(claim / "digits" / "model.onnx")
    fetch(request_for("pvc://models/latest"), quiet)
    assert not (version(tmp_path) / "shared.bin").is_symlink()
    assert (version(tmp_path) / "shared.bin").read_bytes() == WEIGHTS


def test_fetching_again_replaces(claim, request_for, tmp_path):
    fetch(request_for("pvc://models/digits"), quiet)
    (claim / "digits" / "model.onnx").write_bytes(b"new")
    partial = version(tmp_path).with_name(".1.partial")  # as a killed container leaves it
    (partial / "x").mkdir(parents=True)
    fetch(request_for("pvc://models/digits/model.onnx"), quiet)
    assert (version(tmp_path) / "model.onnx").read_bytes() == b"new"
    assert not partial.exists()


def refused(request: Request, error: type[errors.AgentError]) -> str:
    with pytest.raises(error) as raised:
        fetch(request, quiet)
    assert not (request.target / request.model / request.version).exists()
    assert list(request.target.rglob("*.partial")) == []
    return str(raised.value)


def test_a_missing_model_is_answered_with_what_is_there(claim, request_for):
    (claim / "digits" / "logs").mkdir()
    sentence = refused(request_for("pvc://models/digits/none"), errors.ModelNotFound)
    assert (
        sentence == "pvc://models/digits/none does not exist: pvc://models/digits/ holds logs/, model.onnx."
    )
    sentence = refused(request_for("pvc://models/no/such"), errors.ModelNotFound)
    assert sentence.endswith("pvc://models/ holds digits/.")


def test_a_long_listing_is_cut(claim, request_for):
    for number in range(30):
        (claim / f"m{number:02}").write_bytes(b"")
    assert "and 11 more." in refused(request_for("pvc://models/none"), errors.ModelNotFound)


def test_an_empty_folder_and_a_path_through_a_file(claim, request_for):
    (claim / "empty").mkdir()
    assert "empty folder" in refused(request_for("pvc://models/empty"), errors.ModelNotFound)
    sentence = refused(request_for("pvc://models/digits/model.onnx/deeper"), errors.ModelNotFound)
    assert "through a file" in sentence


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "models/digits",
        "pvc:/models/digits",
        "pvc://",
        "pvc:///digits",
        "pvc://Models/digits",
        "pvc://../secrets",
        "pvc://a..b/x",
        "pvc://models/../other/model.onnx",
        "pvc://models/digits/../../other",
        "pvc://models//etc/passwd",
        "pvc://models/./digits",
        "pvc://models/a\nb",
        "pvc://models/a\x00b",
        "pvc://models/a\x1b[31m",
        "ftp://host/model.onnx",
    ],
)
def test_bad_addresses(claim, request_for, uri):
    sentence = refused(request_for(uri), errors.InvalidURI)
    assert sentence.isprintable()
    assert "pvc://" in sentence or "plain path" in sentence


def test_percent_signs_mean_themselves(claim, request_for):
    refused(request_for("pvc://models/%2e%2e/secret"), errors.ModelNotFound)


@pytest.mark.parametrize("link", ["/etc", "../../outside", "../other"])
def test_links_out_of_the_claim_are_refused(claim, request_for, tmp_path, link):
    (tmp_path / "outside").mkdir()
    (tmp_path / "claims" / "other").mkdir()
    for folder in (tmp_path / "outside", tmp_path / "claims" / "other"):
        (folder / "hostname").write_bytes(b"secret")
    (claim / "out").symlink_to(link)
    for uri in ("pvc://models/out/hostname", "pvc://models/out", "pvc://models"):
        assert "leads out of its claim" in refused(request_for(uri), errors.InvalidURI)


def test_the_listing_of_what_is_there_does_not_lead_out_either(claim, request_for, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"")
    (claim / "out").symlink_to("../../outside")
    assert "secret" not in refused(request_for("pvc://models/out/none"), errors.ModelNotFound)


def test_circles_of_links(claim, request_for):
    (claim / "a").symlink_to("b")
    (claim / "b").symlink_to("a")
    refused(request_for("pvc://models/a"), errors.InvalidURI)
    (claim / "digits" / "up").symlink_to("../digits")
    assert "folder above it" in refused(request_for("pvc://models/digits"), errors.InvalidURI)


def test_a_folder_that_becomes_a_link_after_it_was_listed(claim, request_for, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.onnx").write_bytes(b"secret!" * 1000)
    real = SOURCES["pvc"]

    def swapped(address, places):
        found = real(address, places)
        (claim / "digits").rename(claim / "moved")
        (claim / "digits").symlink_to(outside)
        return found

    monkeypatch.setattr("capstan_agent.sources.SOURCES", {"pvc": swapped})
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    assert "disappeared" in refused(request_for("pvc://models/digits/model.onnx"), errors.ModelNotFound)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    assert not version(tmp_path).exists()


def test_links_that_multiply(claim, request_for, monkeypatch):
    monkeypatch.setattr("capstan_agent.sources.pvc._ENTRIES", 1000)
    for level in range(30):
        (claim / "levels" / str(level)).mkdir(parents=True)
        for name in "ab":
            (claim / "levels" / str(level) / name).symlink_to(f"../{level + 1}")
    (claim / "levels" / "30").mkdir()
    (claim / "levels" / "30" / "model.onnx").write_bytes(WEIGHTS)
    sentence = refused(request_for("pvc://models/levels/0"), errors.InvalidURI)
    assert sentence.startswith("pvc://models/levels/0 has more than 1,000 files and folders")


def test_pipes_and_devices_are_refused_and_not_waited_for(claim, request_for):
    os.mkfifo(claim / "pipe")
    assert "neither a file nor a folder" in refused(request_for("pvc://models/pipe"), errors.InvalidURI)


def test_a_claim_that_is_not_mounted(claim, request_for):
    assert "not mounted" in refused(request_for("pvc://data/digits"), errors.SourceUnavailable)


def test_other_bytes_than_named(claim, request_for):
    request = replace(request_for("pvc://models/digits/model.onnx"), digest="sha256:" + "0" * 64)
    sentence = refused(request, errors.DigestMismatch)
    assert DIGEST in sentence
    assert "0" * 64 in sentence


def test_a_digest_of_a_folder(claim, request_for):
    assert "folder" in refused(replace(request_for("pvc://models/digits"), digest=DIGEST), errors.InvalidURI)


@pytest.mark.parametrize(
    "bad",
    [
        {"model": "../x"},
        {"model": "a/b"},
        {"model": ""},
        {"model": "a..b"},
        {"version": "0"},
        {"version": "1/.."},
        {"version": "latest"},
        {"digest": "md5:00"},
        {"digest": "sha256:ABC"},
    ],
)
def test_bad_names(claim, request_for, bad):
    with pytest.raises(errors.UsageError):
        fetch(replace(request_for("pvc://models/digits"), **bad), quiet)


def test_a_file_that_changes_while_it_is_read(claim, request_for, monkeypatch):
    real = SOURCES["pvc"]

    def grows(address, places):
        found = real(address, places)
        (claim / "digits" / "model.onnx").write_bytes(WEIGHTS + b"more")
        return found

    monkeypatch.setattr("capstan_agent.sources.SOURCES", {"pvc": grows})
    assert "changed while" in refused(request_for("pvc://models/digits/model.onnx"), errors.SourceUnavailable)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EACCES, errors.PermissionDenied),
        (errno.EIO, errors.SourceUnavailable),
        (errno.ESTALE, errors.SourceUnavailable),
        (errno.ENOENT, errors.ModelNotFound),
        (errno.ELOOP, errors.InvalidURI),
        (errno.ENAMETOOLONG, errors.InvalidURI),
    ],
)
def test_what_reading_errors_mean(number, error):
    assert type(errors.source_error(OSError(number, os.strerror(number)), "pvc://x/y")) is error


def agent(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "capstan_agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def fetching(tmp_path: Path, uri: str) -> list[str | Path]:
    places = ("--target", tmp_path / "repository", "--claims", tmp_path / "claims")
    what = ("--uri", uri, "--model", "digits", "--version", "1")
    return ["fetch", *what, *places, "--termination-log", tmp_path / "message"]


def test_a_full_disk(claim, tmp_path):
    """On a real file system of 1 MiB, mounted in a mount namespace of the test's own."""
    (claim / "big").write_bytes(bytes(3 << 20))
    (tmp_path / "repository").mkdir()
    mount = f'mount -t tmpfs -o size=1m none {tmp_path}/repository && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount, "sh")
    done = agent(*fetching(tmp_path, "pvc://models/big"), prefix=prefix)
    assert done.returncode == 1
    message = json.loads((tmp_path / "message").read_text())
    assert (message["class"], message["reason"]) == ("infrastructure", "DiskFull")
    assert "3,145,728 bytes" in message["message"]


def test_a_model_that_may_not_be_read(claim, tmp_path):
    (claim / "digits" / "model.onnx").chmod(0)
    arguments = fetching(tmp_path, "pvc://models/digits/model.onnx")
    plain_root = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    done = agent(*arguments, prefix=plain_root)
    assert done.returncode == 1, done.stderr
    message = json.loads((tmp_path / "message").read_text())
    assert (message["class"], message["reason"]) == ("user", "PermissionDenied")
    assert "fsGroup" in message["message"]


def test_success_is_told(claim, tmp_path):
    done = agent(*fetching(tmp_path, "pvc://models/digits/model.onnx"), "--digest", DIGEST)
    assert (done.returncode, done.stderr) == (0, "")
    message = json.loads((tmp_path / "message").read_text())
    assert (message["class"], message["reason"]) == ("ok", "Fetched")
    assert message["output"] == {"file": "model.onnx", "bytes": len(WEIGHTS), "digest": DIGEST}


def test_a_stop_leaves_nothing_half_done(claim, tmp_path, monkeypatch):
    def stopped(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not obeyed")

    monkeypatch.setattr("capstan_agent.fetch.download", stopped)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in fetching(tmp_path, "pvc://models/digits")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 143
    assert list((tmp_path / "repository" / "digits").iterdir()) == []


def test_a_bug_is_not_blamed_on_the_user(claim, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("capstan_agent.fetch.fetch", lambda *_: 1 / 0)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main([str(word) for word in fetching(tmp_path, "pvc://models/digits")]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    message = json.loads((tmp_path / "message").read_text())
    assert (message["class"], message["reason"]) == ("infrastructure", "AgentFailed")
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_progress_is_said_now_and_then():
    now = 0.0
    lines: list[str] = []
    progress = Progress(100 << 20, lines.append, lambda: now)
    for _ in range(8):
        now += 1
        progress.add(10 << 20)
    progress.done("all")
    assert lines == ["50.0 MiB of 100.0 MiB (50%), 10.0 MiB/s", "all: 80.0 MiB in 8.0 s, 10.0 MiB/s"]


@pytest.mark.parametrize("verb", [(), ("fetch",), ("run",), ("install",)])
def test_help_helps(verb):
    done = agent(*verb, "--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 5
