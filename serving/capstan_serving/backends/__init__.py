"""Backends execute batches. Each is one module with a class of this protocol."""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from capstan_serving._native import Batch
from capstan_serving.signature import Signature


class Backend(Protocol):
    """A loaded model."""

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""

    @property
    def platform(self) -> str:
        """The name of the model's kind in the metadata."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What executes it, the first choice first."""

    def execute(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """The outputs that the batch asks for, in its order. Called from several threads at once."""

    def close(self) -> None:
        """Give everything back. Nothing is executed any more."""
