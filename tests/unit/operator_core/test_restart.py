"""The budgets of restarts."""

import pytest
from capstan_operator.core.policies import restart
from capstan_operator.core.policies.failure import Failure


def failed(class_: str) -> Failure:
    return Failure(class_, "R", "m")  # type: ignore[arg-type]  # (the parametrised string is one of the literals)


@pytest.mark.parametrize(
    ("class_", "spent", "again"),
    [
        ("user", 0, False),
        ("outOfMemory", 0, False),
        ("infrastructure", 0, True),
        ("infrastructure", 2, True),
        ("infrastructure", 3, False),
    ],
)
def test_each_class_has_its_own_budget(class_: str, spent: int, again: bool) -> None:
    assert restart.allowed({"restarts": {"infrastructure": spent}}, failed(class_)) is again


def test_a_restart_is_charged() -> None:
    assert restart.charged({}, failed("infrastructure")) == {"infrastructure": 1}
    assert restart.charged({"restarts": {"infrastructure": 1}}, failed("infrastructure")) == {
        "infrastructure": 2
    }
