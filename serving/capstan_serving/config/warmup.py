"""The requests that a model answers before it is ready, so that none of its users pays for its first ones."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capstan_serving import strings
from capstan_serving.config import schema
from capstan_serving.errors import ModelLoadError
from capstan_serving.signature import Signature, TensorSpec

FOLDER = "warmup"
"""Of the files that samples name, in the model's folder."""

_DTYPES = {
    "BOOL": "?",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<u2",
    "BYTES": "O",
} | {
    f"{sign}INT{bits}": f"<{kind}{bits // 8}"
    for sign, kind in (("", "i"), ("U", "u"))
    for bits in (8, 16, 32, 64)
}

Inputs = dict[str, NDArray[Any]]


def samples(
    config: Any, signature: Signature, read: Callable[[str], Path], where: str
) -> Iterator[tuple[str, int, Inputs]]:
    """Each sample's name, how often it is executed, and its inputs. `read` finds a file of their folder."""
    for index, sample in enumerate(config.model_warmup):
        here = f"{where}: model_warmup[{index}]"
        batched = signature.max_batch is not None
        if batched and not 1 <= sample.batch_size <= (signature.max_batch or 0):
            raise ModelLoadError(
                f"{here}: batch_size must be from 1 to max_batch_size, {signature.max_batch}"
            )
        names = [spec.name for spec in signature.inputs]
        if sorted(sample.inputs) != sorted(names):
            raise ModelLoadError(f"{here} has the inputs {sorted(sample.inputs)}, the model {sorted(names)}")
        lead = (sample.batch_size,) if batched else ()
        inputs = {
            spec.name: _array(sample.inputs[spec.name], spec, lead, read, f"{here}: input {spec.name!r}")
            for spec in signature.inputs
        }
        yield sample.name or str(index), sample.count or 1, inputs


def _array(
    tensor: Any, spec: TensorSpec, lead: tuple[int, ...], read: Callable[[str], Path], where: str
) -> NDArray[Any]:
    shape = (*lead, *tensor.dims)
    wanted = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    if schema.data_type(tensor.data_type) != wanted:
        raise ModelLoadError(f"{where} must have data_type {wanted}")
    fits = len(shape) == len(spec.shape) and all(
        size > 0 and known in (-1, size) for size, known in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise ModelLoadError(f"{where} is {list(shape)}, the model has {list(spec.shape)}; correct dims")
    try:
        return _filled(tensor, spec, shape, read, where)
    except (MemoryError, ValueError) as error:
        raise ModelLoadError(
            f"{where} is {list(shape)}, for which there is no memory; correct dims"
        ) from error


def _filled(
    tensor: Any, spec: TensorSpec, shape: tuple[int, ...], read: Callable[[str], Path], where: str
) -> NDArray[Any]:
    dtype = np.dtype(_DTYPES[spec.datatype])
    match tensor.WhichOneof("input_data_type"):
        case "input_data_file":
            return _from_file(read(tensor.input_data_file), spec, dtype, shape, where)
        case "random_data" if spec.datatype != "BYTES":
            generator = np.random.default_rng(0)
            if dtype.kind == "f":
                return generator.random(shape).astype(dtype)
            # Small numbers, so that indices have a chance to be in range.
            return generator.integers(0, 2, shape).astype(dtype)
        case "zero_data" | "random_data":
            return (
                np.full(shape, "" if spec.text else b"", dtype)
                if dtype.kind == "O"
                else np.zeros(shape, dtype)
            )
        case _:
            raise ModelLoadError(f"{where} must say one of zero_data, random_data and input_data_file")


def _from_file(
    file: Path, spec: TensorSpec, dtype: np.dtype[Any], shape: tuple[int, ...], where: str
) -> NDArray[Any]:
    data = file.read_bytes()
    try:
        if spec.datatype == "BYTES":
            return strings.decode(data, shape, spec.text)
        return np.frombuffer(data, dtype).reshape(shape)
    except (ValueError, IndexError, OverflowError) as error:
        raise ModelLoadError(
            f"{where}: {file} does not hold a {spec.datatype} {list(shape)} ({error})"
        ) from error
    except Exception as error:  # struct.error of a string that is cut off
        raise ModelLoadError(f"{where}: {file} is cut off ({error})") from error
