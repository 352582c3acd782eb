"""Fetching over HTTPS from a server that redirects, breaks off, lies and changes its mind."""

import io
import random
import socket
import tarfile
import threading
import tracemalloc
import zipfile
from contextlib import suppress
from urllib.parse import quote

import pytest
from capstan_agent import download, errors
from capstan_demo.kube import until

from tests.integration.agent.webserver import Site, digest_of

DATA = random.Random(1).randbytes(300_000)
CHUNK = 32 << 10
CHUNKS = -(-len(DATA) // CHUNK)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(download, "CHUNK", CHUNK)


def version(tmp_path):
    return tmp_path / "target/m/1"


def left(tmp_path):
    """What of a model is in the partial folder."""
    return tmp_path / "target/m/.1.partial/files/file"


def refused(get, error, uri, *allow, **options) -> str:
    with pytest.raises(error) as raised:
        get(uri, *allow, **options)
    assert type(raised.value) is error
    until(lambda: not any(thread.name.startswith("reader-") for thread in threading.enumerate()), seconds=20)
    sentence = str(raised.value)
    assert sentence.isprintable()
    assert sentence.endswith((".", "?"))
    return sentence


def test_a_file_in_parallel_parts(web, get, tmp_path):
    web.sites["/models/a.onnx"] = Site(DATA)
    folder, output = get(f"{web.url}/models/a.onnx", digest=digest_of(DATA))
    assert folder == version(tmp_path)
    assert (folder / "model.onnx").read_bytes() == DATA
    assert (output.file, output.bytes, output.digest) == ("model.onnx", len(DATA), digest_of(DATA))
    asked = web.requests("/models/a.onnx")
    assert len(asked) == 1 + CHUNKS
    assert {headers["If-Match"] for headers in asked[1:]} == {'"one"'}
    assert [entry.name for entry in folder.parent.iterdir()] == ["1"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("drops", [0, 3], ids=["between-answers", "within-an-answer"])
def test_a_server_that_ends_tls_as_the_protocol_has_it(web, get, tmp_path, drops):
    web.sites["/a.onnx"] = Site(DATA, bye=True, drop_after=1000, drops=drops)
    get(f"{web.url}/a.onnx", digest=digest_of(DATA))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA


def test_what_came_before_a_reset_is_kept(web, get, tmp_path):
    """Whoever resets each connection before a chunk is whole is got ahead with all the same."""
    site = web.sites["/a.onnx"] = Site(DATA[:CHUNK], drop_after=CHUNK - 5000, drops=2, reset=True)
    get(f"{web.url}/a.onnx", digest=digest_of(site.body))
    assert (version(tmp_path) / "model.onnx").read_bytes() == site.body
    last = web.requests("/a.onnx")[-1].get("Range", "bytes=0-")
    assert int(last[6:].partition("-")[0]) > 0


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_every_size(web, get, tmp_path, size, ranges):
    web.sites["/a.onnx"] = Site(DATA[:size], ranges=ranges)
    get(f"{web.url}/a.onnx")
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA[:size]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("etag", ['"one"', None])
def test_connections_that_break_off(web, get, tmp_path, ranges, etag):
    """With parts that can be asked for, nothing is sent twice but what was lost on the way."""
    web.sites["/a.onnx"] = Site(DATA, ranges=ranges, etag=etag, drop_after=20_000, drops=5)
    get(f"{web.url}/a.onnx", digest=digest_of(DATA))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA
    if ranges and etag:
        assert web.sent <= len(DATA) + 1


def test_a_server_that_never_gets_further(web, get, tmp_path):
    web.sites["/a.onnx"] = Site(DATA, status=503, headers={"Retry-After": "0"})
    assert "HTTP 503" in refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")
    assert len(web.requests("/a.onnx")) == 1 + len(download.PAUSES)


def test_an_attempt_goes_on_where_the_last_one_ended(web, get, tmp_path):
    """As a restarted init container does: one process gives up, the next one finds its partial file."""
    site = web.sites["/a.onnx"] = Site(DATA, drop_after=0, drops=0)

    def then_away(_path):
        if len(web.requests("/a.onnx")) > 6:
            site.status = 503

    web.on_request = then_away
    refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")
    had = left(tmp_path).stat().st_size
    assert 0 < had < len(DATA)
    assert left(tmp_path).read_bytes() == DATA[:had]
    site.status, web.on_request, web.sent = 200, lambda _path: None, 0
    get(f"{web.url}/a.onnx", digest=digest_of(DATA))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA
    assert web.sent == 1 + len(DATA) - had


def test_what_another_version_left_is_not_gone_on_with(web, get, tmp_path):
    site = web.sites["/a.onnx"] = Site(DATA, drop_after=0)

    def then_away(_path):
        if len(web.requests("/a.onnx")) > 6:
            site.status = 503

    web.on_request = then_away
    refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")
    assert left(tmp_path).exists()
    web.on_request = lambda _path: None
    web.sites["/a.onnx"] = Site(DATA[::-1], etag='"two"')
    get(f"{web.url}/a.onnx")
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA[::-1]


@pytest.mark.parametrize(
    "change",
    [
        Site(DATA[::-1], etag='"two"'),  # refuses If-Match
        Site(DATA[::-1], etag='"two"', deaf=True),
        Site(DATA[::-1], etag=None, headers={"Last-Modified": "yesterday"}),
        Site(DATA + b"more", etag='"one"'),  # the tag stays, the size does not
        Site(DATA, ranges=False, etag='"two"'),
    ],
    ids=["etag", "etag, If-Match unknown", "no etag", "size", "no ranges any more"],
)
def test_a_file_that_changes_while_it_is_fetched(web, get, tmp_path, change):
    web.sites["/a.onnx"] = Site(DATA)

    def replaced(_path):
        if len(web.requests("/a.onnx")) == 5:
            web.sites["/a.onnx"] = change

    web.on_request = replaced
    assert "changed while" in refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")
    assert not version(tmp_path).exists()
    get(f"{web.url}/a.onnx")
    assert (version(tmp_path) / "model.onnx").read_bytes() == change.body


def dated(body, modified, now="Sat, 21 Nov 2026 12:00:05 GMT", **options):
    headers = {"Last-Modified": f"Sat, 21 Nov 2026 {modified} GMT", "Date": now}
    return Site(body, etag=None, headers=headers, **options)


def test_what_is_known_by_its_time_alone(web, get, tmp_path):
    web.sites["/a.onnx"] = dated(DATA, "12:00:00")
    get(f"{web.url}/a.onnx", digest=digest_of(DATA))
    asked = web.requests("/a.onnx")
    assert len(asked) == 1 + CHUNKS
    assert not any("If-Unmodified-Since" in headers for headers in asked), "some refuse what they told"


@pytest.mark.parametrize("deaf", [True, False])
def test_a_file_of_another_time(web, get, tmp_path, deaf):
    web.sites["/a.onnx"] = dated(DATA, "12:00:00")

    def replaced(_path):
        if len(web.requests("/a.onnx")) == 5:
            web.sites["/a.onnx"] = dated(DATA[::-1], "12:00:03", deaf=deaf)

    web.on_request = replaced
    assert "changed while" in refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")


@pytest.mark.parametrize("now", ["Sat, 21 Nov 2026 12:00:05 GMT", "now", "Sat, 21 Nov 2026 12:00:04 -0000"])
def test_two_versions_of_one_second(web, get, tmp_path, now):
    """A time that is this young is no name for a version: what breaks off begins anew."""
    web.sites["/a.onnx"] = dated(DATA, "12:00:04", now, drop_after=150_000, drops=1, deaf=True)

    def replaced(_path):
        if len(web.requests("/a.onnx")) == 3:
            web.sites["/a.onnx"] = dated(DATA[::-1], "12:00:04", now)

    web.on_request = replaced
    get(f"{web.url}/a.onnx")
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA[::-1]


def test_a_length_that_is_a_lie(web, get, tmp_path):
    web.sites["/a.onnx"] = Site(DATA, ranges=False, length=len(DATA) + 1000)
    assert "bytes early" in refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")
    assert not version(tmp_path).exists()


def test_a_part_of_another_place(web, get):
    web.sites["/a.onnx"] = Site(DATA, headers={})
    web.on_request = lambda path: (
        web.sites["/a.onnx"].headers.update({"Content-Range": f"bytes 7-9/{len(DATA)}"})
        if len(web.requests(path)) > 1
        else None
    )
    refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")


def test_no_length_at_all(web, get):
    web.sites["/a.onnx"] = Site(DATA, ranges=False, length=-1)
    assert "how large" in refused(get, errors.InvalidURI, f"{web.url}/a.onnx")


def test_a_digest_that_is_not_the_files(web, get, tmp_path):
    web.sites["/a.onnx"] = Site(DATA)
    refused(get, errors.DigestMismatch, f"{web.url}/a.onnx", digest="sha256:" + "0" * 64)
    assert not list((tmp_path / "target/m").iterdir())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, errors.PermissionDenied),
        (403, errors.PermissionDenied),
        (404, errors.ModelNotFound),
        (410, errors.ModelNotFound),
        (418, errors.SourceUnavailable),
        (500, errors.SourceUnavailable),
    ],
)
def test_what_answers_mean(web, get, status, error):
    web.sites["/a.onnx?signature=secret"] = Site(status=status)
    assert f"HTTP {status}" in refused(get, error, f"{web.url}/a.onnx?signature=secret")


def test_secrets_go_to_their_host_alone_and_into_no_message(web, get, monkeypatch, tmp_path):
    monkeypatch.setenv("CAPSTAN_HTTP_TOKEN", "s3cr3t")
    monkeypatch.setenv("CAPSTAN_HTTP_HEADER", "X-Key: k3y")
    web.sites["/a.onnx"] = Site(
        status=302, location=f"{web.other}/b.onnx?sig=x", needs=("Authorization", "Bearer s3cr3t")
    )
    web.sites["/b.onnx?sig=x"] = Site(DATA)
    lines = []
    get(f"{web.url}/a.onnx", say=lines.append)
    assert {headers["X-Key"] for headers in web.requests("/a.onnx")} == {"k3y"}
    for headers in web.requests("/b.onnx?sig=x"):
        assert "Authorization" not in headers
        assert "X-Key" not in headers
    web.sites["/b.onnx?sig=x"] = Site(status=500)
    lines.append(refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx?sig=x"[:-6]))
    assert not any(secret in line for line in lines for secret in ("s3cr3t", "k3y", "sig="))


def test_a_password_in_the_address_is_not_repeated(get):
    sentence = refused(get, errors.InvalidURI, "https://me:s3cr3t@localhost/a.onnx")
    assert "s3cr3t" not in sentence


def test_a_redirect_that_expires_is_asked_for_again(web, get, tmp_path):
    web.sites["/a.onnx"] = Site(status=302, location=f"{web.other}/1")
    web.sites["/1"] = web.sites["/2"] = Site(DATA)

    def expired(_path):
        if len(web.requests("/1")) == 4:
            web.sites["/1"] = Site(status=403)
            web.sites["/a.onnx"] = Site(status=302, location=f"{web.other}/2")

    web.on_request = expired
    get(f"{web.url}/a.onnx", digest=digest_of(DATA))
    assert web.requests("/2")


@pytest.mark.parametrize("sent", ["utf-8", "latin-1"])
def test_a_redirect_to_a_path_that_is_not_quoted(web, get, sent):
    path = "/modèle%20a.onnx".encode(sent)
    web.sites["/a.onnx"] = Site(status=302, location=path.decode("latin-1"))
    web.sites[quote(path, safe="/%")] = Site(DATA)
    get(f"{web.url}/a.onnx", digest=digest_of(DATA))


def test_an_address_that_is_not_quoted(web, get):
    web.sites["/mod%C3%A8le.onnx?of=%C3%A9"] = Site(DATA)
    get(f"{web.url}/modèle.onnx?of=é", digest=digest_of(DATA))


@pytest.mark.parametrize("name", ["CAPSTAN_HTTP_TOKEN", "CAPSTAN_HTTP_HEADER", "HF_TOKEN"])
def test_a_secret_that_no_header_can_hold(web, get, monkeypatch, name):
    monkeypatch.setenv(name, "X-Key: “s3cr3t”")
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    uri = "hf://acme/digits" if name == "HF_TOKEN" else f"{web.url}/a.onnx"
    sentence = refused(get, errors.InvalidURI, uri)
    assert name in sentence
    assert "s3cr3t" not in sentence


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("http://localhost/b.onnx", errors.SourceUnavailable),
        ("file:///etc/passwd", errors.SourceUnavailable),
        ("https://169.254.169.254/latest/meta-data/", errors.SourceNotAllowed),
        ("https://example.invalid/", errors.SourceNotAllowed),
        ("/a.onnx", errors.SourceUnavailable),  # a circle
        ("https://[", errors.SourceUnavailable),
    ],
)
def test_redirects_lead_nowhere_else(web, get, location, error):
    web.sites["/a.onnx"] = Site(status=302, location=location)
    refused(get, error, f"{web.url}/a.onnx")


def test_the_default_list_has_the_world_but_not_this_machine(web, get, monkeypatch):
    web.sites["/a.onnx"] = Site(DATA)
    for uri in (f"{web.url}/a.onnx", f"{web.other}/a.onnx", f"https://2130706433:{web.port}/a.onnx"):
        assert "127.0.0.1" in refused(get, errors.SourceNotAllowed, uri, "https")
    for host in (
        "169.254.169.254",
        "[::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "0.0.0.0",
    ):
        refused(get, errors.SourceNotAllowed, f"https://{host}/latest", "https")
    assert web.seen == []


def test_http_only_where_the_list_has_it(web, get):
    refused(get, errors.SourceNotAllowed, "http://localhost/a.onnx", "https://localhost")


def test_a_certificate_that_nobody_vouches_for(web, get, monkeypatch, tmp_path):
    (tmp_path / "empty.pem").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    assert "SSL_CERT_FILE" in refused(get, errors.SourceUnavailable, f"{web.url}/a.onnx")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_keeps_no_connection(web, get, tmp_path, ranges):
    web.sites["/a.onnx"] = Site(DATA, ranges=ranges, headers={"Connection": "close"})
    get(f"{web.url}/a.onnx", digest=digest_of(DATA))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_speaks_no_tls(get, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def plain():
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(answer)

        thread = threading.Thread(target=plain)
        thread.start()
        uri = f"https://localhost:{server.getsockname()[1]}/a.onnx"
        try:
            assert "TLS with https://localhost" in refused(get, errors.SourceUnavailable, uri)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(20)


def test_a_certificate_of_another_host(web, get, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **o: real("127.0.0.1", *a, **o))
    uri = f"https://models.example:{web.port}/a.onnx"
    sentence = refused(get, errors.SourceUnavailable, uri, "https://models.example")
    assert "is not trusted" in sentence
    assert web.seen == []


def test_a_host_that_is_not_there(get):
    sentence = refused(get, errors.SourceUnavailable, "https://no-such-host.invalid/a.onnx", "https")
    assert "no address" in sentence


@pytest.mark.parametrize(
    "path", ["/", "/models/", "/a/..", "/%2e%2e", "/a%2fb%00", "/a%5cb", "/" + "x" * 300]
)
def test_names_that_are_none(web, get, path):
    refused(get, errors.InvalidURI, f"{web.url}{path}")


def test_memory_stays_bounded(web, get, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1 << 20)
    web.sites["/a.onnx"] = Site(bytes(48 << 20))
    tracemalloc.start()
    try:
        get(f"{web.url}/a.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * (download.READERS + 1) * (1 << 20), "the server's slices are counted too"


def packed(kind, names):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in names.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind != "tar" else "w") as archive:
            for name, data in names.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "zip"])
def test_an_archive_becomes_the_version(web, get, tmp_path, kind):
    body = packed(kind, {"model.onnx": DATA, "weights/w.bin": b"w"})
    web.sites[f"/a.{kind}"] = Site(body)
    _, output = get(f"{web.url}/a.{kind}", digest=digest_of(body))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA
    assert (version(tmp_path) / "weights/w.bin").read_bytes() == b"w"
    assert (output.bytes, output.digest) == (len(DATA) + 1, digest_of(body))
    assert sorted(path.name for path in version(tmp_path).iterdir()) == ["model.onnx", "weights"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_an_archive_that_leads_out(web, get, tmp_path, name):
    web.sites["/a.tgz"] = Site(packed("tgz", {"model.onnx": b"m", name: b"evil"}))
    refused(get, errors.UnsafeArchive, f"{web.url}/a.tgz")
    assert not list(tmp_path.rglob("evil"))
    assert not list((tmp_path / "target/m").iterdir())


def test_data_is_laid_out_as_it_is(web, get, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_bytes(b"stays")
    (target / "train.csv").write_bytes(b"old")
    web.sites["/data/train.csv?x=1"] = Site(DATA)
    folder, output = get(f"{web.url}/data/train.csv?x=1", layout="data", digest=digest_of(DATA))
    assert folder == target
    assert (target / "train.csv").read_bytes() == DATA
    assert (output.file, output.bytes) == ("train.csv", len(DATA))
    web.sites["/set.zip"] = Site(packed("zip", {"a/b.txt": b"b", "c.txt": b"c"}))
    get(f"{web.url}/set.zip", layout="data")
    assert sorted(entry.name for entry in target.iterdir()) == ["a", "c.txt", "mine", "train.csv"]
    assert (target / "a/b.txt").read_bytes() == b"b"
