"""What is logged, as the protocol's logging extension sets it while the server runs."""

import logging
from typing import Any

from capstan_serving.errors import InvalidArgument, Unimplemented

_FLAGS = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}

FORMATS = {"default": None, "ISO8601": "%Y-%m-%dT%H:%M:%S%z"}
"""The names of log formats, and how each writes the time."""

LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"


class LogSettings:
    """The settings of a logger and its handlers. Where the log goes cannot be changed over the network."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger()
        self._values: dict[str, Any] = {
            "log_file": "",
            "log_info": True,
            "log_warning": True,
            "log_error": True,
            "log_verbose_level": 0,
            "log_format": "default",
        }

    def show(self) -> dict[str, Any]:
        """All settings."""
        return dict(self._values)

    def update(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Change some settings (None leaves one as it is), all or, when one is wrong, none of them."""
        values = {name: value for name, value in changes.items() if value is not None}
        for name, value in values.items():
            self._check(name, value)
        self._values |= values
        self._apply()
        return self.show()

    def _check(self, name: str, value: object) -> None:
        if name == "log_file":
            raise Unimplemented("the log's file cannot be changed over the network; use the command line")
        if name in _FLAGS:
            if not isinstance(value, bool):
                raise InvalidArgument(f"{name!r} must be true or false")
        elif name == "log_verbose_level":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidArgument(f"{name!r} must be a whole number, 0 or more")
        elif name == "log_format":
            if value not in FORMATS:
                raise InvalidArgument(f"{name!r} must be one of {', '.join(FORMATS)}")
        else:
            raise InvalidArgument(f"{name!r} is no log setting; they are {', '.join(self._values)}")

    def _apply(self) -> None:
        self._logger.setLevel(logging.DEBUG if self._values["log_verbose_level"] else logging.INFO)
        formatter = logging.Formatter(LINE, FORMATS[self._values["log_format"]])
        for handler in self._logger.handlers:
            handler.removeFilter(self._wanted)
            handler.addFilter(self._wanted)
            handler.setFormatter(formatter)

    def _wanted(self, record: logging.LogRecord) -> bool:
        level = min(record.levelno, logging.ERROR)
        name = next((name for name, number in _FLAGS.items() if number == level), None)
        return name is None or bool(self._values[name])
