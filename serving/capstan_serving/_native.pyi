"""The native front end, `serving/native`."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict

from numpy.typing import NDArray

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

class Control(Protocol):
    """Answers the routes that are not hot, on threads of the server."""

    def http(self, door: str, method: str, path: list[str], body: bytes) -> tuple[str, bytes]:
        """The content type and the body for a request to the port named `door`: http or metrics."""
    def rpc(self, name: str, request: str) -> str:
        """The response to a gRPC call; request and response are JSON."""

class ModelStatistics(TypedDict):
    """A model's counters since it was loaded. A pair is a count and its nanoseconds."""

    name: str
    version: str
    pending: int
    rejected: int
    cancelled: int
    backend_failed: int
    other_failed: int
    inferences: int
    executions: int
    last_inference: int
    """Milliseconds since the epoch; 0 before the first."""
    success: tuple[int, int]
    failed: tuple[int, int]
    queue: tuple[int, int]
    compute_input: tuple[int, int]
    compute_infer: tuple[int, int]
    compute_output: tuple[int, int]
    duration_buckets: tuple[int, ...]

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
