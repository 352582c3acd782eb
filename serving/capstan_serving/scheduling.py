"""How a model's requests wait and are put together: what `config.pbtxt` says of it, under its names.

The defaults are those of a model that has no configuration: what waits is executed together, and nothing
waits for more to come. The native front end reads these classes by their fields' names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """The rules of one queue. Its default obeys a request's timeout; Triton's has to be told to."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    """What happens to a request that waited too long: it is refused, or waits until all others are done."""
    default_timeout_microseconds: int = 0
    """How long a request may wait that does not say; 0: for ever."""
    allow_timeout_override: bool = True
    """A request may say that it waits less long."""
    max_queue_size: int = 0
    """Requests that may wait; more are refused. 0: as many as the server lets wait for a model."""


@dataclass(frozen=True, slots=True)
class Scheduling:
    """A model's scheduling. Sizes are in rows, as `Signature.max_batch` is."""

    batching: bool = True
    """Requests of equal shapes are executed together, if the model has a batch dimension."""
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    """How long the oldest request may wait for others to come, while a worker is free."""
    preserve_ordering: bool = False
    """Requests are answered in the order in which they came."""
    priority_levels: int = 0
    """Priorities of requests go from 1, the highest, to this; 0: there are none."""
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policy: Mapping[int, QueuePolicy] = field(default_factory=dict)
    """Of the levels that have their own."""
    latency_objective_microseconds: int = 0
    """How long a request may take in all; one that cannot make it is refused at once. 0: no limit."""
    response_cache: bool = False
