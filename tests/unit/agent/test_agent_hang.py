"""A program that goes on no more: it is asked where it stands, ended, and told as hung."""

import os
import signal

import pytest

SOON = {"CAPSTAN_HANG_TIMEOUT": "1s"}
LATER = {"CAPSTAN_HANG_TIMEOUT": "5s"}
STUCK = """
    import threading
    def waits_for_a_collective_that_never_comes():
        print('up', flush=True)
        threading.Event().wait()
    waits_for_a_collective_that_never_comes()
    """


def test_the_stacks_of_a_program_that_hangs_are_told(supervise):
    running = supervise(STUCK, env=SOON)
    running.finish()
    message = running.message
    assert (message["class"], message["reason"]) == ("hang", "Hung")
    assert "spec.failurePolicy.hang.timeout" in message["message"]
    assert "waits_for_a_collective_that_never_comes" in message["log"]
    assert "Extension modules" not in message["log"]
    assert running.process.returncode == message["exitCode"] == 128 + signal.SIGABRT


def test_in_c_code_that_hears_no_handler_too(supervise):
    """It holds the interpreter for itself, as a broken extension does."""
    running = supervise(
        """
        import ctypes
        def stuck_in_c(): ctypes.PyDLL(None).pause()
        stuck_in_c()
        """,
        env=SOON,
    )
    running.finish()
    assert running.message["class"] == "hang"
    assert "stuck_in_c" in running.message["log"]


def test_a_stopped_program_too(supervise):
    running = supervise(
        "import os, signal\ndef stopped(): os.kill(os.getpid(), signal.SIGSTOP)\nstopped()", env=SOON
    )
    running.finish()
    assert running.message["class"] == "hang"
    assert "stopped" in running.message["log"]


def test_who_can_save_on_sigterm_may(supervise):
    running = supervise(
        """
        import signal
        signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), exit(0)))
        while True: signal.pause()
        """,
        env=SOON,
    )
    out, _ = running.finish()
    assert out == b"saved\n"
    assert (running.message["class"], running.process.returncode) == ("hang", 128 + signal.SIGTERM)


def test_who_could_save_and_does_not_is_asked_when_its_grace_is_over(supervise):
    running = supervise(
        """
        import signal, threading
        signal.signal(signal.SIGTERM, lambda *_: None)
        def waits_in_vain():
            while True: threading.Event().wait()
        waits_in_vain()
        """,
        "--grace=1s",
        env=SOON,
    )
    running.finish()
    assert running.message["class"] == "hang"
    assert "waits_in_vain" in running.message["log"]


def test_workers_in_sessions_of_their_own_are_asked_and_before_their_parents_say_more(supervise):
    """As torchrun's are; and it has much to say when they end."""
    running = supervise(
        """
        import signal, subprocess, sys
        signal.signal(signal.SIGTERM, lambda *_: None)
        worker = "import signal\\ndef all_reduce():\\n signal.pause()\\nall_reduce()"
        subprocess.run([sys.executable, '-c', worker], start_new_session=True)
        import time; time.sleep(1)  # as torchrun looks at its workers now and then
        print('x' * 5000, flush=True)
        """,
        env=SOON,
    )
    running.finish()
    assert running.message["class"] == "hang"
    assert "all_reduce" in running.message["log"]


def test_what_is_no_python_is_ended_and_told(supervise):
    running = supervise(["sh", "-c", "echo up; sleep 600"], env=SOON)
    running.finish()
    assert running.message["class"] == "hang"
    assert "could not be asked where it stood" in running.message["message"]
    assert running.message["log"] == "up"


TALKS = "import time\nfor _ in range(14): {}; time.sleep(0.5)\nprint('done')"


@pytest.mark.parametrize("word", ["print('.', flush=True)", "report(step=1)"])
def test_who_writes_or_reports_does_not_hang(supervise, tmp_path, word):
    running = supervise(
        "from capstan import report\n" + TALKS.format(word),
        env=LATER | {"CAPSTAN_PROGRESS_FILE": str(tmp_path / "pipe")},
    )
    out, _ = running.finish()
    assert (running.process.returncode, out[-5:]) == (0, b"done\n")


def test_other_replicas_may_be_silent_until_they_have_reported(supervise, tmp_path):
    """In most programs replica 0 alone says anything, and waits for the others itself."""
    env = SOON | {"CAPSTAN_REPLICA_INDEX": "1", "CAPSTAN_PROGRESS_FILE": str(tmp_path / "pipe")}
    assert supervise("import time; time.sleep(2.5)", env=env).finish() == (b"", b"")
    running = supervise("from capstan import report; report(step=1); import time; time.sleep(600)", env=env)
    running.finish()
    assert running.message["class"] == "hang"


def test_without_a_timeout_nothing_is_watched_and_nothing_changed(supervise):
    shown = "import os, faulthandler; print(os.environ.get('PYTHONFAULTHANDLER'), faulthandler.is_enabled())"
    assert supervise(shown).finish()[0] == b"None False\n"
    assert supervise(shown, env={"CAPSTAN_HANG_TIMEOUT": "1h"}).finish()[0] == b"1 True\n"
    out, err = supervise("print('runs')", env={"CAPSTAN_HANG_TIMEOUT": "soon"}).finish()
    assert (out, b"no hang is looked for" in err) == (b"runs\n", True)


def test_a_stop_is_no_hang(supervise):
    program = """
        import signal
        signal.signal(signal.SIGTERM, lambda *_: None)
        print('up', flush=True)
        while True: signal.pause()
        """
    running = supervise(program, "--grace=6s", env=LATER)
    running.wait_for_line()
    os.kill(running.process.pid, signal.SIGTERM)
    running.finish()
    assert (running.message["class"], running.message["reason"]) == ("infrastructure", "GracePeriodExceeded")


def test_no_core_is_written(supervise, tmp_path):
    """A program's memory may be hundreds of gigabytes."""
    program = f"""
        import os, resource, signal
        child = os.fork()
        if child:
            signal.signal(signal.SIGTERM, lambda *_: None)
            print(os.WCOREDUMP(os.waitpid(child, 0)[1]), flush=True)
        else:
            os.chdir({str(tmp_path)!r})
            _, most = resource.getrlimit(resource.RLIMIT_CORE)
            resource.setrlimit(resource.RLIMIT_CORE, (most, most))
            signal.pause()
        """
    assert supervise(program, env=SOON).finish()[0] == b"False\n"
