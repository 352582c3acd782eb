"""What is traced, as the protocol's trace extension sets it while the server runs."""

import re
import threading
from typing import Any, Protocol

from capstan_serving.errors import InvalidArgument, Unimplemented

LEVELS = ("OFF", "TIMESTAMPS")

_NUMBER = re.compile("-?[0-9]{1,10}")

_OFF: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Of a server that does not trace: as Triton has them."""

_ON = _OFF | {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_mode": "opentelemetry"}
"""Every request, of which the sampler takes its part."""


class Recorder(Protocol):
    """What records traces."""

    def set(self, model: str, /, *, timestamps: bool, rate: int, count: int, log_frequency: int) -> None:
        """Set what is traced of a model, or, without a name, of all without their own settings."""

    def left(self, model: str, /) -> int:
        """How many requests are traced yet; below 0: without end."""


class TraceSettings:
    """The settings of all models, and of single models where they have their own.

    A server that does not trace shows that it does not, and refuses to be told to.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._defaults = _ON if recorder else _OFF
        self._lock = threading.Lock()
        self._own: dict[str, dict[str, Any]] = {"": {}}
        self._record("")

    def show(self, model: str = "") -> dict[str, Any]:
        """The settings in effect for a model, or, without a name, for those without their own."""
        with self._lock:
            settings = self._effective(model)
            if self._recorder:
                settings["trace_count"] = str(self._recorder.left(model))
        return settings

    def update(self, model: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Change settings, all or, when one is wrong, none; None takes one back to its default."""
        for name, value in changes.items():
            self._check(name, value)
        if changes:
            with self._lock:
                own = self._own.setdefault(model, {})
                for name, value in changes.items():
                    if value is None:
                        own.pop(name, None)
                    else:
                        own[name] = value
                for other in [model] if model else self._own:
                    self._record(other)
        return self.show(model)

    def _effective(self, model: str) -> dict[str, Any]:
        return self._defaults | self._own[""] | self._own.get(model, {})

    def _record(self, model: str) -> None:
        if self._recorder:
            settings = self._effective(model)
            self._recorder.set(
                model,
                timestamps="TIMESTAMPS" in settings["trace_level"],
                rate=int(settings["trace_rate"]),
                count=int(settings["trace_count"]),
                log_frequency=int(settings["log_frequency"]),
            )

    def _check(self, name: str, value: object) -> None:
        if name == "trace_file":
            raise Unimplemented("the trace's file cannot be changed over the network: traces are exported")
        if name == "trace_mode" and value not in (None, self._defaults[name]):
            raise Unimplemented("the trace's mode cannot be changed over the network; use the command line")
        if name not in _OFF:
            raise InvalidArgument(f"{name!r} is no trace setting; they are {', '.join(_OFF)}")
        if value is None or name == "trace_mode":
            return
        if name == "trace_level":
            self._check_level(value)
            return
        lowest = -1 if name == "trace_count" else 0
        number = int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None
        if number is None or not lowest <= number < 1 << 31:
            raise InvalidArgument(f"{name!r} must be a whole number from {lowest} on, as a string")

    def _check_level(self, value: object) -> None:
        if isinstance(value, list) and "TENSORS" in value:
            raise Unimplemented("tensors are not traced; ask for the trace_level TIMESTAMPS")
        if not isinstance(value, list) or not value or any(level not in LEVELS for level in value):
            raise InvalidArgument(f"'trace_level' must be a list of {', '.join(LEVELS)}")
        if "OFF" in value and len(value) > 1:
            raise InvalidArgument("'trace_level' is either OFF alone or without it")
        if value != ["OFF"] and not self._recorder:
            raise Unimplemented("this server does not trace; start it with --trace-otlp-endpoint")
