"""`file:///path`: a file or folder of the machine itself. Off unless the allow list has `file`."""

from pathlib import Path

from capstan_agent.errors import InvalidURI
from capstan_agent.sources import Places, pvc
from capstan_agent.sources.listing import Listing


def listing(uri: str, _places: Places) -> Listing:
    """What is at an absolute path."""
    path = uri.removeprefix("file://")
    segments = path.removeprefix("/").rstrip("/").split("/")
    if not path.startswith("/") or any(segment in {"", ".", ".."} for segment in segments):
        raise InvalidURI(f"{uri!r} is no plain absolute path: write file:///path/to/the/model.")
    return pvc.below(Path("/"), segments, uri, "file://")
