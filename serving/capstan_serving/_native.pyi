"""The native front end, `serving/native`."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from .control import Control
from .counters import ModelStatistics
from .signature import Signature

DURATION_BOUNDS_US: tuple[int, ...]
"""Upper bounds of `ModelStatistics.duration_buckets`, which has one more, without bound."""

class Batch:
    """What a backend executes."""

    def __new__(cls, inputs: dict[str, NDArray[Any]], outputs: tuple[str, ...]) -> Batch: ...
    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """Read-only views on the requests' buffers, by name; BYTES are object arrays, BF16 are uint16."""
    @property
    def outputs(self) -> tuple[str, ...]:
        """What to return, in this order."""

class Memory:
    """A request's bytes, for memoryview() and numpy."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...

class Server:
    """The front end. It listens from its creation on, and is ready when it is told so."""

    def __new__(
        cls,
        control: Control,
        *,
        host: str,
        ports: tuple[int, int, int],
        max_request_bytes: int,
        queue_size: int,
    ) -> Server:
        """Listen on the ports for HTTP, gRPC and metrics (0: any). OSError when one is taken."""
    @property
    def http_port(self) -> int: ...
    @property
    def grpc_port(self) -> int: ...
    @property
    def metrics_port(self) -> int: ...
    @property
    def ready(self) -> bool: ...
    def set_ready(self, ready: bool) -> None: ...
    def add_model(
        self,
        name: str,
        version: int,
        *,
        signature: Signature,
        execute: Callable[[Batch], Sequence[NDArray[Any]]],
        workers: int,
    ) -> None:
        """Serve a model: `workers` threads call `execute`."""
    def add_failed_model(self, name: str, version: int) -> None:
        """Answer requests for this version with UNAVAILABLE."""
    def drain(self, timeout: float) -> bool:
        """Stop accepting and finish what was accepted; whether that was done within `timeout` seconds."""
    def statistics(self) -> list[ModelStatistics]: ...
