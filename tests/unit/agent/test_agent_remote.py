"""What of speaking to servers needs no server."""

import socket

import pytest
from capstan_agent import errors
from capstan_agent.allow import Allow
from capstan_agent.remote import client, objects
from capstan_agent.remote.client import Client, Origin
from capstan_agent.sources.listing import Interrupted
from obstore import exceptions


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/a", b"example.com"),
        ("https://example.com:443/a", b"example.com"),
        ("https://example.com:80/a", b"example.com:80"),
        ("http://example.com/a", b"example.com"),
        ("http://example.com:443/a", b"example.com:443"),
    ],
)
def test_the_host_is_named_without_the_port_of_its_scheme(monkeypatch, url, host):
    """What is signed, and what virtual hosts are found by, is the host as it is usually written."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(Client, "_connect", lambda _self, _origin: ours)
    monkeypatch.setattr(client, "Secured", lambda _context, plain, _host: plain)
    with theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        asking = Client(Allow.parsed(["https", "http"]), Origin.of(url))
        with asking.get(url, {}) as response:
            response.body(0)
        assert b"\r\nHost: " + host + b"\r\n" in theirs.recv(1 << 16)
        asking.close()


@pytest.mark.parametrize("host", ["a..b", ".example.com", "a" * 64 + ".example.com"])
def test_a_host_that_no_name_server_can_be_asked_for(host):
    url = f"https://{host}/a"
    with pytest.raises(errors.InvalidURI, match="names no host"):
        Client(Allow(), Origin.of(url)).get(url, {})


def told(text: str) -> BaseException:
    with pytest.raises((errors.FetchError, Interrupted)) as raised, objects._Told("s3://models/a"):
        raise exceptions.GenericError(text)
    return raised.value


@pytest.mark.parametrize("key", ["redirect-model", "certificate-ocr", "nosuchbucket", "permanentredirect"])
def test_a_key_that_is_named_as_an_error_is(key):
    text = f"Error performing GET https://models.example/{key} in 1s: 503 Service Unavailable: ask again"
    assert type(told(text)) is Interrupted


def test_errors_of_the_object_stores():
    asked = "Error performing GET https://models.example/a in 1s: "
    elsewhere = told(asked + "Received redirect without LOCATION, this normally indicates an incorrectly")
    assert "another region" in str(elsewhere)
    assert "SSL_CERT_FILE" in str(told(asked + "invalid peer certificate: UnknownIssuer"))
