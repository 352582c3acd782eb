"""What TensorRT is given beside a configuration's options: shapes to build for, a place for what it built."""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from capstan_serving.errors import ModelLoadError

PROVIDER = "TensorrtExecutionProvider"

Options = dict[str, str]

_PROFILES = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


def profiles(config: Any, options: Collection[str], where: str) -> Options:
    """The shapes that one engine has to answer, from 1 row to `max_batch_size`, unless `options` say so.

    Without them an engine is built for the first shape, and again for each that does not fit it, while
    requests wait. They follow from a configuration whose inputs have no open sizes but the rows.
    """
    given = [name for name in _PROFILES if name in options]
    if given and len(given) < len(_PROFILES):
        missing = next(name for name in _PROFILES if name not in options)
        raise ModelLoadError(f"{where}: {given[0]} means nothing without {missing}; give all three of them")
    rows = config.max_batch_size
    shapes = {
        tensor.name: tuple(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
        for tensor in config.input
    }
    # A profile is written as name:1x2x3, with commas between.
    written = all(not set(name) & set(":,") and min(shape, default=1) > 0 for name, shape in shapes.items())
    if given or rows < 1 or not shapes or not written:
        return {}
    likely = max(config.dynamic_batching.preferred_batch_size, default=rows)
    return {
        name: ",".join(f"{tensor}:{'x'.join(map(str, (size, *shape)))}" for tensor, shape in shapes.items())
        for name, size in zip(_PROFILES, (1, likely, rows), strict=True)
    }


def cached(
    choices: Sequence[Sequence[tuple[str, Options]]], cache: Path, file: Path
) -> list[list[tuple[str, Options]]]:
    """Each device's providers, with TensorRT's engines and timings kept in a folder of the model's own."""
    if not any(name == PROVIDER for choice in choices for name, _ in choice):
        return [list(choice) for choice in choices]
    folder = cache / _digest(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelLoadError(f"--engine-cache cannot be used ({error}); name another folder") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ModelLoadError(f"--engine-cache: {folder} cannot be written; correct its mode or name another")
    kept: Mapping[str, str] = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    return [
        [(name, {**kept, **options} if name == PROVIDER else options) for name, options in choice]
        for choice in choices
    ]


def _digest(file: Path) -> str:
    """By the content of a model's files, for engines hold the weights."""
    digest = hashlib.sha256()
    for path in sorted(path for path in file.parent.rglob("*") if path.is_file() and not path.is_symlink()):
        with path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:32]
