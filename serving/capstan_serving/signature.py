"""What a model takes and gives, as the native front end validates it and the metadata show it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output."""

    name: str
    datatype: str
    """As the protocol names it: FP32, INT64, BYTES, ..."""
    shape: tuple[int, ...]
    """-1 stands for any size above 0."""
    text: bool = False
    """BYTES elements are strings, so they must be UTF-8."""

    def metadata(self) -> dict[str, object]:
        """The form of the protocol's model metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in the model's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int | None = None
    """Rows of the first dimension that may be executed together; None when it is no batch dimension."""
    limited: bool = False
    """A request with more rows than `max_batch` is refused, rather than executed alone."""
