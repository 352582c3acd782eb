"""Log lines are one line each, structured, and safe to print."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from capstan_operator.shell import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in logs.LIBRARIES}
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def logged(style: str, level: str = "info") -> tuple[io.StringIO, logging.Logger]:
    stream = io.StringIO()
    logs.configure(level, style, stream)
    return stream, logging.getLogger("capstan_operator.test")


def test_json_carries_the_fields() -> None:
    stream, logger = logged("json")
    fields = {"kind": "TrainingJob", "name": "w\n\x1b[31m", "generation": None, "duration": 0.25}
    logger.info("reconciled", extra={"fields": fields})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["kind"], line["duration"]) == ("reconciled", "TrainingJob", 0.25)
    assert "generation" not in line
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_json_carries_the_traceback_in_its_line() -> None:
    stream, logger = logged("json")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logger.exception("a bug")
    assert stream.getvalue().count("\n") == 1
    assert "ZeroDivisionError" in json.loads(stream.getvalue())["exception"]


def test_text_quotes_what_could_be_mistaken() -> None:
    stream, logger = logged("text")
    logger.info(
        "said\r\x1b[2J", extra={"fields": {"name": "a b", "kind": "TrainingJob", "detail": 'x="\x07"'}}
    )
    line = stream.getvalue()
    assert "kind=TrainingJob" in line
    assert 'name="a b"' in line
    assert line.strip().isprintable()


def test_libraries_are_heard_from_warning_on_and_in_the_same_form() -> None:
    stream, _ = logged("json")
    kopf = logging.getLogger("kopf._core.reactor.running")
    kopf.info("Initial authentication has been initiated.")
    kopf.warning("OS signals are ignored: running not in the main thread.")
    kopf.warning("Unresolved resources cannot be served")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["Unresolved resources cannot be served"]
    assert logging.getLogger("kopf").level == logging.WARNING


def test_debug_hears_them_all() -> None:
    stream, _ = logged("text", "debug")
    logging.getLogger("kopf").debug("hello")
    assert "hello" in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "name", "told"),
    [
        ("info", "kopf._cogs.aiokits.aiotasks", False),
        ("info", "kopf.activities.authentication", False),
        ("info", "kopf.objects", True),
        ("info", "capstan_operator.shell.run", True),
        ("debug", "kopf._cogs.aiokits.aiotasks", True),
    ],
)
def test_where_kopf_was_when_it_gave_up_is_for_who_debugs(level: str, name: str, told: bool) -> None:
    stream, _ = logged("text", level)
    try:
        raise PermissionError("401 Unauthorized")
    except PermissionError as error:
        logging.getLogger(name).exception(f"The login has failed: {error}")
    assert "The login has failed: 401 Unauthorized" in stream.getvalue().replace('"', "")
    assert ("Traceback" in stream.getvalue()) is told


def test_why_it_gave_up_is_told_also_where_the_message_does_not_say() -> None:
    stream, _ = logged("text", "info")
    try:
        try:
            raise KeyError("spec")
        except KeyError as error:
            raise RuntimeError("the worker has failed") from error
    except RuntimeError:
        logging.getLogger("kopf._core.reactor.queueing").exception("Event processing has failed.")
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError('the worker has failed'), after KeyError('spec')" in line.replace('\\"', '"')
