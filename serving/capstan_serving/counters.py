"""What the native front end counts, as `Server.statistics` gives it."""

from typing import TypedDict

Histogram = tuple[tuple[int, ...], int]
"""Events by bucket (not cumulative), and the sum of what was observed: nanoseconds, or rows."""


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
    cache_hit: tuple[int, int]
    cache_miss: tuple[int, int]
    request_times: Histogram
    """Of successful requests, from queueing to answer."""
    queue_times: Histogram
    compute_times: Histogram
    """Of executions."""
    batch_rows: Histogram
    """Of executions."""
    by_rows: dict[int, tuple[int, int, int, int]]
    """Executions by their rows: how many, and the nanoseconds of their inputs, inferences and outputs."""
