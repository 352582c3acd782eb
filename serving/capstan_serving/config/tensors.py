"""A configuration's inputs and outputs, held against those of the model itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from capstan_serving.config import schema
from capstan_serving.errors import ModelLoadError
from capstan_serving.signature import Signature, TensorSpec

_TYPES = {
    "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_"): name for name in schema.DATA_TYPES[1:]
}
"""By the protocol's names."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """A tensor that requests see in another shape than the model. Sizes of -1 go over in their order."""

    seen: tuple[int, ...]
    """By the requests, without the batch dimension."""
    given: tuple[int, ...]
    """To the model."""
    batched: bool

    def to_model(self, array: NDArray[Any]) -> NDArray[Any]:
        """An input as the model takes it."""
        return _reshaped(array, self.seen, self.given, self.batched)

    def from_model(self, array: NDArray[Any]) -> NDArray[Any]:
        """An output as the request gets it."""
        return _reshaped(array, self.given, self.seen, self.batched)


def _reshaped(array: NDArray[Any], old: tuple[int, ...], new: tuple[int, ...], batched: bool) -> NDArray[Any]:
    lead = array.shape[:1] if batched else ()
    sizes = array.shape[len(lead) :]
    open_sizes = iter(size for size, dimension in zip(sizes, old, strict=True) if dimension == -1)
    return array.reshape((*lead, *(next(open_sizes) if size == -1 else size for size in new)))


@dataclass(frozen=True, slots=True)
class Tensors:
    """What requests see, and how that differs from what the model does."""

    signature: Signature
    inputs: dict[str, Reshape]
    outputs: dict[str, Reshape]


def resolve(config: Any, model: Signature, where: str) -> Tensors:
    """Check a configuration's tensors against the model's and take from the model what it leaves out.

    The configuration is completed in place: afterwards it says what is in effect.
    """
    told = config.HasField("max_batch_size")
    _complete(config, model)
    if config.max_batch_size < 0:
        raise ModelLoadError(
            f"{where}: max_batch_size must not be negative; 0 says that there is no batch dimension"
        )
    batched = config.max_batch_size > 0
    reshaped_in: dict[str, Reshape] = {}
    reshaped_out: dict[str, Reshape] = {}
    inputs = _specs(config.input, model.inputs, "input", batched, where, reshaped_in)
    outputs = _specs(config.output, model.outputs, "output", batched, where, reshaped_out)
    signature = Signature(inputs, outputs, config.max_batch_size or None, limited=told and batched)
    return Tensors(signature, reshaped_in, reshaped_out)


def _complete(config: Any, model: Signature) -> None:
    if not config.HasField("max_batch_size"):
        # Triton's default is 0; only a configuration that says nothing of tensors leaves it to the model.
        told = len(config.input) or len(config.output)
        config.max_batch_size = 0 if told else model.max_batch or 0
    batched = config.max_batch_size > 0
    for field, specs in ((config.input, model.inputs), (config.output, model.outputs)):
        if not len(field):
            for spec in specs:
                dims = spec.shape[1:] if batched else spec.shape
                field.add(name=spec.name, data_type=_TYPES[spec.datatype], dims=dims)


def _specs(
    configured: Sequence[Any],
    specs: tuple[TensorSpec, ...],
    what: str,
    batched: bool,
    where: str,
    reshapes: dict[str, Reshape],
) -> tuple[TensorSpec, ...]:
    names = [tensor.name for tensor in configured]
    known = {spec.name: spec for spec in specs}
    if len(set(names)) != len(names):
        raise ModelLoadError(f"{where}: an {what} is there twice; remove one")
    if strange := [name for name in names if name not in known]:
        raise ModelLoadError(
            f"{where}: the model has no {what} {strange[0]!r}; its {what}s are {', '.join(map(repr, known))}"
        )
    if what == "input" and (missing := [name for name in known if name not in names]):
        raise ModelLoadError(f"{where}: the model's input {missing[0]!r} is missing; add it")
    by_name = {tensor.name: tensor for tensor in configured}
    return tuple(
        _spec(by_name[spec.name], spec, f"{where}: {what} {spec.name!r}", batched, reshapes)
        for spec in specs
        if spec.name in by_name
    )


def _spec(
    tensor: Any, spec: TensorSpec, where: str, batched: bool, reshapes: dict[str, Reshape]
) -> TensorSpec:
    data_type = schema.data_type(tensor.data_type)
    if data_type != _TYPES[spec.datatype]:
        raise ModelLoadError(
            f"{where} has data_type {data_type}, the model has {_TYPES[spec.datatype]}; correct it"
        )
    dims, shape = tuple(tensor.dims), tuple(tensor.reshape.shape)
    reshaped = tensor.HasField("reshape")
    if not dims and not (reshaped or batched or not spec.shape):
        raise ModelLoadError(f"{where} has no dims; add the model's, {list(spec.shape)}")
    if any(size == 0 or size < -1 for size in (*dims, *shape)):
        raise ModelLoadError(f"{where} has dims {list(dims)}; each must be above 0, or -1 for any size")
    if getattr(tensor, "format", 0) and len(dims) != 3:
        raise ModelLoadError(f"{where} has a format, which needs three dims; remove the format")
    lead = (-1,) if batched else ()
    given = lead + (shape if reshaped else dims)
    if len(given) != len(spec.shape) or not all(
        size in (-1, wanted) for size, wanted in zip(spec.shape, given, strict=True)
    ):
        hint = " (max_batch_size above 0 adds a first dimension of -1)" if batched else ""
        raise ModelLoadError(
            f"{where} is {list(given)}{hint}, the model has {list(spec.shape)}; correct dims"
        )
    if reshaped:
        if dims.count(-1) != shape.count(-1) or _known(dims) != _known(shape):
            raise ModelLoadError(f"{where} cannot be reshaped from {list(dims)} to {list(shape)}")
        reshapes[spec.name] = Reshape(dims, shape, batched)
    return TensorSpec(spec.name, spec.datatype, (*lead, *dims), spec.text)


def _known(dims: tuple[int, ...]) -> int:
    product = 1
    for size in dims:
        product *= 1 if size == -1 else size
    return product


def label_files(config: Any) -> dict[str, str]:
    """The names of the outputs' label files, in the model's folder."""
    return {output.name: output.label_filename for output in config.output if output.label_filename}


def labels(file: Path) -> list[str]:
    """A file's labels, one a line."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"the labels {file} cannot be read ({error}); write one label a line") from error
    # Not splitlines(), to which form feeds and others end a line, too.
    return text.removesuffix("\n").split("\n") if text else []
