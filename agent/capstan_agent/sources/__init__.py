"""Where models and data come from: one module for each kind of storage, registered in SOURCES.

A source turns an address into a listing of files that can be read; it copies nothing and decides nothing
about where they go. What needs the network is imported when an address asks for it: the runner in users' pods
has none of that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from capstan_agent.allow import Allow
from capstan_agent.errors import InvalidURI, SourceUnavailable
from capstan_agent.sources.listing import Listing


@dataclass(frozen=True, slots=True)
class Places:
    """What a source is told beside the address."""

    claims: Path
    """Volume claims are mounted below it by their names."""
    allow: Allow = field(default_factory=Allow)


Source = Callable[[str, Places], Listing]
"""Takes the whole address."""


def _lazily(module: str) -> Source:
    def source(uri: str, places: Places) -> Listing:
        try:
            found: Source = import_module(f"capstan_agent.{module}").listing
        except ModuleNotFoundError as error:
            raise SourceUnavailable(
                f"{uri.partition('://')[0]}:// needs {error.name}, which only the agent's image has: fetch"
                " there."
            ) from error
        return found(uri, places)

    return source


_OBJECTS, _WEB = _lazily("remote.objects"), _lazily("remote.web")
SOURCES: Mapping[str, Source] = {
    "pvc": _lazily("sources.pvc"),
    "file": _lazily("sources.local"),
    "s3": _OBJECTS,
    "gs": _OBJECTS,
    "az": _OBJECTS,
    "https": _WEB,
    "http": _WEB,
    "hf": _lazily("remote.hub"),
}


def listing(uri: str, places: Places) -> Listing:
    """What is at an address."""
    scheme, separator, rest = uri.partition("://")
    where = shown(uri)
    if not separator or not rest:
        raise InvalidURI(f"{where!r} is not an address: write {_examples()}.")
    source = SOURCES.get(scheme)
    if source is None:
        raise InvalidURI(f"{scheme + '://'!r} in {where!r} is not supported: use {_examples()}.")
    if not uri.isprintable():
        raise InvalidURI(f"{where!r} has a control character: write the plain path.")
    if scheme not in {"https", "http"}:
        named = rest.removeprefix("datasets/") if scheme == "hf" else rest
        places.allow.check(scheme, named.partition("/")[0])
    return source(uri, places)


def shown(uri: str) -> str:
    """The address without what may be secret in it: a user's name and password, a signature."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.partition("?")[0].rpartition("@")[2]
    if parts.scheme not in {"https", "http"}:
        return uri
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?..." if parts.query else "")


def _examples() -> str:
    return ", ".join(f"{name}://" for name in sorted(SOURCES))
