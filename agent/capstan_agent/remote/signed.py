"""Parts of objects by signed URLs, over connections of our own.

obstore's blocking calls hand each piece of an answer from one thread to another, which costs more than to
receive it. So for large answers it only signs. Nothing that goes wrong is judged here: whatever does not
begin as the part that was asked for is left to obstore, which tells a refusal from a change. URLs that are
signed are in no message.
"""

import os
from collections.abc import Callable, Iterator
from threading import Lock

from capstan_agent.allow import Allow, Rule
from capstan_agent.errors import FetchError
from capstan_agent.remote.client import Client, Origin, Response
from capstan_agent.sources.listing import Interrupted


class Signed:
    """The objects of one bucket."""

    def __init__(self, sign: Callable[[str], str]) -> None:
        self._sign = sign
        """The URL for a key that anybody may read it by, for a while."""
        self._lock = Lock()
        self._client: Client | None = None

    def part(self, key: str, tag: str, start: int, stop: int, size: int) -> Response | None:
        """The answer with these bytes of an object of this tag and size; None when another one came."""
        url = self._sign(key)
        try:
            response = self._to(Origin.of(url)).ask(
                url, {"Range": f"bytes={start}-{stop - 1}", "If-Match": tag}
            )
        except (FetchError, Interrupted):
            return None
        found = response.status, response.headers.get("Content-Range")
        same = response.headers.get("ETag", "").strip('"') == tag.strip('"')  # some servers leave them out
        if same and found == (206, f"bytes {start}-{stop - 1}/{size}"):
            return response
        with response:
            return None

    def close(self) -> None:
        """Keep no connection."""
        if self._client is not None:
            self._client.close()

    def _to(self, origin: Origin) -> Client:
        """The client for the endpoint. That is trusted, wherever it is: the Secret or the cloud names it."""
        with self._lock:
            if self._client is None:
                self._client = Client(Allow((Rule(origin.scheme, origin.host, origin.port),)), origin)
            return self._client


def pieces(response: Response, size: int, room: memoryview | None, name: str) -> Iterator[memoryview]:
    """The bytes of an answer."""
    try:
        with response:
            yield from response.pieces(size, room)
    except Interrupted as error:
        raise Interrupted(f"Reading {name} failed: {error}") from error


def proxied() -> bool:
    """Whether obstore would ask a proxy; our client uses none."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "AWS_PROXY_URL")
    return any(os.environ.get(name) or os.environ.get(name.lower()) for name in names)
