"""The model server's page has every flag as `--help` shows it, and every field of a configuration."""

from pathlib import Path

import pytest
from capstan_serving import settings
from capstan_serving.backends import options, providers
from capstan_serving.config.refusals import REFUSED
from capstan_serving.config.schema import ModelConfig

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()


def rows():
    """A line of the table for each flag."""
    for action in settings.parser()._actions:
        if action.dest not in ("help", "version"):
            shown = (action.help % {"default": action.default}).replace("<", r"\<")
            flags = ", ".join(f"`{flag}`" for flag in action.option_strings)
            yield f"| {flags} | {shown} |"


@pytest.mark.parametrize("row", list(rows()))
def test_every_flag_is_there_as_the_help_has_it(row):
    assert row in PAGE.splitlines()


def test_every_field_is_there():
    for field in ModelConfig.DESCRIPTOR.fields:
        assert f"`{field.name}`" in PAGE, field.name


def test_every_refusal_is_there():
    for path in REFUSED:
        field = ".".join(path.rsplit(".", 2 if path.endswith(".enable") else 1)[1:])
        assert f"`{field}`" in PAGE, field


def test_every_parameter_is_there():
    for name in (*options.SUPPORTED, *providers.PROVIDERS):
        assert f"`{name}`" in PAGE, name
