"""What is traced, as the protocol's trace extension sets it while the server runs."""

import threading
from collections.abc import Callable
from typing import Any

from capstan_serving.errors import InvalidArgument, Unimplemented

LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")

_DEFAULTS: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
}


class TraceSettings:
    """The settings of all models, and of single models where they have their own.

    A server that does not trace shows that it does not, and refuses to be told to.
    """

    def __init__(self, mode: str | None = None, changed: Callable[[str], None] = lambda _model: None) -> None:
        self._mode = mode
        self._changed = changed
        self._lock = threading.Lock()
        self._settings: dict[str, dict[str, Any]] = {"": {}}

    def show(self, model: str = "") -> dict[str, Any]:
        """The settings in effect for a model, or, without a name, for those without their own."""
        with self._lock:
            own = self._settings.get(model, {})
            return _DEFAULTS | self._settings[""] | own | {"trace_mode": self._mode or "triton"}

    def update(self, model: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Change settings, all or, when one is wrong, none; None takes one back to its default."""
        for name, value in changes.items():
            self._check(name, value)
        with self._lock:
            own = self._settings.setdefault(model, {})
            for name, value in changes.items():
                if value is None:
                    own.pop(name, None)
                else:
                    own[name] = value
        self._changed(model)
        return self.show(model)

    def _check(self, name: str, value: object) -> None:
        if name == "trace_file":
            raise Unimplemented("the trace's file cannot be changed over the network; use the command line")
        if name not in _DEFAULTS:
            raise InvalidArgument(f"{name!r} is no trace setting; they are {', '.join(_DEFAULTS)}")
        if value is None:
            return
        if name == "trace_level":
            self._check_level(value)
            return
        lowest = -1 if name == "trace_count" else 0
        number = value if isinstance(value, str) and value.removeprefix("-").isdecimal() else None
        if number is None or not lowest <= int(number) < 1 << 31:
            raise InvalidArgument(f"{name!r} must be a whole number from {lowest} on, as a string")

    def _check_level(self, value: object) -> None:
        if not isinstance(value, list) or not value or any(level not in LEVELS for level in value):
            raise InvalidArgument(f"'trace_level' must be a list of {', '.join(LEVELS)}")
        if "OFF" in value and len(value) > 1:
            raise InvalidArgument("'trace_level' is either OFF alone or without it")
        if value != ["OFF"] and self._mode is None:
            raise Unimplemented("this server does not trace")
