"""One line a record, as JSON for machines or as text for people; kopf and the client speak the same way.

Control characters never reach the terminal: names and messages from the cluster are quoted as JSON strings.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

#: Chatty libraries: heard only from WARNING on, unless the operator itself is asked to debug.
LIBRARIES = ("kopf", "aiohttp", "asyncio", "kubernetes")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {name: value for name, value in fields.items() if value is not None}


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "message", ...the record's own fields..., "exception"}."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """time LEVEL message field=value ...; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        message = record.getMessage()
        if not message.isprintable():
            message = json.dumps(message)
        parts = [_time(record), f"{record.levelname:<7}", message]
        for name, value in _fields(record).items():
            text = str(value)
            plain = text.isprintable() and not set(text) & set(' "=')
            parts.append(f"{name}={text if plain else json.dumps(text)}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _WithoutNoise(logging.Filter):
    """kopf warns that it handles no signals when it runs in a thread, which is just why it does."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "OS signals are ignored" not in record.getMessage()


class _WithoutTracebacks(logging.Filter):
    """Why kopf gives up (it may not log in, the API stays away) is a line; where it was then is not ours.

    Of objects it tells what our handler does: that would be a bug, and needs its traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        first, _, rest = record.name.partition(".")
        if first == "kopf" and rest.partition(".")[0] != "objects" and record.exc_info:
            record.msg, record.args = f"{record.getMessage()} ({_chain(record.exc_info[1])})", ()
            record.exc_info = record.exc_text = None
        return True


def _chain(error: BaseException | None) -> str:
    """An error and what led to it, on one line."""
    found: list[str] = []
    while error is not None and len(found) < 5:
        found.append(repr(error))
        error = error.__cause__ or error.__context__
    return ", after ".join(found)


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Send all logging of the process to `stream` (stderr): `level` is a name, `style` json or text."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(_WithoutNoise())
    if level.upper() != "DEBUG":
        handler.addFilter(_WithoutTracebacks())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if level.upper() == "DEBUG" else logging.WARNING)
