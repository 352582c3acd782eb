from collections.abc import Callable, Sequence
from typing import Any, Self

from numpy.typing import NDArray

from .control import Control
from .counters import ModelStatistics
from .scheduling import Scheduling
from .signature import Signature

# Upper bounds of the histograms of `ModelStatistics`, which have one bucket more, without bound.
DURATION_BOUNDS_US: tuple[int, ...]
BATCH_BOUNDS: tuple[int, ...]

# What a backend executes.
class Batch:
    def __new__(cls, inputs: dict[str, NDArray[Any]], outputs: tuple[str, ...]) -> Self: ...
    # Read-only views on the requests' buffers, by name; BYTES are object arrays, BF16 are uint16.
    @property
    def inputs(self) -> dict[str, NDArray[Any]]: ...
    # What to return, in this order.
    @property
    def outputs(self) -> tuple[str, ...]: ...

# A request's bytes, for memoryview() and numpy.
class Memory:
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...

# A model that was added.
class Handle:
    # Once it is replaced or removed: whether its last request was answered within `timeout` seconds.
    def wait(self, timeout: float) -> bool: ...

# What requests are recorded in, to be exported.
class Tracer:
    # `ratio` of the traces is recorded, and, if it is `parent_based`, what the sender of a request says is.
    # `queue_size` spans wait at most; `batch_size` are taken together.
    def __new__(
        cls,
        *,
        resource: list[tuple[str, str]],
        parent_based: bool,
        ratio: float,
        queue_size: int,
        batch_size: int,
    ) -> Self: ...
    # Set what is traced of a model, or, without a name, of all without their own settings.
    def set(self, model: str, *, timestamps: bool, rate: int, count: int, log_frequency: int) -> None: ...
    # How many requests are traced yet; below 0: without end.
    def left(self, model: str) -> int: ...
    # Wait for a batch, or `timeout` seconds for what there is: an export request, and how many spans it has.
    def take(self, timeout: float) -> tuple[bytes, int] | None: ...
    # From here on `take` does not wait.
    def close(self) -> None: ...
    # Spans that found no room.
    @property
    def dropped(self) -> int: ...

# The front end. It listens from its creation on, and is ready when it is told so.
class Server:
    # Listen on the ports for HTTP, gRPC and metrics (0: any). OSError when one is taken.
    def __new__(
        cls,
        control: Control,
        *,
        host: str,
        ports: tuple[int, int, int],
        max_request_bytes: int,
        max_inflight_bytes: int,
        queue_size: int,
        max_connections: int,
        client_timeout: float,
        allow_shared_memory: bool = False,
        response_cache_bytes: int = 0,
        tracer: Tracer | None = None,
    ) -> Self: ...
    @property
    def http_port(self) -> int: ...
    @property
    def grpc_port(self) -> int: ...
    @property
    def metrics_port(self) -> int: ...
    @property
    def ready(self) -> bool: ...
    def set_ready(self, ready: bool) -> None: ...
    # Serve a model: `workers` threads call `execute`. Labels are those of outputs' elements.
    def add_model(
        self,
        name: str,
        version: int,
        *,
        signature: Signature,
        execute: Callable[[Batch], Sequence[NDArray[Any]]],
        workers: int,
        scheduling: Scheduling,
        labels: dict[str, list[str]] = ...,
    ) -> Handle: ...
    # Serve a version no longer; its name stays known. Requests that found it are still answered by it.
    def remove_model(self, name: str, version: int) -> None: ...
    # The same with all versions, and the name.
    def forget_model(self, name: str) -> None: ...
    # Answer requests for this version with UNAVAILABLE.
    def add_failed_model(self, name: str, version: int) -> None: ...
    # Stop accepting and finish what was accepted; whether that was done within `timeout` seconds.
    def drain(self, timeout: float) -> bool: ...
    def statistics(self) -> list[ModelStatistics]: ...
    # By door: how many are open, and how many were refused.
    def connections(self) -> list[tuple[str, int, int]]: ...
