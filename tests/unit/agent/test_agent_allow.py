"""Which addresses the allow list has."""

import pytest
from capstan_agent.allow import Allow
from capstan_agent.errors import SourceNotAllowed, UsageError
from capstan_agent.sources import SOURCES, Places, listing


def allowed(rules: list[str], scheme: str, host: str, port: int | None = None) -> bool:
    try:
        Allow.parsed(rules).check(scheme, host, port)
    except SourceNotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    ("rules", "scheme", "host", "port", "answer"),
    [
        ([], "https", "example.com", 443, True),
        ([""], "s3", "bucket", None, True),
        ([], "http", "example.com", 80, False),
        ([], "file", "", None, False),
        (["file"], "file", "", None, True),
        (["s3"], "gs", "bucket", None, False),
        (["s3://models-*"], "s3", "models-eu", None, True),
        (["s3://models-*"], "s3", "other", None, False),
        (["pvc, https://*.example.com"], "https", "a.b.example.com", 8443, True),
        (["https://*.example.com"], "https", "example.com.evil", 443, False),
        (["https://*.example.com:443"], "https", "a.example.com", 8443, False),
        (["https://EXAMPLE.com"], "https", "example.COM", 443, True),
        (["https://[::1]:8443"], "https", "::1", 8443, True),
        (["hf://acme", "pvc"], "hf", "other", None, False),
    ],
)
def test_hosts(rules, scheme, host, port, answer):
    assert allowed(rules, scheme, host, port) is answer


@pytest.mark.parametrize(
    "rule", ["ftp", "https://", "https://a b", "https://a/b", "https://a:x", "S3", "https:a", "*"]
)
def test_rules_that_are_none(rule):
    with pytest.raises(UsageError, match="allow list"):
        Allow.parsed([rule])


INTERNAL = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "224.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "168.63.129.16",
    "192.0.0.192",
    "fd20:ce::254",
    "64:ff9b:1::a9fe:a9fe",
    "::127.0.0.1",
    "2001:0:4136:e378:8000:63bf:5601:5601",
]


@pytest.mark.parametrize("address", INTERNAL)
def test_addresses_of_the_machine_and_its_cloud(address):
    for rules in ([], ["https"], ["https://*.example.com"], ["https://models.example.com:8443"]):
        with pytest.raises(SourceNotAllowed):
            Allow.parsed(rules).check_address("https", "models.example.com", 443, address)
    Allow.parsed(["https://models.example.com"]).check_address("https", "models.example.com", 443, address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "10.0.0.7", "192.168.1.1", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "::5db8:d822"],
)
def test_addresses_of_others(address):
    Allow().check_address("https", "models.example.com", 443, address)


@pytest.mark.parametrize("scheme", ["pvc", "s3", "gs", "az"])
def test_a_claim_or_bucket_named_datasets_is_no_part_of_a_path(tmp_path, scheme):
    """Which is so in the hub's addresses alone."""
    with pytest.raises(SourceNotAllowed):
        listing(f"{scheme}://datasets/acme-x/key", Places(tmp_path, Allow.parsed([f"{scheme}://acme-*"])))


def test_the_hubs_data_is_its_organisations(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "hf", lambda uri, _places: uri)
    places = Places(tmp_path, Allow.parsed(["hf://acme"]))
    assert listing("hf://datasets/acme/digits", places) == "hf://datasets/acme/digits"
    with pytest.raises(SourceNotAllowed):
        listing("hf://datasets/other/digits", places)
