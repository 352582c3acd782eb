"""What the agent writes as its last words, the operator reads."""

import pytest
from capstan_agent import errors, outcome
from capstan_agent.supervise import Exit
from capstan_agent.termination import Output, Termination
from capstan_operator.core import termination
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "end",
    [Exit(0), Exit(1), Exit(signal=9), Exit(signal=11), Exit(0, stopped_by=15), Exit(signal=40)],
    ids=str,
)
@pytest.mark.parametrize("oom_kills", [0, 1])
def test_every_end_of_a_command(end, oom_kills):
    told = outcome.ended(end, oom_kills, "last lines", Output("model.onnx", 3, DIGEST))
    read = termination.parsed(told.encoded().decode())
    assert read is not None
    assert (read.class_, read.reason, read.message) == (told.exit_class, told.reason, told.message)
    assert read.log == "last lines"
    assert read.digest == (DIGEST if told.exit_class == "ok" else "")


@pytest.mark.parametrize("error", errors.FetchError.__subclasses__())
def test_every_reason_a_model_cannot_be_fetched(error):
    reason = error("A sentence.").reason
    read = termination.parsed(Termination(error.exit_class, 1, reason, "A sentence.").encoded().decode())
    assert read is not None
    assert (read.class_, read.reason, read.message) == (error.exit_class, reason, "A sentence.")


@given(st.text(max_size=1000), st.text(max_size=5000))
def test_whatever_it_says(message, log):
    read = termination.parsed(Termination("user", 1, "NonZeroExit", message, 9, log).encoded().decode())
    assert read is not None
    assert read.message == message
    assert log.endswith(read.log)
