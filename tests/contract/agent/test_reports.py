"""What the runner reports the operator takes, and what the operator tells pods is what the runner needs."""

import json
from datetime import UTC, datetime
from typing import Any

from capstan_agent import (
    channel,
    checkpoints,
    durations,
    hang,
    keeper,
    outcome,
    report,
    reporter,
    supervise,
)
from capstan_operator.api import training_job
from capstan_operator.core import termination
from capstan_operator.core.model import Endpoint
from capstan_operator.core.training import progress, reporting
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5))
LINES = st.dictionaries(
    st.one_of(st.sampled_from(["step", "total", "loss", "val/loss", "lr-0"]), st.text(max_size=70)),
    NUMBERS,
    max_size=20,
)


@given(st.lists(LINES, max_size=20), st.lists(st.floats(0, 1e6), min_size=20, max_size=20))
def test_whatever_a_program_says_the_operator_takes_what_the_runner_makes_of_it(
    lines: list[dict[str, Any]], times: list[float]
) -> None:
    found = report.Report()
    for line, now in zip(lines, sorted(times), strict=False):
        try:
            found = report.merged(found, json.dumps(line).encode(), now)
        except ValueError:
            continue
        body = json.loads(json.dumps(found.json()))
        taken = progress.parsed(body, 1, NOW)
        assert (taken.step, taken.total, taken.metrics) == (found.step, found.total, found.metrics)
        assert progress.told({}, taken, 1, running=True).keys() <= {"progress"}


def test_the_bounds_are_the_same() -> None:
    assert report.METRICS == progress.METRICS
    assert checkpoints.KEPT == training_job.KEPT


def test_a_checkpoint_is_taken_as_it_is_told() -> None:
    saved = keeper.Saved(3, 1767225600, "step-3-attempt-12")
    taken = progress.parsed({"checkpoint": json.loads(json.dumps(saved.json()))}, 1, NOW)
    assert taken.checkpoint == (3, NOW, "step-3-attempt-12")


def test_the_runner_finds_what_the_operator_gives() -> None:
    told = {v["name"]: v["value"] for v in reporting.variables(Endpoint("https://operator:8443/x", "PEM"))}
    folders = {mount["mountPath"]: mount for mount in reporting.mounts()}
    where = reporter.endpoint(told)
    assert where is not None
    assert (where.url, where.authority) == ("https://operator:8443/x", "PEM")
    assert str(where.token.parent) in folders
    pipe = folders[told[channel.VARIABLE].rpartition("/")[0]]
    assert not pipe.get("readOnly")


def test_a_hang_is_told_as_one() -> None:
    """By the runner's own words, with a limit written as the API takes it."""
    assert durations.seconds("1h30m") == 5400
    told = outcome.ended(supervise.Exit(signal=6, hung=True, stacks="in all_reduce"), 0, "later words")
    read = termination.parsed(told.encoded().decode())
    assert read is not None
    assert (read.class_, read.reason, read.log) == ("hang", "Hung", "in all_reduce")
    assert hang.VARIABLE == "CAPSTAN_HANG_TIMEOUT"
