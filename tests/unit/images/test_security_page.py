"""docs/security.md names tests; all of them are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    found, file = 0, ""
    for path, test in re.findall(r"`(tests/[\w/.]+\.py)?::(test_\w+)`", page):
        file = path or file
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), (file, test)
        found += 1
    assert found > 20
