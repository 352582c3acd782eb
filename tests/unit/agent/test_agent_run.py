"""The supervisor, on real processes: exit codes, signals, output, orphans."""

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from capstan_agent.relay import Relay, Stream
from capstan_agent.tail import Tail

IGNORE_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"


def test_success_is_told(supervise):
    running = supervise("print('trained')")
    assert running.finish() == (b"trained\n", b"")
    assert running.process.returncode == 0
    assert running.message == {
        "capstan": 1,
        "class": "ok",
        "exitCode": 0,
        "reason": "Completed",
        "message": "The command completed.",
        "log": "trained",
    }


def test_exit_code_and_last_lines_of_a_failure(supervise):
    running = supervise("print('step 1'); raise RuntimeError('loss is NaN')")
    running.finish()
    assert running.process.returncode == 1
    assert (running.message["class"], running.message["reason"]) == ("user", "NonZeroExit")
    assert running.message["log"].endswith("RuntimeError: loss is NaN")


@pytest.mark.parametrize(
    ("number", "exit_class", "reason"),
    [(signal.SIGSEGV, "user", "Signaled"), (signal.SIGKILL, "infrastructure", "Killed")],
)
def test_death_by_a_signal(supervise, number, exit_class, reason):
    running = supervise(f"import os; os.kill(os.getpid(), {int(number)})")
    running.finish()
    assert running.process.returncode == 128 + number
    assert (running.message["class"], running.message["reason"]) == (exit_class, reason)
    assert running.message["signal"] == number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_whole_group_and_is_no_failure_of_the_user(supervise, number):
    running = supervise(f"""
        import os, signal, sys, time
        ready, started = os.pipe()
        child = os.fork()
        def stop(*_):
            os.write(1, b"child stopped\\n" if not child else b"parent stopped\\n")
            if child:
                os.waitpid(child, 0)
            os._exit(7)
        signal.signal({int(number)}, stop)
        if child:
            os.read(ready, 1)
            os.write(1, b"up\\n")
        else:
            os.write(started, b"x")
        while True:
            signal.pause()
        """)
    assert running.wait_for_line() == b"up\n"
    running.process.send_signal(number)
    out, _ = running.finish()
    assert sorted(out.splitlines()) == [b"child stopped", b"parent stopped"]
    assert running.process.returncode == 7
    assert (running.message["class"], running.message["reason"]) == ("infrastructure", "Terminated")


def test_exit_code_zero_after_a_stop_is_not_taken_for_success(supervise):
    running = supervise("""
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print("up", flush=True)
        while True:
            signal.pause()
        """)
    running.wait_for_line()
    running.process.terminate()
    running.finish()
    assert running.process.returncode == 143
    assert running.message["class"] == "infrastructure"


def test_who_does_not_stop_is_killed_after_the_grace(supervise):
    running = supervise(f"{IGNORE_TERM}\nwhile True: time.sleep(60)", "--grace", "200ms")
    running.wait_for_line()
    running.process.terminate()
    running.finish()
    assert running.process.returncode == 137
    assert running.message["reason"] == "GracePeriodExceeded"
    assert "gracePeriod" in running.message["message"]


def test_the_grace_is_given(supervise):
    running = supervise(
        """
        import signal, sys
        def stop(*_):
            print("saving", flush=True)
            sys.stdin.read()
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        print("up", flush=True)
        while True:
            signal.pause()
        """,
        "--grace",
        "1h",
    )
    running.wait_for_line()
    running.process.terminate()
    assert running.wait_for_line() == b"saving\n"
    running.finish()
    assert running.message["reason"] == "Terminated"


def test_user_signals_are_passed_on_and_stop_nothing(supervise):
    running = supervise("""
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        print("up", flush=True)
        signal.sigwait({signal.SIGUSR1})
        print("dumped", flush=True)
        """)
    running.wait_for_line()
    running.process.send_signal(signal.SIGUSR1)
    assert running.finish()[0] == b"dumped\n"
    assert running.message["class"] == "ok"


def test_signal_dispositions_are_the_default_ones(supervise):
    """Python ignores SIGPIPE; a command that inherited that would not stop writing into a closed pipe."""
    out, _ = supervise(["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]).finish()
    blocked, ignored = (int(line.split()[1], 16) for line in out.splitlines())
    assert blocked == 0
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | 1 << signal.SIGTERM - 1)


def test_output_is_untouched_and_separate(supervise):
    data = bytes(range(256)) * 20_000
    running = supervise("""
        import sys
        data = bytes(range(256)) * 20_000
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        sys.stderr.buffer.write(data[::-1])
        """)
    out, err = running.finish()
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(err).digest() == hashlib.sha256(data[::-1]).digest()
    assert len(running._message.read_bytes()) <= 4096


def test_output_comes_as_it_is_written(supervise):
    running = supervise("import signal; print('early', flush=True); signal.pause()")
    assert running.wait_for_line() == b"early\n"
    running.process.terminate()
    running.finish()


def test_a_child_may_close_its_output_and_go_on(supervise):
    running = supervise("import os, sys; os.close(1); os.close(2); sys.exit(5)")
    assert running.finish() == (b"", b"")
    assert running.process.returncode == 5


def test_a_reader_that_goes_away_stops_the_writer_and_not_the_runner(supervise):
    read, write = os.pipe()
    running = supervise("while True: print('x' * 4000)", stdout=write)
    os.close(write)
    os.read(read, 100)
    os.close(read)
    _, err = running.finish()
    assert b"BrokenPipeError" in err
    assert running.message["class"] == "user"


def test_a_reader_that_stops_reading_does_not_hold_up_signals(supervise):
    running = supervise(f"{IGNORE_TERM}\nwhile True: print('x' * 4000)", "--grace", "100ms")
    running.wait_for_line()
    running.process.terminate()
    assert running.process.wait(timeout=30) == 137


def test_a_process_left_behind_with_the_pipe_open_is_not_waited_for(supervise):
    running = supervise("""
        import os, signal
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            print(os.getpid(), flush=True)
            os.write(write, b"x")
            while True:
                signal.pause()
        os.read(read, 1)
        """)
    left_behind = int(running.wait_for_line())
    assert running.process.wait(timeout=30) == 0
    os.kill(left_behind, signal.SIGKILL)
    assert running.message["reason"] == "Completed"


def test_one_left_behind_that_writes_without_end_is_not_waited_for():
    """Here /dev/zero, which has always something more to say."""
    with Path(os.devnull).open("wb") as null:
        relay = Relay(Stream(os.open("/dev/zero", os.O_RDONLY), null.fileno(), Tail()))
        drains = threading.Thread(target=relay.drain, args=(0.1,), daemon=True)
        drains.start()
        drains.join(30)
        assert not drains.is_alive()


def state(process: int) -> str:
    """One letter of proc(5); X for a process that is no more."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def test_what_is_left_of_the_group_ends_with_the_command(supervise):
    running = supervise("""
        import os, signal
        reader, writer = os.pipe()
        if left := os.fork():
            os.read(reader, 1)
            print(left)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writer, b"x")
            while True:
                signal.pause()
        """)
    out, _ = running.finish()
    while state(int(out)) not in "XZ":
        time.sleep(0.01)


def test_orphans_are_reaped_by_the_first_process(supervise):
    running = supervise(
        """
        import os, time
        for _ in range(20):
            if os.fork() == 0:
                if os.fork():
                    os._exit(0)      # the grandchild becomes the first process's
                os._exit(0)
        for _ in range(20):
            os.wait()
        assert os.getppid() == 1
        def zombies():
            states = []
            for entry in filter(str.isdigit, os.listdir("/proc")):
                try:
                    states.append(open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()[0])
                except OSError:
                    pass
            return states.count("Z")
        while zombies():
            time.sleep(0.01)
        print("clean", flush=True)
        """,
        prefix=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
    )
    assert running.finish()[0] == b"clean\n"
    assert running.message["class"] == "ok"


def test_as_first_process_it_obeys_sigterm(supervise):
    running = supervise(
        f"{IGNORE_TERM}\nwhile True: time.sleep(60)",
        "--grace",
        "100ms",
        prefix=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
    )
    running.wait_for_line()
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    running.finish()
    assert running.message["reason"] == "GracePeriodExceeded"


def test_command_not_found(supervise):
    running = supervise(["no-such-program", "--flag"])
    _, err = running.finish()
    assert running.process.returncode == 127
    assert (running.message["class"], running.message["reason"]) == ("user", "CommandNotFound")
    assert b"no-such-program is not in the image" in err


def test_command_without_its_interpreter(supervise, tmp_path):
    script = tmp_path / "train"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    running = supervise([str(script)])
    running.finish()
    assert running.process.returncode == 127
    assert "interpreter" in running.message["message"]


@pytest.mark.parametrize(("mode", "sentence"), [(0o644, "not executable"), (0o755, "#! line")])
def test_command_not_executable(supervise, tmp_path, mode, sentence):
    script = tmp_path / "train.py"
    script.write_text("print()\n")
    script.chmod(mode)
    running = supervise([str(script)])
    running.finish()
    assert running.process.returncode == 126
    assert running.message["reason"] == "CommandNotExecutable"
    assert sentence in running.message["message"]


def test_no_command_at_all(supervise):
    running = supervise([])
    _, err = running.finish()
    assert running.process.returncode == 2
    assert b"no command" in err


def test_options_of_the_command_are_its_own(supervise):
    running = supervise(["echo", "--grace", "--", "-h"])
    assert running.finish()[0] == b"--grace -- -h\n"


def test_digest_of_the_output(supervise, tmp_path):
    model = tmp_path / "model.onnx"
    running = supervise(f"open({str(model)!r}, 'wb').write(b'weights')", "--output-file", str(model))
    running.finish()
    digest = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert running.message["output"] == {"file": "model.onnx", "bytes": 7, "digest": digest}


def test_a_missing_output_is_a_failure_of_replica_zero_only(supervise, tmp_path):
    missing = str(tmp_path / "model.onnx")
    running = supervise("pass", "--output-file", missing, env={"CAPSTAN_REPLICA_INDEX": "0"})
    _, err = running.finish()
    assert running.process.returncode == 1
    assert (running.message["class"], running.message["reason"]) == ("user", "OutputMissing")
    assert b"CAPSTAN_OUTPUT_DIR" in err
    other = supervise("pass", "--output-file", missing, env={"CAPSTAN_REPLICA_INDEX": "1"})
    other.finish()
    assert other.process.returncode == 0
    assert "output" not in other.message


def test_a_stop_while_the_output_is_measured(supervise, tmp_path):
    model = tmp_path / "model.onnx"
    os.mkfifo(model)
    running = supervise("print('done', flush=True)", "--output-file", str(model))
    running.wait_for_line()
    writer = os.open(model, os.O_WRONLY)  # returns once the runner reads
    running.process.terminate()
    os.write(writer, b"x" * 100)
    os.close(writer)
    running.finish()
    assert running.process.returncode == 143
    assert running.message["class"] == "infrastructure"


def test_a_message_that_cannot_be_written_costs_nothing(supervise, tmp_path):
    running = supervise("pass", "--termination-log", str(tmp_path / "no" / "folder"))
    _, err = running.finish()
    assert running.process.returncode == 0
    assert b"no termination message" in err


def memory_cgroup() -> Path | None:
    """A memory cgroup of version 1 or 2 that this process may make, if it may."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        folder = root / f"capstan-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        return folder
    return None


def test_an_out_of_memory_kill_is_told_from_others(supervise):
    group = memory_cgroup()
    assert group is not None, "the tests of the supervisor need root"
    try:
        limit = group / ("memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes")
        limit.write_text(str(64 << 20))
        join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        # As under torchrun, it is a child that is killed, and the command only exits with 1.
        running = supervise(
            """
            import subprocess, sys
            code = "import itertools; held = [bytearray(1 << 20) for _ in range(4000)]"
            sys.exit(1 if subprocess.run([sys.executable, "-c", code]).returncode == -9 else 0)
            """,
            prefix=("sh", "-c", join, "sh"),
        )
        _, err = running.finish()
        assert running.process.returncode == 1, err
        assert (running.message["class"], running.message["reason"]) == ("outOfMemory", "OutOfMemory")
    finally:
        group.rmdir()
