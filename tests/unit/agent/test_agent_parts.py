"""The parts of the agent that only compute."""

import json
import signal

import pytest
from capstan_agent import durations, outcome
from capstan_agent.cgroup import Cgroup
from capstan_agent.supervise import Exit
from capstan_agent.tail import Tail
from capstan_agent.termination import LIMIT, Output, Termination
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60), ("1m30s", 90), ("1.5h", 5400), ("250ms", 0.25), ("0", 0), ("0s", 0), ("1h0m0s", 3600)],
)
def test_durations(text, seconds):
    assert durations.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "60", "s", "-1s", "1 s", "1s1", "1d", "60s\n", "१s1"])
def test_bad_durations(text):
    with pytest.raises(ValueError, match="60s"):
        durations.seconds(text)


def tail_of(*chunks: bytes) -> str:
    tail = Tail()
    for chunk in chunks:
        tail.append(chunk)
    return tail.text()


def test_tail_keeps_the_last_lines():
    text = tail_of(*(f"line {number}\n".encode() for number in range(100_000)))
    lines = text.splitlines()
    assert lines[-1] == "line 99999"
    assert lines[0].startswith("line ")
    assert 1900 < len(text) <= 2048


def test_tail_of_a_progress_bar_is_its_last_state():
    assert tail_of(b"epoch 1\n", b"\r 10%", b"\r 55%", b"\r100%\n", b"done\r\n") == "epoch 1\n100%\ndone"


def test_tail_of_one_endless_line():
    assert tail_of(b"x" * 100_000) == "x" * 2048


def test_tail_of_bytes_that_are_no_text():
    assert tail_of(b"\xff\xfe ok\n") == "�� ok"


@given(st.lists(st.binary(max_size=40_000), max_size=5))
def test_tail_is_bounded_whatever_comes(chunks):
    assert len(tail_of(*chunks).encode()) <= 2048


@given(st.text(max_size=200), st.text(min_size=500, max_size=5000))
def test_messages_fit_and_parse(message, log):
    termination = Termination("user", 1, "NonZeroExit", message, 9, log, Output("model.onnx", 1, "sha256:x"))
    encoded = termination.encoded()
    assert len(encoded) <= LIMIT
    assert log.endswith(json.loads(encoded).get("log", ""))


def test_a_long_sentence_is_cut():
    encoded = Termination("user", 1, "ModelNotFound", "x" * 10_000).encoded()
    assert json.loads(encoded)["message"] == "x" * 1023 + "…"


def test_the_log_gives_way_from_its_start():
    encoded = Termination("user", 1, "NonZeroExit", "m", None, "a" + "\x01" * 2046 + "z").encoded()
    assert len(encoded) <= LIMIT
    log = json.loads(encoded)["log"]
    assert log.endswith("z")
    assert not log.startswith("a")


def test_names_that_are_no_text_do_not_break_the_message():
    assert json.loads(Termination("user", 1, "R", "file \udcff").encoded())["message"]


@pytest.mark.parametrize(
    ("end", "kills", "exit_class", "reason", "code"),
    [
        (Exit(0), 0, "ok", "Completed", 0),
        (Exit(0), 3, "ok", "Completed", 0),
        (Exit(2), 0, "user", "NonZeroExit", 2),
        (Exit(1), 1, "outOfMemory", "OutOfMemory", 1),
        (Exit(signal=9), 1, "outOfMemory", "OutOfMemory", 137),
        (Exit(signal=9), 0, "infrastructure", "Killed", 137),
        (Exit(signal=7), 0, "user", "Signaled", 135),
        (Exit(signal=34), 0, "user", "Signaled", 162),
        (Exit(signal=37), 0, "user", "Signaled", 165),
        (Exit(0, stopped_by=15), 0, "infrastructure", "Terminated", 143),
        (Exit(signal=15, stopped_by=15), 0, "infrastructure", "Terminated", 143),
        (Exit(1, stopped_by=15), 1, "infrastructure", "Terminated", 1),
        (Exit(signal=9, stopped_by=15, grace_exceeded=True), 0, "infrastructure", "GracePeriodExceeded", 137),
    ],
)
def test_exit_classes(end, kills, exit_class, reason, code):
    told = outcome.ended(end, kills, "log")
    assert (told.exit_class, told.reason, told.exit_code) == (exit_class, reason, code)
    assert told.message.endswith(".")


def test_a_bus_error_hints_at_shared_memory():
    assert "/dev/shm" in outcome.ended(Exit(signal=signal.SIGBUS), 0, "").message


V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("membership", "file", "content"),
    [
        ("0::/\n", "memory.events", V2),
        ("0::/kubepods/pod1/c1\n", "kubepods/pod1/c1/memory.events", V2),
        ("0::/kubepods/pod1/c1\n", "memory.events", V2),
        ("9:memory:/kubepods/pod1/c1\n0::/x\n", "memory/memory.oom_control", V1),
        ("9:cpu,memory:/kubepods/c1\n", "memory/kubepods/c1/memory.oom_control", V1),
    ],
)
def test_oom_counters_of_both_cgroup_versions(tmp_path, membership, file, content):
    (tmp_path / "self").write_text(membership)
    counter = tmp_path / "cgroup" / file
    counter.parent.mkdir(parents=True)
    counter.write_text(content)
    assert Cgroup(tmp_path / "cgroup", tmp_path / "self").oom_kills() == 2


def test_no_oom_counters(tmp_path):
    nothing = Cgroup(tmp_path, tmp_path / "none")
    assert (nothing.oom_kills(), nothing.cpu_seconds(), nothing.memory(), nothing.memory_limit()) == (
        None,
    ) * 4
