"""`https://<host>/<path>`: one file of a web server; `http://` too where the allow list has it.

A folder cannot be listed over HTTP, so an address is always a file; an archive is one that becomes a folder.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from threading import Lock
from urllib.parse import unquote, urlsplit

from capstan_agent.download import retried
from capstan_agent.errors import InvalidURI, ModelNotFound, PermissionDenied, SourceUnavailable
from capstan_agent.remote.client import Client, Origin, Response, sendable
from capstan_agent.sources import Places, shown
from capstan_agent.sources.listing import File, Interrupted, Listing, place

_SETTLED = 2.0
"""Seconds after which a file that changes has another Last-Modified, which counts in whole ones."""
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


def listing(uri: str, places: Places) -> Listing:
    """What is at a URL."""
    origin = Origin.of(uri)
    client = Client(places.allow, origin, secrets())
    name = place(unquote(urlsplit(uri).path.rpartition("/")[2]) or "/", shown(uri)).name
    resource = Resource(client, uri)
    try:
        resource.learn()
    except BaseException:
        client.close()
        raise
    file = File(PurePosixPath(), resource.size, resource.name, resource.read, resource.tag, resource.ranges)
    return Listing((file,), single=True, name=name, close=client.close)


def secrets() -> dict[str, str]:
    """The header that the environment has for web servers."""
    token, header = os.environ.get("CAPSTAN_HTTP_TOKEN", ""), os.environ.get("CAPSTAN_HTTP_HEADER", "")
    found = {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}
    if header.strip():
        name, separator, value = header.partition(":")
        if not separator or not re.fullmatch(r"[A-Za-z0-9-]+", name.strip()):
            raise InvalidURI("CAPSTAN_HTTP_HEADER in the Secret is no header: write it as Name: value.")
        found[name.strip()] = value.strip()
    if not all(map(sendable, found.values())):
        raise InvalidURI(
            "CAPSTAN_HTTP_TOKEN or CAPSTAN_HTTP_HEADER has a character that no header can hold (a control"
            " character, a typographic quote): store it without."
        )
    return found


@dataclass(slots=True)
class Resource:
    """One file behind one URL. All its parts must be of one version: its name for it may not change."""

    client: Client
    url: str
    size: int = -1
    """In bytes; below zero until it is known."""
    validator: str | None = None
    settled: bool = False
    """Whether the validator is of these bytes alone (RFC 9110, 8.8.2.2)."""
    ranges: bool = False
    pinned: bool = False
    """Whether the URL itself stands for one version, so that what servers call it does not matter."""
    _final: str | None = None
    _lock: Lock = field(default_factory=Lock)

    @property
    def name(self) -> str:
        """The URL as it may be shown."""
        return shown(self.url)

    @property
    def tag(self) -> str | None:
        """What these bytes are known by."""
        return self.validator if self.settled else None

    def learn(self) -> None:
        """Ask for the first byte to know the whole: not every server, or signature, allows HEAD."""

        def ask() -> None:
            with self._asked({"Range": "bytes=0-0"}) as response:
                self.validator, self.settled = _validator(response), _settled(response)
                self.size, self.ranges = self._total(response), response.status == 206
                if self.ranges or self.size == 0:
                    response.body(1)

        retried(ask)

    def read(self, start: int, stop: int, room: memoryview | None = None) -> Iterator[memoryview]:
        """The bytes from one offset to another."""
        headers = {"Range": f"bytes={start}-{stop - 1}"} if (start, stop) != (0, self.size) else {}
        # Not If-Unmodified-Since: servers that know fractions of a second refuse their own Last-Modified. It
        # is compared with each answer's.
        if headers and not self.pinned and self.tag and self.tag.startswith('"'):
            headers["If-Match"] = self.tag
        with self._asked(headers) as response:
            self._check(response, start)
            if response.status == 200:
                for _ in response.pieces(start):
                    pass
            yield from response.pieces(stop - start, room)

    def _check(self, response: Response, start: int) -> None:
        """That an answer is a part of what was asked about, and the part that was asked for."""
        validator = _validator(response)
        with self._lock:
            if self.validator is None:
                self.validator = validator
        if self._total(response) != self.size or (validator != self.validator and not self.pinned):
            raise self._changed()
        if response.status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or found[1] is None or int(found[1]) != start:
                raise SourceUnavailable(
                    f"{self.name} answers with another part of the file than was asked for."
                )

    def _asked(self, headers: dict[str, str]) -> Response:
        """An answer with the file in it; redirects are asked for again when where they led refuses."""
        known = self._final
        response = self.client.get(known or self.url, headers)
        if known and response.status in {401, 403, 404, 410}:
            with response:
                self._final = None
            response = self.client.get(self.url, headers)
        if response.status == 416 and self.size < 0:
            return response
        if response.status not in {200, 206}:
            with response:
                raise self._refused(response)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            with response:
                raise SourceUnavailable(f"{self.name} is sent {encoding}-encoded only: serve it as it is.")
        self._final = response.url if response.url != self.url else None
        return response

    def _total(self, response: Response) -> int:
        if response.status in {206, 416}:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found and (response.status == 206 or found[3] == "0"):
                return int(found[3])
            raise SourceUnavailable(f"{self.name} answers with a part and does not say of what.")
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise InvalidURI(
                f"{self.name} does not say how large it is (no Content-Length): put the file where it is"
                " served as"
                " it is, not made on the way."
            )
        return int(length)

    def _changed(self) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self.name} changed while it was being fetched; it is fetched anew. Publish under a new name"
            " instead."
        )

    def _refused(self, response: Response) -> Exception:
        return refusal(response, self.name, self._changed)


def refusal(response: Response, name: str, changed: Callable[[], Exception] | None = None) -> Exception:
    """What an answer that is none means."""
    status = response.status
    if status in {401, 403, 407}:
        return PermissionDenied(
            f"{name} may not be read (HTTP {status}): check the credentials in the Secret, and what they"
            " may read."
        )
    if status in {404, 410}:
        return ModelNotFound(f"{name} does not exist (HTTP {status}): correct the address.")
    if status in {412, 416} and changed is not None:
        return changed()
    if status in {408, 425, 429} or status >= 500:
        after = response.headers.get("Retry-After", "")
        return Interrupted(
            f"{name} is not served now (HTTP {status}).", float(after) if after.isdecimal() else 0.0
        )
    return SourceUnavailable(f"{name} is answered with HTTP {status}: check the address.")


def _validator(response: Response) -> str | None:
    """What the server knows this version by: a strong entity tag, else when it was last modified."""
    tag = response.headers.get("ETag")
    if tag and tag.startswith('"'):
        return str(tag)
    modified = response.headers.get("Last-Modified")
    return str(modified) if modified else None


def _settled(response: Response) -> bool:
    """Whether no other version can be known by the same validator."""
    if (_validator(response) or "").startswith('"'):
        return True
    try:
        modified, now = (parsedate_to_datetime(response.headers[name]) for name in ("Last-Modified", "Date"))
        return (now - modified).total_seconds() >= _SETTLED
    except (TypeError, ValueError, OverflowError):  # one is missing, or no date
        return False
