"""`hf://<organisation>/<name>[@<revision>][/<path>]`: a repository of the Hugging Face hub, or a mirror of
it.

`hf://datasets/...` is a data set. A revision is resolved to its commit first, so that all files are of one.
Large files are redirected to another host, which gets no token; the hub names their SHA-256, which is
verified.

The protocol is what huggingface_hub speaks: https://huggingface.co/docs/hub/api
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from capstan_agent.download import retried
from capstan_agent.errors import InvalidURI, ModelNotFound, PermissionDenied, SourceUnavailable
from capstan_agent.remote.client import Client, Origin, sendable
from capstan_agent.remote.web import Resource, refusal
from capstan_agent.sources import Places
from capstan_agent.sources.listing import ENTRIES, File, Listing, folder, place

_ENDPOINT = "https://huggingface.co"
_STORES = ("https://*.huggingface.co", "https://*.hf.co")
"""Where the hub redirects to."""
_ADDRESS = re.compile(r"hf://(datasets/)?([\w.-]+/[\w.-]+)(?:@([\w.%-]+))?(?:/(.*))?", re.ASCII)
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_DESCRIPTION = 64 << 20
_SHOWN = 20


def listing(uri: str, places: Places) -> Listing:
    """What is at an address of the hub."""
    found = _ADDRESS.fullmatch(uri)
    path = (found[4] or "").rstrip("/") if found else ""
    if found is None or any(part in {".", ".."} for part in found[2].split("/")):
        raise InvalidURI(
            f"{uri!r} names no repository: write hf://<organisation>/<name>[@<revision>][/<path>]."
        )
    if path:
        place(path, repr(uri))
    hub = _Hub(places, found[1] or "", found[2], unquote(found[3] or "main"))
    try:
        return _chosen(hub.files(uri), path, uri, hub.close)
    except BaseException:
        hub.close()
        raise


def _chosen(files: list[File], path: str, uri: str, close: Callable[[], None]) -> Listing:
    """The one file that a path names, or those below it."""
    exact = [file for file in files if path and str(file.path) == path]
    if exact:
        file = exact[0]
        single = File(PurePosixPath(), file.size, file.name, file.read, file.tag, file.ranges, file.digest)
        return Listing((single,), single=True, name=file.path.name, close=close)
    below = [
        File(file.path.relative_to(path), file.size, file.name, file.read, file.tag, file.ranges, file.digest)
        for file in files
        if not path or file.path.is_relative_to(path)
    ]
    if not below:
        names = sorted({file.path.parts[0] for file in files})
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        listed = (", ".join(names[:_SHOWN]) or "nothing") + more
        raise ModelNotFound(f"{uri} does not exist: the repository holds {listed}.")
    return folder(below, uri, close)


class _Hub:
    """One repository at one commit."""

    def __init__(self, places: Places, kind: str, repository: str, revision: str) -> None:
        self._endpoint = (os.environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")
        origin = Origin.of(self._endpoint)
        token = os.environ.get("HF_TOKEN", "").strip()
        if not sendable(token):
            raise InvalidURI(
                "HF_TOKEN has a character that no header can hold (a control character, a typographic"
                " quote): store it without."
            )
        allow = places.allow.plus(str(origin), *_STORES)
        self._client = Client(allow, origin, {"Authorization": f"Bearer {token}"} if token else {})
        self._api = f"{self._endpoint}/api/{kind or 'models/'}{repository}"
        self._plain = f"{self._endpoint}/{kind}{repository}"
        self._revision, self._name = revision, f"hf://{kind}{repository}"

    def close(self) -> None:
        """Keep no connection."""
        self._client.close()

    def files(self, uri: str) -> list[File]:
        """All files of the revision."""
        about, _ = self._json(f"{self._api}/revision/{quote(self._revision, safe='')}", uri)
        commit = about.get("sha") if isinstance(about, dict) else None
        if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
            raise SourceUnavailable(f"{self._endpoint} names no commit for {uri}: is HF_ENDPOINT a hub?")
        found: list[File] = []
        page: str | None = f"{self._api}/tree/{commit}?recursive=true"
        while page:
            entries, page = self._json(page, uri)
            found += self._described(entries, commit)
            if len(found) > ENTRIES:
                raise InvalidURI(f"{uri} has more than {ENTRIES:,} files: it cannot be fetched as a whole.")
        return found

    def _described(self, entries: Any, commit: str) -> Iterator[File]:
        try:
            for entry in entries:
                if entry["type"] != "file":
                    continue
                path, lfs = place(entry["path"], f"{self._name}: {entry['path']!r}"), entry.get("lfs")
                size = int(lfs["size"] if lfs else entry["size"])
                digest = str(lfs["oid"]).removeprefix("sha256:") if lfs else None
                url = f"{self._plain}/resolve/{commit}/{quote(str(path))}"
                resource = Resource(self._client, url, size, pinned=True)
                tag = digest or str(entry["oid"])
                yield File(
                    path,
                    size,
                    f"{self._name}/{path}",
                    resource.read,
                    tag,
                    True,
                    f"sha256:{digest}" if digest else None,
                )
        except (KeyError, TypeError, ValueError) as error:
            raise SourceUnavailable(
                f"{self._endpoint} describes {self._name} in a way that is not understood: is HF_ENDPOINT a"
                " hub?"
            ) from error

    def _json(self, url: str, uri: str) -> tuple[Any, str | None]:
        """A description, and where it goes on."""

        def ask() -> tuple[Any, str | None]:
            with self._client.get(url, {}) as response:
                if response.status != 200:
                    raise _refused(response.status, uri) or refusal(response, uri)
                following = _NEXT.search(response.headers.get("Link", ""))
                return json.loads(response.body(_DESCRIPTION)), following[1] if following else None

        try:
            described, following = retried(ask)
        except (ValueError, RecursionError) as error:
            raise SourceUnavailable(
                f"{self._endpoint} does not answer with JSON: is HF_ENDPOINT a hub?"
            ) from error
        if following and urlsplit(following)[:2] != urlsplit(self._endpoint)[:2]:
            raise SourceUnavailable(f"{self._endpoint} continues its listing on another host.")
        return described, following


def _refused(status: int, uri: str) -> Exception | None:
    """The hub does not tell what is missing from what is private or gated."""
    if status in {401, 403}:
        return PermissionDenied(
            f"{uri} may not be read (HTTP {status}): it does not exist, is private or gated. Put an"
            " HF_TOKEN that may"
            " read it into the Secret, and accept the repository's terms on its page."
        )
    if status == 404:
        return ModelNotFound(f"{uri} does not exist, or the revision does not: correct the address.")
    return None
