"""Running other programs, with what they printed kept for the one case that it is wanted: they failed."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

_SHOWN = 40


class ImageError(Exception):
    """An image could not be made; the message says which program said what, or what to install."""


def succeeds(argv: Sequence[str]) -> bool:
    """Whether a program is there and ends well."""
    try:
        return (
            subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


def run(argv: Sequence[str | Path], stdin: str = "") -> str:
    """Run a program and return its standard output; if it fails, raise ImageError with its last lines."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise ImageError(f"{words[0]} is not installed") from None
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN:])
        raise ImageError(f"`{' '.join(words[:3])} ...` failed with status {done.returncode}:\n{last}")
    return done.stdout
