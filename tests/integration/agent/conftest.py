"""The servers that the agent fetches from: a web server that misbehaves as it is told, and real object
stores."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capstan_agent import download
from capstan_agent.allow import Allow
from capstan_agent.fetch import Request, fetch
from capstan_agent.termination import Output

from tests import certificates
from tests.integration.agent.webserver import Web

VARIABLES = (
    "AWS_",
    "GOOGLE_",
    "AZURE_",
    "HF_",
    "CAPSTAN_HTTP",
    "CAPSTAN_AGENT",
    "SSL_CERT",
    "IDENTITY_",
    "GCE_",
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, authority: Path) -> None:
    """No credentials of this machine; the tests' own authority; no waiting between attempts."""
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setattr(download, "PAUSES", (0.01,) * 6)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and beside it the certificate for localhost that it issued: server.pem, server.key."""
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def web(authority: Path) -> Iterator[Web]:
    server = Web(authority)
    yield server
    server.server.shutdown()
    server.server.server_close()


Fetch = Callable[..., tuple[Path, Output]]


@pytest.fixture
def get(tmp_path: Path) -> Fetch:
    """Fetches an address into tmp_path/target, by default as model m, version 1."""

    def fetched(uri: str, *allow: str, layout: str = "model", digest: str | None = None, say=lambda _: None):
        rules = Allow.parsed(allow or ("https://localhost", "https://127.0.0.1", "s3", "gs", "az", "hf"))
        names = ("m", "1") if layout == "model" else ("", "")
        return fetch(Request(uri, tmp_path, tmp_path / "target", *names, digest, layout, rules), say)

    return fetched
