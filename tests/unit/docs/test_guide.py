"""The guide says of every reason what it means and what to do."""

import re
from pathlib import Path

from capstan_agent import errors

ROOT = Path(__file__).parents[3]
CORE = ROOT / "operator" / "capstan_operator" / "core"
#: Types of conditions, their values, and kinds: constants like reasons, but none.
OTHERS = {"Available", "Failed", "False", "ModelAvailable", "NetworkPolicy", "Stalled", "True", "Unknown"}


def reasons() -> set[str]:
    constants = re.compile(r'^[A-Z_]+: Final = "([A-Z][A-Za-z]+)"$', re.MULTILINE)
    ours = {found for file in CORE.rglob("*.py") for found in constants.findall(file.read_text())}
    return ours - OTHERS | {error.__name__ for error in errors.FetchError.__subclasses__()}


def test_every_reason_is_in_the_guide():
    told = set(re.findall(r"`([A-Za-z]+)`", (ROOT / "docs" / "guide.md").read_text()))
    assert len(reasons()) > 30
    assert reasons() - told == set()
