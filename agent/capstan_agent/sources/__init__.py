"""Where models come from: one module for each scheme, registered in SOURCES.

A source turns an address into a listing of files that can be opened; it copies nothing and decides nothing
about where they go.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from capstan_agent.errors import InvalidURI
from capstan_agent.sources import pvc
from capstan_agent.sources.listing import Listing

Source = Callable[[str, Path], Listing]

SOURCES: Mapping[str, Source] = {"pvc": pvc.listing}


def listing(uri: str, claims: Path) -> Listing:
    """What is at an address. `claims` is the folder below which volume claims are mounted by their names."""
    scheme, separator, rest = uri.partition("://")
    if not separator or not rest:
        raise InvalidURI(f"{uri!r} is not an address: write pvc://<claim>/<path to the model>.")
    source = SOURCES.get(scheme)
    if source is None:
        supported = ", ".join(f"{name}://" for name in sorted(SOURCES))
        raise InvalidURI(f"{scheme}:// in {uri!r} is not supported: use {supported}.")
    return source(rest, claims)
