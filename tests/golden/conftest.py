"""`pytest tests/golden --update-golden` writes what the plans are now: look at the diff before committing."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite want.yaml of every golden case")


@pytest.fixture
def update_golden(pytestconfig: pytest.Config) -> bool:
    """Unregistered when all tests run from further up: then nothing is updated."""
    return bool(pytestconfig.getoption("--update-golden", default=False))
