"""Fetching from a server that speaks the hub's protocol: commits, trees in pages, redirects to another
host."""

import hashlib
import json
import random

import pytest
from capstan_agent import download, errors

from tests.integration.agent.test_web import refused, version
from tests.integration.agent.webserver import Site

COMMIT = "0123456789abcdef" * 2 + "01234567"
WEIGHTS = random.Random(2).randbytes(200_000)
OID = hashlib.sha256(WEIGHTS).hexdigest()
API, PLAIN = "/api/models/acme/digits", "/acme/digits"


@pytest.fixture(autouse=True)
def hub(web, monkeypatch):
    """A repository of three files, the large one in the store for large files, its tree in two pages."""
    monkeypatch.setattr(download, "CHUNK", 32 << 10)
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    needs = ("Authorization", "Bearer hf_s3cr3t")

    def described(entries, **headers):
        return Site(json.dumps(entries).encode(), needs=needs, ranges=False, headers=headers)

    tree = f"{API}/tree/{COMMIT}?recursive=true"
    lfs = {"oid": OID, "size": len(WEIGHTS), "pointerSize": 134}
    web.sites |= {
        f"{API}/revision/main": described({"sha": COMMIT}),
        f"{API}/revision/refs%2Fpr%2F1": described({"sha": COMMIT}),
        tree: described(
            [
                {"type": "directory", "path": "onnx", "oid": "d"},
                {"type": "file", "path": "config.json", "size": 2, "oid": "c"},
            ],
            Link=f'<{web.url}{tree}&cursor=2>; rel="next"',
        ),
        f"{tree}&cursor=2": described(
            [
                {"type": "file", "path": "onnx/model.onnx", "size": len(WEIGHTS), "oid": "w", "lfs": lfs},
                {"type": "file", "path": "onnx/a b.txt", "size": 1, "oid": "t"},
            ]
        ),
        f"{PLAIN}/resolve/{COMMIT}/config.json": Site(b"{}", needs=needs),
        f"{PLAIN}/resolve/{COMMIT}/onnx/a%20b.txt": Site(b"t", needs=needs),
        f"{PLAIN}/resolve/{COMMIT}/onnx/model.onnx": Site(
            status=302,
            location=f"{web.other}/lfs/{OID}?X-Amz-Signature=x",
            needs=needs,
            headers={"X-Linked-Etag": f'"{OID}"', "X-Linked-Size": str(len(WEIGHTS))},
        ),
        f"/lfs/{OID}?X-Amz-Signature=x": Site(WEIGHTS),
    }
    return web


HOSTS = ("hf", "https://127.0.0.1")


@pytest.mark.parametrize("revision", ["", "@main", "@refs%2Fpr%2F1"])
def test_a_repository(hub, get, tmp_path, revision):
    _, output = get(f"hf://acme/digits{revision}", *HOSTS)
    assert (version(tmp_path) / "config.json").read_bytes() == b"{}"
    assert (version(tmp_path) / "onnx/model.onnx").read_bytes() == WEIGHTS
    assert (version(tmp_path) / "onnx/a b.txt").read_bytes() == b"t"
    assert output.bytes == len(WEIGHTS) + 3
    for path, headers in hub.seen:
        assert ("Authorization" in headers) is not path.startswith("/lfs/"), path


def test_a_description_that_breaks_off_is_asked_for_again(hub, get, tmp_path):
    tree = hub.sites[f"{API}/tree/{COMMIT}?recursive=true"]
    tree.drop_after, tree.drops = 20, 2
    get("hf://acme/digits", *HOSTS)
    assert (version(tmp_path) / "onnx/model.onnx").read_bytes() == WEIGHTS


def test_a_folder_and_a_file(hub, get, tmp_path):
    get("hf://acme/digits/onnx", *HOSTS, layout="data")
    assert sorted(entry.name for entry in (tmp_path / "target").iterdir()) == ["a b.txt", "model.onnx"]
    _, output = get("hf://acme/digits/onnx/model.onnx", *HOSTS, digest=f"sha256:{OID}")
    assert (version(tmp_path) / "model.onnx").read_bytes() == WEIGHTS
    assert output.digest == f"sha256:{OID}"


def test_a_data_set(hub, get, tmp_path):
    for path in [path for path in hub.sites if path.startswith(("/api", "/acme"))]:
        hub.sites[path.replace("/models/", "/datasets/") if "/api" in path else f"/datasets{path}"] = (
            hub.sites[path]
        )
    hub.sites[f"/api/datasets/acme/digits/tree/{COMMIT}?recursive=true"].headers.clear()
    get("hf://datasets/acme/digits", "hf://acme", *HOSTS[1:], layout="data")
    assert (tmp_path / "target/config.json").read_bytes() == b"{}"


def test_other_bytes_than_the_hub_names(hub, get):
    hub.sites[f"/lfs/{OID}?X-Amz-Signature=x"] = Site(WEIGHTS[::-1])
    refused(get, errors.DigestMismatch, "hf://acme/digits", *HOSTS)


def test_the_store_must_be_allowed(hub, get):
    refused(get, errors.SourceNotAllowed, "hf://acme/digits", "hf")
    refused(get, errors.SourceNotAllowed, "hf://acme/digits", "hf://other")


def test_what_is_missing(hub, get):
    sentence = refused(get, errors.ModelNotFound, "hf://acme/digits/none", *HOSTS)
    assert "holds config.json, onnx." in sentence
    refused(get, errors.ModelNotFound, "hf://acme/digits@none", *HOSTS)
    refused(get, errors.ModelNotFound, "hf://acme/none", *HOSTS)


def test_no_token(hub, get, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "gated" in refused(get, errors.PermissionDenied, "hf://acme/digits", *HOSTS)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\u0000"])
def test_a_tree_that_leads_out(hub, get, path):
    entries = [{"type": "file", "path": path, "size": 1, "oid": "x"}]
    hub.sites[f"{API}/tree/{COMMIT}?recursive=true"] = Site(json.dumps(entries).encode(), ranges=False)
    refused(get, errors.InvalidURI, "hf://acme/digits", *HOSTS)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"sha": "../.."}', b"[" * 100_000])
def test_what_is_no_hub(hub, get, body):
    hub.sites[f"{API}/revision/main"] = Site(body, ranges=False)
    refused(get, errors.SourceUnavailable, "hf://acme/digits", *HOSTS)


def test_a_listing_that_goes_on_elsewhere(hub, get):
    hub.sites[f"{API}/tree/{COMMIT}?recursive=true"].headers["Link"] = (
        '<https://169.254.169.254/>; rel="next"'
    )
    refused(get, errors.SourceUnavailable, "hf://acme/digits", *HOSTS)


@pytest.mark.parametrize(
    "uri",
    [
        "hf://acme",
        "hf://acme/",
        "hf://acme/..",
        "hf://acme/digits/../x",
        "hf://acme/digits@",
        "hf://a/b@c/d//e",
    ],
)
def test_bad_addresses(hub, get, uri):
    refused(get, errors.InvalidURI, uri)
