"""The budgets of restarts."""

import pytest
from capstan_operator.api.training_policies import FailurePolicy
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
        ("hang", 2, True),
        ("hang", 3, False),
    ],
)
def test_each_class_has_its_own_budget(class_: str, spent: int, again: bool) -> None:
    status = {"restarts": {class_: spent, "user": 7}}
    if class_ != "user":
        assert restart.allowed(status, failed(class_), FailurePolicy()) is again
    assert not restart.allowed(status, failed("user"), FailurePolicy())


@pytest.mark.parametrize("class_", restart.CLASSES)
def test_a_budget_is_as_the_spec_says(class_: str) -> None:
    policy = FailurePolicy.model_validate({class_: {"maxRestarts": 2}})
    for spent in range(4):
        assert restart.allowed({"restarts": {class_: spent}}, failed(class_), policy) is (spent < 2)


def test_a_restart_is_charged() -> None:
    once = restart.charged({}, failed("infrastructure"))
    assert once == {
        "restarts": {"infrastructure": 1},
        "restartsCountTowardsMax": {"infrastructure": 1},
    }
    assert restart.charged(once, failed("hang")) == {
        "restarts": {"infrastructure": 1, "hang": 1},
        "restartsCountTowardsMax": {"infrastructure": 1, "hang": 1},
    }


def test_what_an_older_release_counted_counts() -> None:
    assert restart.counted({"restarts": {"infrastructure": 2}}) == {"infrastructure": 2}
    assert restart.charged({"restarts": {"infrastructure": 2}}, failed("infrastructure")) == {
        "restarts": {"infrastructure": 3},
        "restartsCountTowardsMax": {"infrastructure": 3},
    }


def test_a_newer_checkpoint_gives_the_budgets_back() -> None:
    status = {"restarts": {"infrastructure": 3, "hang": 1}, "failure": {}, "checkpoint": {"step": 0}}
    assert restart.counted(status) == {}
    assert restart.allowed(status, failed("infrastructure"), FailurePolicy())
    assert restart.charged(status, failed("infrastructure")) == {
        "restarts": {"infrastructure": 4, "hang": 1},
        "restartsCountTowardsMax": {"infrastructure": 1},
    }


@pytest.mark.parametrize(("step", "given_back"), [(9, False), (10, False), (11, True)])
def test_only_a_newer_checkpoint_does(step: int, given_back: bool) -> None:
    status = {
        "restarts": {"infrastructure": 5},
        "restartsCountTowardsMax": {"infrastructure": 3},
        "failure": {"checkpointStep": 10},
        "checkpoint": {"step": step},
    }
    assert restart.allowed(status, failed("infrastructure"), FailurePolicy()) is given_back
    assert restart.checkpoint_step(status) == max(10, step), "steps that are done again are no progress"


def test_without_checkpoints_nothing_is_on_record() -> None:
    assert restart.checkpoint_step({}) is None
