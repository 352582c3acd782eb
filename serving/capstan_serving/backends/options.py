"""A session's options: what a configuration says of it, by the names of Triton's ONNX Runtime backend."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from capstan_serving.config.plan import MAX_THREADS, number
from capstan_serving.errors import ModelLoadError

_GRAPH_LEVELS = {0: "ALL", 1: "EXTENDED", -1: "BASIC", 2: "DISABLE_ALL"}

_ENTRIES = (
    "session.use_device_allocator_for_initializers",
    "session.intra_op.allow_spinning",
    "session.inter_op.allow_spinning",
    "session.set_denormal_as_zero",
    "session.disable_prepacking",
)
_NUMBERS = ("intra_op_thread_count", "inter_op_thread_count", "latency_objective_microseconds")
_SWITCHES = (
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
    *_ENTRIES,
)
_SHRINK = "memory.enable_memory_arena_shrinkage"
SUPPORTED = (*_NUMBERS, *_SWITCHES, _SHRINK)

_ELSEWHERE = {
    "cudnn_conv_algo_search": "cuda",
    "gpu_mem_limit": "cuda",
    "arena_extend_strategy": "cuda",
    "do_copy_in_default_stream": "cuda",
}
"""Triton's deprecated places of options."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The defaults leave parallelism to the server's workers.

    A pool of threads below them, above all a spinning one, takes the processors from them: with it,
    throughput halves as soon as anything else runs.
    """

    intra_op_threads: int = 1
    """0: as many as there are cores."""
    inter_op_threads: int = 1
    parallel: bool = False
    """Branches of the graph are executed at the same time, by the inter-op threads."""
    graph_level: str = "ALL"
    """ONNX Runtime's name of what it optimizes: ALL, EXTENDED, BASIC or DISABLE_ALL."""
    mem_arena: bool = True
    mem_pattern: bool = True
    shrink: str = ""
    """Arenas that give memory back after each execution, such as `cpu:0;gpu:0`."""
    entries: Mapping[str, str] = field(
        default_factory=lambda: {
            "session.intra_op.allow_spinning": "0",
            "session.inter_op.allow_spinning": "0",
        }
    )

    def check(self, gpus: Collection[int], where: str) -> None:
        """Refuse to shrink an arena that a session does not have: each execution would fail by that.

        `gpus` are those that execute the model, by a session each."""
        have = {"cpu", "cpu:0"} if self.mem_arena else set()
        if len(gpus) == 1:
            have |= {f"gpu:{gpu}" for gpu in gpus}
        if strange := [arena for arena in self.shrink.split(";") if arena and arena not in have]:
            raise ModelLoadError(
                f"{where}: the parameter {_SHRINK} names {strange[0]!r}; the model's arenas are "
                f"{', '.join(sorted(have)) or 'none'}"
            )


DEFAULT = SessionOptions()


def read(config: Any, where: str) -> SessionOptions:
    """The options that a configuration's parameters and graph level name."""
    for key in config.parameters:
        if key in _ELSEWHERE:
            raise ModelLoadError(
                f"{where}: the parameter {key} belongs to the accelerator {_ELSEWHERE[key]!r} of "
                "optimization.execution_accelerators; move it there"
            )
        if key not in SUPPORTED:
            known = ", ".join(SUPPORTED)
            raise ModelLoadError(f"{where}: the parameter {key!r} is not supported; supported are {known}")
    level = config.optimization.graph.level
    if level not in _GRAPH_LEVELS:
        raise ModelLoadError(f"{where}: optimization.graph.level must be -1, 0, 1 or 2, not {level}")
    entries = {
        key: str(int(_switch(config, key, False, where))) for key in _ENTRIES if key in config.parameters
    }
    return SessionOptions(
        intra_op_threads=_threads(config, "intra_op_thread_count", where),
        inter_op_threads=_threads(config, "inter_op_thread_count", where),
        parallel=_switch(config, "execution_mode", False, where),
        graph_level=_GRAPH_LEVELS[level],
        mem_arena=_switch(config, "enable_mem_arena", True, where),
        mem_pattern=_switch(config, "enable_mem_pattern", True, where),
        shrink=config.parameters[_SHRINK].string_value if _SHRINK in config.parameters else "",
        entries={**DEFAULT.entries, **entries},
    )


def _threads(config: Any, key: str, where: str) -> int:
    threads = number(config, key, where, 1)
    if threads > MAX_THREADS:
        raise ModelLoadError(f"{where}: the parameter {key} must be {MAX_THREADS} at most, not {threads}")
    return threads


def _switch(config: Any, key: str, default: bool, where: str) -> bool:
    value = number(config, key, where, int(default))
    if value > 1:
        raise ModelLoadError(f"{where}: the parameter {key} must be 0 or 1, not {value}")
    return bool(value)
