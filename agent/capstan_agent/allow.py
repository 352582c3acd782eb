"""Which addresses may be fetched from: rules of a scheme and, where they say so, a host.

    s3                        every bucket
    pvc://models-*            claims whose name begins so
    https://*.example.com     these hosts, on any port
    https://10.0.0.7:8443     this one, on this port

What a rule's host is matched with is the part after `://`: a host, bucket, container, claim, or an
organisation of the hub. Addresses that belong to the machine or the cloud it runs in (loopback, link-local,
metadata services) are refused for every host that no rule names letter for letter, because who writes an
address need not be who may read those.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from capstan_agent.errors import SourceNotAllowed, UsageError

VARIABLE = "CAPSTAN_AGENT_ALLOW"
SCHEMES = ("pvc", "s3", "gs", "az", "https", "http", "hf", "file")
_DEFAULT = ("pvc", "s3", "gs", "az", "https", "hf")
_RULE = re.compile(r"(?P<scheme>[a-z0-9]+)(://(?P<host>\[[0-9a-f:.]+\]|[^\s:/,\[\]]+)(:(?P<port>\d{1,5}))?)?")
_METADATA = tuple(
    map(
        ip_network,
        (
            "fd00:ec2::/32",  # Amazon
            "fd20:ce::254/128",  # Google
            "168.63.129.16/32",  # Azure
            "192.0.0.192/32",  # Oracle
            "100.100.100.200/32",  # Alibaba
        ),
    )
)
_EMBEDDING = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))
"""NAT64, that of a network's own, and what IPv4-compatible addresses were: IPv4 is in the last 32 bits."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the list."""

    scheme: str
    host: str = "*"
    port: int | None = None

    def admits(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether an address is meant by it."""
        return (
            self.scheme == scheme
            and fnmatchcase(host.lower(), self.host)
            and (self.port is None or self.port == port)
        )


@dataclass(frozen=True, slots=True)
class Allow:
    """The list."""

    rules: tuple[Rule, ...] = tuple(map(Rule, _DEFAULT))

    @classmethod
    def parsed(cls, texts: Iterable[str]) -> "Allow":
        """The list that these texts, each with rules and commas, make; the default where they hold none."""
        words = [word.strip() for text in texts for word in text.split(",")]
        rules = tuple(_rule(word) for word in words if word)
        return cls(rules) if rules else cls()

    def plus(self, *words: str) -> "Allow":
        """The same with more rules."""
        return Allow(self.rules + tuple(map(_rule, words)))

    def check(self, scheme: str, host: str, port: int | None = None) -> None:
        """SourceNotAllowed unless a rule admits this host (or bucket, claim, organisation)."""
        if not any(rule.admits(scheme, host, port) for rule in self.rules):
            raise SourceNotAllowed(
                f"{scheme}://{host} is not among the sources that may be fetched from: use another one, or"
                " ask"
                f" who runs Capstan to add {scheme}://{host} to the allow list."
            )

    def check_address(self, scheme: str, host: str, port: int, address: str) -> None:
        """SourceNotAllowed when the address is the machine's or its cloud's, and no rule names the host."""
        literal = any(rule.host == host.lower() and rule.admits(scheme, host, port) for rule in self.rules)
        if not literal and _is_internal(address):
            raise SourceNotAllowed(
                f"{host} has the address {address}, which belongs to the machine or its cloud and not to a"
                f" server of models: ask who runs Capstan to name {scheme}://{host} in the allow list if it"
                " must be."
            )


def _rule(word: str) -> Rule:
    found = _RULE.fullmatch(word)
    if found is None or found["scheme"] not in SCHEMES:
        raise UsageError(
            f"{word!r} is no rule of an allow list: write SCHEME, SCHEME://HOST or SCHEME://HOST:PORT, the"
            " scheme"
            f" one of {', '.join(SCHEMES)}; * stands for any part of the host."
        )
    host = (found["host"] or "*").lower().removeprefix("[").removesuffix("]")
    return Rule(found["scheme"], host, int(found["port"]) if found["port"] else None)


def _is_internal(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    inner = _inner(address) if isinstance(address, IPv6Address) else None
    return _belongs(address) or (inner is not None and _belongs(inner))


def _belongs(address: IPv4Address | IPv6Address) -> bool:
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or any(address in network for network in _METADATA)
    )


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if any(address in network for network in _EMBEDDING):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour
