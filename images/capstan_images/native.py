"""The serving wheel, compiled on this machine: for an image build that has no Rust image to compile it in."""

import shutil
from pathlib import Path

from capstan_images.catalogue import ROOT
from capstan_images.commands import run

FOLDER = ROOT / "dist" / "native"
"""Where the Dockerfile's stage `native-prebuilt` looks; it holds one wheel."""


def make() -> None:
    """Compile the wheel; what did not change since the last time is not compiled again."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    constraints = ROOT / "serving" / "build-constraints.txt"
    build: list[str | Path] = ["uv", "build", "--quiet", "--wheel", "--package", "capstan-serving"]
    run([*build, "--build-constraints", constraints, "--require-hashes", "--out-dir", FOLDER, ROOT])
