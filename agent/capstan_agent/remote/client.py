"""A web client that goes nowhere it may not: HTTPS, a few redirects, and addresses looked at after they are
resolved.

The address that is connected to is the one that was looked at, so a name that resolves anew to another one
gains nothing. Credentials go to the origin they are for and to no other. Proxies are not used.
"""

import http.client
import re
import socket
import ssl
import string
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

import encodings.idna  # noqa: F401  isort: skip  (named here so that `install` finds what host names need)

from capstan_agent.allow import Allow
from capstan_agent.errors import InvalidURI, SourceUnavailable
from capstan_agent.remote.secured import Secured
from capstan_agent.sources import shown
from capstan_agent.sources.listing import Interrupted

_PATIENCE = 30.0
"""Seconds that a server may be silent."""
_REDIRECTS = 5
_PIECES = 16 << 10, 1 << 20
"""The first read of an answer and the largest; each is twice the one before. What a read has taken in is lost
when the connection is reset in it: that way it is half at most, and each attempt gets ahead."""
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
_KEPT = string.punctuation
"""What is sent as it is: an address may be quoted already, and is not to be quoted twice."""
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a connection, and what is secret, belongs to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of a URL; InvalidURI when it has none that could be asked."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise InvalidURI(f"{shown(url)!r} is no valid address: check its host and port.") from None
        host = parts.hostname or ""
        if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or "\\" in url or " " in url:
            raise InvalidURI(f"{shown(url)!r} names no host: write https://<host>/<path>, without spaces.")
        if parts.username is not None or parts.password is not None:
            raise InvalidURI(
                f"{shown(url)!r} has a password in it: put it into the Secret, as CAPSTAN_HTTP_TOKEN."
            )
        return cls(parts.scheme, host.lower(), port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Response:
    """An answer whose body is read once, or given up."""

    def __init__(
        self,
        answer: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        url: str,
        client: "Client",
    ) -> None:
        self._answer, self._connection, self._client = answer, connection, client
        self.url, self.status, self.headers = url, answer.status, answer.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer.isclosed() and not self._answer.will_close:
            self._client.give_back(Origin.of(self.url), self._connection)
        else:
            self._answer.close()
            self._connection.close()

    def body(self, size: int) -> bytes:
        """All of it, when it is no longer than `size`."""
        with _Broken(self.url):
            data = self._answer.read(size + 1)
            if len(data) <= size and self._answer.length:  # which `read` with a size does not mind
                raise http.client.IncompleteRead(data, self._answer.length)
        if len(data) > size:
            raise SourceUnavailable(
                f"{shown(self.url)} answered with more than {size:,} bytes of description."
            )
        return data

    def pieces(self, size: int, room: memoryview | None = None) -> Iterator[memoryview]:
        """The next `size` bytes, fewer when the other side ends early. Each piece is good until the next.

        Where there is room for all of them they are read into that, one behind the other.
        """
        piece, largest = _PIECES
        buffer = memoryview(bytearray(min(size, largest))) if room is None else room
        while size > 0:
            with _Broken(self.url):
                count = self._answer.readinto(buffer[: min(size, piece)])
            if not count:
                return
            size -= count
            piece = min(2 * piece, largest)
            yield buffer[:count]
            if room is not None:
                buffer = buffer[count:]


class _Broken:
    """Tells what goes wrong on a connection as what it means."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        where = str(Origin.of(self._url))
        match error:
            case ssl.SSLCertVerificationError():
                raise SourceUnavailable(
                    f"The certificate of {where} is not trusted ({error.verify_message}): give the bundle"
                    " of the"
                    " authority that issued it in SSL_CERT_FILE."
                ) from error
            case socket.gaierror():
                raise Interrupted(
                    f"{where} has no address ({error.strerror}): check the host's name."
                ) from error
            case TimeoutError():
                raise Interrupted(f"{where} was silent for {_PATIENCE:.0f} seconds.") from error
            case ssl.SSLError():
                raise Interrupted(
                    f"TLS with {where} failed ({error.reason or 'no reason given'})."
                ) from error
            case http.client.HTTPException():
                raise Interrupted(f"{where} broke off its answer ({type(error).__name__}).") from error
            case OSError():
                raise Interrupted(f"The connection to {where} failed ({error.strerror or error}).") from error


def sendable(secret: str) -> bool:
    """Whether a header can hold it."""
    return secret.isprintable() and max(secret, default="") <= "\xff"


def _next(url: str, target: str) -> str:
    """Where a redirect leads."""
    try:  # headers are read as Latin-1, whatever the bytes are
        following = urljoin(url, quote(target.encode("latin-1"), safe=_KEPT))
    except ValueError:
        following = ""
    if not following.startswith("https://"):
        raise SourceUnavailable(
            f"{shown(url)} redirects to {shown(following)!r}, and redirects are followed to https:// only."
        )
    return following


@dataclass(slots=True)
class Client:
    """Asks servers, as far as the allow list goes."""

    allow: Allow
    origin: Origin
    """Whom `secrets` are for."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    _tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    _idle: dict[Origin, list[http.client.HTTPConnection]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _closed: bool = False

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """The answer to a GET, redirects followed. Interrupted when it may be tried again."""
        for _ in range(_REDIRECTS + 1):
            response = self.ask(url, headers)
            target = response.headers.get("Location")
            if response.status not in {301, 302, 303, 307, 308} or not target:
                return response
            with response:
                url = _next(url, target)
        raise SourceUnavailable(
            f"{shown(url)} is the end of more than {_REDIRECTS} redirects: name the file itself."
        )

    def ask(self, url: str, headers: Mapping[str, str]) -> Response:
        """The answer to a GET, whatever it is. Interrupted when it may be tried again."""
        origin = Origin.of(url)
        self.allow.check(origin.scheme, origin.host, origin.port)
        sent = {"Accept-Encoding": "identity", "User-Agent": "capstan-agent", **headers}
        if origin == self.origin:
            sent |= self.secrets
        parts = urlsplit(url)
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_KEPT)
        with self._lock:
            idle = self._idle.get(origin)
            connection = idle.pop() if idle else None
        if connection is not None:
            with suppress(OSError, http.client.HTTPException):  # the server may have closed it meanwhile
                connection.request("GET", path, headers=sent)
                return Response(connection.getresponse(), connection, url, self)
            connection.close()
        connection = self._connection(origin)
        try:
            with _Broken(url):
                connection.request("GET", path, headers=sent)
                return Response(connection.getresponse(), connection, url, self)
        except BaseException:
            connection.close()
            raise

    def give_back(self, origin: Origin, connection: http.client.HTTPConnection) -> None:
        """A connection that can be used again."""
        with self._lock:
            if not self._closed:
                self._idle.setdefault(origin, []).append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Keep no connection."""
        with self._lock:
            self._closed = True
            for connection in [connection for idle in self._idle.values() for connection in idle]:
                connection.close()

    def _connection(self, origin: Origin) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(origin.host, origin.port, timeout=_PATIENCE)
        connection.default_port = _PORTS[origin.scheme]  # which the Host header leaves out
        with _Broken(str(origin)):
            plain = self._connect(origin)
            try:
                secured = origin.scheme == "https"
                connection.sock = Secured(self._tls, plain, origin.host) if secured else plain
            except BaseException:
                plain.close()
                raise
        connection.auto_open = 0
        return connection

    def _connect(self, origin: Origin) -> socket.socket:
        failure: OSError = OSError("it has no address")
        try:
            found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise InvalidURI(f"{origin} names no host: a part of its name is empty or too long.") from None
        for family, kind, protocol, _, address in found:
            self.allow.check_address(origin.scheme, origin.host, origin.port, str(address[0]))
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(_PATIENCE)
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure
