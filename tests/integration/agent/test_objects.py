"""Fetching from real object stores: versitygw for S3, fake-gcs-server for Google Cloud Storage, Azurite."""

import base64
import os
import random
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import obstore
import pytest
from capstan_agent import download, errors
from capstan_agent.remote.client import Response
from capstan_agent.remote.signed import Signed
from capstan_agent.sources.listing import Interrupted
from capstan_cluster.build import Builder, module_of
from capstan_demo.kube import until
from obstore.store import AzureStore, S3Store

from tests.integration.agent import azure
from tests.integration.agent.test_web import packed, refused, version
from tests.integration.agent.webserver import digest_of

pytestmark = pytest.mark.tools

DATA = random.Random(3).randbytes(300_000)
USER, PASSWORD = "tester", "s3cr3t-s3cr3t"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 32 << 10)


def listening(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def built(program: str) -> Path:
    builder = Builder()
    builder.build((module_of(program),), print)
    return builder.path(program)


def serving(tmp_path_factory, *command: str | Path, port: int, **env: str) -> Iterator[int]:
    """Runs a server until the tests are over."""
    log = (tmp_path_factory.mktemp("server") / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | env)
    try:
        until(lambda: listening(port) or process.poll() is not None, seconds=60)
        assert process.poll() is None, Path(log.name).read_text()
        yield port
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory, authority) -> Iterator[int]:
    """An S3 gateway with TLS."""
    port, root = free_port(), tmp_path_factory.mktemp("s3")
    options = ("--port", f"127.0.0.1:{port}", "--access", USER, "--secret", PASSWORD, "--quiet")
    tls = ("--cert", authority.with_name("server.pem"), "--key", authority.with_name("server.key"))
    sidecar = tmp_path_factory.mktemp("s3-meta")
    (root / "models").mkdir()
    backend = ("posix", "--sidecar", sidecar, root)
    yield from serving(tmp_path_factory, built("versitygw"), *options, *tls, *backend, port=port)


@pytest.fixture
def s3(s3_port, monkeypatch) -> "Put":
    """A bucket with a folder of models, and the environment that a Secret gives a pod."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{s3_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    store = S3Store("models")
    return filled(lambda key, data: obstore.put(store, key, data))


@pytest.fixture(scope="session")
def gcs_port(tmp_path_factory) -> Iterator[int]:
    port = free_port()
    options = ("-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory")
    options += ("-public-host", f"127.0.0.1:{port}")
    yield from serving(tmp_path_factory, built("fake-gcs-server"), *options, port=port)


@pytest.fixture
def gs(gcs_port, monkeypatch) -> "Put":
    """The same at Google's: no credentials, so everything is asked for as anybody."""
    monkeypatch.setenv("GOOGLE_BASE_URL", f"http://127.0.0.1:{gcs_port}")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1")

    def post(path: str, body: bytes, kind: str) -> None:
        url = f"http://127.0.0.1:{gcs_port}{path}"
        request = urllib.request.Request(url, body, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=30):
            pass

    with suppress(urllib.error.HTTPError):  # it may be there from the test before
        post("/storage/v1/b?project=p", b'{"name": "models"}', "application/json")
    upload = "/upload/storage/v1/b/models/o?uploadType=media&name="
    return filled(lambda key, data: post(upload + quote(key, safe=""), data, "application/octet-stream"))


@pytest.fixture(scope="session")
def azure_port(tmp_path_factory, authority) -> Iterator[int]:
    """Azure's emulator with TLS, and an account of ours."""
    port = free_port()
    options = (
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
        "--location",
        tmp_path_factory.mktemp("az"),
    )
    options += ("--cert", authority.with_name("server.pem"), "--key", authority.with_name("server.key"))
    options += ("--silent", "--disableTelemetry")
    command = (azure.NODE, azure.installed(), *options)
    account = f"{azure.ACCOUNT}:{azure.KEY}"
    yield from serving(tmp_path_factory, *command, port=port, AZURITE_ACCOUNTS=account)


@pytest.fixture
def az(azure_port, authority, monkeypatch) -> "Put":
    """The same at Azure's."""
    endpoint = f"https://localhost:{azure_port}/{azure.ACCOUNT}"
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure.ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure.KEY)
    with suppress(urllib.error.HTTPError):  # it may be there from the test before
        azure.create_container(endpoint, "models")
    store = AzureStore("models")
    return filled(lambda key, data: obstore.put(store, key, data))


Put = Callable[[str, bytes], object]


def filled(put: Put) -> Put:
    put("digits/1/model.onnx", DATA)
    put("digits/1/data/weights.bin", b"w")
    put("digits/1/ä b%.txt", b"t")
    put("digits.tgz", packed("tgz", {"model.onnx": b"m"}))
    return put


@pytest.fixture(params=["s3", "gs", "az"])
def store(request):
    return request.param, request.getfixturevalue(request.param)


def test_an_object(store, get, tmp_path):
    scheme, _ = store
    _, output = get(f"{scheme}://models/digits/1/model.onnx", digest=digest_of(DATA))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA
    assert output.digest == digest_of(DATA)


def test_a_prefix(store, get, tmp_path):
    scheme, _ = store
    for uri in (f"{scheme}://models/digits/1", f"{scheme}://models/digits/1/"):
        _, output = get(uri)
        assert (version(tmp_path) / "model.onnx").read_bytes() == DATA
        assert (version(tmp_path) / "data/weights.bin").read_bytes() == b"w"
        assert (version(tmp_path) / "ä b%.txt").read_bytes() == b"t"
        assert output.bytes == len(DATA) + 2
        shutil.rmtree(tmp_path / "target")


def test_an_archive_as_data(store, get, tmp_path):
    scheme, _ = store
    get(f"{scheme}://models/digits.tgz", layout="data")
    assert (tmp_path / "target/model.onnx").read_bytes() == b"m"


def test_what_is_not_there(store, get):
    scheme, _ = store
    sentence = refused(get, errors.ModelNotFound, f"{scheme}://models/digits/2")
    assert f"{scheme}://models/digits/ holds 1/." in sentence
    assert "does not exist" in refused(get, errors.ModelNotFound, f"{scheme}://models/none.onnx")


def test_a_bucket_that_is_not_there(s3, get):
    sentence = refused(get, errors.ModelNotFound, "s3://no-such-bucket/digits")
    assert sentence.startswith("s3://no-such-bucket does not exist")


@pytest.fixture
def parts(store, monkeypatch) -> list[Callable[[int], object]]:
    """Whom every question for a part of an object is told first, with the part's offset."""
    told: list[Callable[[int], object]] = []

    def watched(real, offset):
        def asked(*arguments, **options):
            for tell in told:
                tell(offset(*arguments, **options))
            return real(*arguments, **options)

        return asked

    whole = watched(obstore.get, lambda *_, options: options["range"][0])
    part = watched(Signed.part, lambda _self, _key, _tag, start, *_: start)
    monkeypatch.setattr(*(Signed, "part", part) if store[0] != "gs" else (obstore, "get", whole))
    return told


def test_an_object_that_changes_while_it_is_fetched(store, parts, get, tmp_path):
    scheme, put = store
    asked = []

    def replace(offset):
        asked.append(offset)
        if len(asked) == 3:
            put("digits/1/model.onnx", DATA[::-1])

    parts.append(replace)
    assert "changed while" in refused(get, errors.SourceUnavailable, f"{scheme}://models/digits/1/model.onnx")
    parts.clear()
    get(f"{scheme}://models/digits/1/model.onnx")
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA[::-1]


def test_an_attempt_goes_on_where_the_last_one_ended(store, parts, get, tmp_path):
    scheme, _ = store
    offsets = []

    def away(offset):
        offsets.append(offset)
        if len(offsets) > 4:
            raise obstore.exceptions.GenericError("connection reset")

    parts.append(away)
    refused(get, errors.SourceUnavailable, f"{scheme}://models/digits/1/model.onnx")
    had = (tmp_path / "target/m/.1.partial/files/file").stat().st_size
    assert had >= 32 << 10
    offsets.clear()
    parts[:] = [offsets.append]
    get(f"{scheme}://models/digits/1/model.onnx", digest=digest_of(DATA))
    assert min(offsets) == had


@pytest.fixture
def whole(monkeypatch) -> list[str]:
    """The keys of which parts are asked for through obstore, and not by signed URLs."""
    keys: list[str] = []
    real = obstore.get
    monkeypatch.setattr(
        obstore, "get", lambda store, key, **options: (keys.append(key), real(store, key, **options))[1]
    )
    return keys


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_what_is_signed_here_is_read_by_signed_urls(request, scheme, get, tmp_path, whole):
    request.getfixturevalue(scheme)
    get(f"{scheme}://models/digits/1")
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA
    assert (version(tmp_path) / "ä b%.txt").read_bytes() == b"t"
    # Azurite compares signatures with names that it has decoded once more.
    assert whole == (["digits/1/ä b%.txt"] if scheme == "az" else [])


@pytest.mark.parametrize(
    "broken",
    [
        lambda url: f"{url[:-4]}beef",
        lambda url: url.replace("/models/", "/others/"),
        lambda _: f"https://localhost:{free_port()}/models?X-Amz-Signature=s3cr3t",
        lambda url: url.replace("https://", "http://"),
    ],
    ids=["signature", "bucket", "port", "scheme"],
)
def test_what_a_signed_url_does_not_give_comes_through_obstore(s3, get, tmp_path, whole, monkeypatch, broken):
    real = obstore.sign
    monkeypatch.setattr(obstore, "sign", lambda *arguments: broken(real(*arguments)))
    get("s3://models/digits/1/model.onnx", digest=digest_of(DATA))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA
    assert whole


def test_s3_through_a_proxy_is_left_to_obstore(s3, get, monkeypatch, whole):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # for endpoints of http:// alone
    get("s3://models/digits/1/model.onnx", digest=digest_of(DATA))
    assert whole


def test_an_answer_that_breaks_off_is_asked_for_again(s3, get, tmp_path, monkeypatch):
    real, broken = Response.pieces, []

    def pieces(self, size, room=None):
        if len(broken) < 3:
            broken.append(self.url)
            yield from real(self, size // 2, room)
            raise Interrupted("https://localhost broke off its answer (IncompleteRead).")
        yield from real(self, size, room)

    monkeypatch.setattr(Response, "pieces", pieces)
    get("s3://models/digits/1/model.onnx", digest=digest_of(DATA))
    assert (version(tmp_path) / "model.onnx").read_bytes() == DATA

    def reset(*_):
        raise Interrupted("The connection to https://localhost was reset.")

    monkeypatch.setattr(Response, "pieces", reset)
    sentence = refused(get, errors.SourceUnavailable, "s3://models/digits/1/data/weights.bin")
    assert sentence.startswith("Reading s3://models/digits/1/data/weights.bin failed: The connection")
    assert "X-Amz" not in sentence


@pytest.mark.parametrize(
    "wrong",
    [
        {"AWS_SECRET_ACCESS_KEY": "wr0ng-key"},
        {"AWS_ACCESS_KEY_ID": "nobody"},
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    ],
    ids=["secret", "user", "anonymous"],
)
def test_credentials_that_are_refused(s3, get, monkeypatch, wrong):
    for name, value in wrong.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    sentence = refused(get, errors.PermissionDenied, "s3://models/digits/1")
    assert not any(secret in sentence for secret in (PASSWORD, "wr0ng-key"))


def test_what_azure_refuses(az, get, monkeypatch):
    sentence = refused(get, errors.ModelNotFound, "az://no-such-container/digits")
    assert sentence.startswith("az://no-such-container does not exist")
    wrong = base64.b64encode(b"wr0ng").decode()
    for key in (wrong, "no base64 !"):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", key)
        assert key not in refused(get, errors.PermissionDenied, "az://models/digits/1")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    refused(get, errors.PermissionDenied, "az://models/digits/1")


def test_a_certificate_that_nobody_vouches_for(s3, get, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    assert "SSL_CERT_FILE" in refused(get, errors.SourceUnavailable, "s3://models/digits/1")


def test_an_endpoint_that_is_away(s3, get, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert "refused" in refused(get, errors.SourceUnavailable, "s3://models/digits/1")


def test_keys_that_cannot_be_used(gs, get, monkeypatch):
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "{s3cr3t")
    assert "s3cr3t" not in refused(get, errors.PermissionDenied, "gs://models/digits/1")


def test_buckets_that_are_not_allowed(s3, get):
    refused(get, errors.SourceNotAllowed, "s3://models/digits/1", "s3://other", "gs")


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://Models/x", "s3://a..b/x", "s3://models/a/../b", "s3://models//x", "az://c/x"]
)
def test_bad_addresses(get, uri):
    refused(get, errors.InvalidURI, uri)
