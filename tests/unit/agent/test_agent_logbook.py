"""What a program writes is kept on its output's volume, bounded, and never at the program's cost."""

from pathlib import Path

import pytest
from capstan_agent import logbook
from capstan_agent.logbook import SIZE, Logbook


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    output = str(tmp_path / "output")
    return {"CAPSTAN_OUTPUT_DIR": output, "CAPSTAN_ATTEMPT": "2", "CAPSTAN_REPLICA_INDEX": "3"}


@pytest.fixture
def kept(job: dict[str, str]) -> Path:
    return Path(job["CAPSTAN_OUTPUT_DIR"], "logs/attempt-2/replica-3.log")


def test_both_streams_are_kept_and_passed_on(supervise, job, kept):
    program = "import sys; print('epoch 1', flush=True); print('oh no', file=sys.stderr); sys.exit(3)"
    assert supervise(program, env=job).finish() == (b"epoch 1\n", b"oh no\n")
    assert sorted(kept.read_text().splitlines()) == ["epoch 1", "oh no"]


def test_the_outputs_folder_is_the_programs_to_make(supervise, job, kept):
    program = """
        import os, time
        print('first', flush=True); time.sleep(0.5)
        os.mkdir(os.environ['CAPSTAN_OUTPUT_DIR'])
        print('second')
        """
    running = supervise(program, env=job)
    running.finish()
    assert running.process.returncode == 0
    assert kept.read_text() == "first\nsecond\n"


@pytest.mark.parametrize("missing", ["CAPSTAN_OUTPUT_DIR", "CAPSTAN_ATTEMPT", "CAPSTAN_REPLICA_INDEX"])
def test_a_program_without_an_output_has_no_logbook(job, missing):
    assert logbook.logbook(job) is not None
    assert logbook.logbook({name: value for name, value in job.items() if name != missing}) is None


def test_a_volume_that_takes_nothing_costs_the_log_alone(supervise, job, tmp_path):
    (tmp_path / "output").write_text("a file, where a folder should be")
    running = supervise("for n in range(3): print(n, flush=True)", env=job)
    out, err = running.finish()
    assert (out, running.process.returncode) == (b"0\n1\n2\n", 0)
    assert err.count(b"no log is kept") == 1


def test_the_last_of_a_long_log_is_kept(job, kept):
    log = Logbook(kept.parents[2], "2", "3")
    kept.parents[2].mkdir()
    line = b"x" * 1023 + b"\n"
    for number in range(3 * SIZE // (512 * 1024)):
        log.append(b"%06d\n" % number + line * 511)
        log._write()
    log._write()
    sizes = [path.stat().st_size for path in kept.parent.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= SIZE
    assert f"{number:06d}" in kept.read_text()


def test_what_does_not_fit_into_memory_is_lost_and_told(job, kept):
    """The folder is not there yet: the volume may be away for hours."""
    log = Logbook(kept.parents[2], "2", "3")
    for number in range(5000):
        log.append(b"%d\n" % number + b"x" * 1000)
    log.start()
    log.finish(30)
    text = kept.read_text()
    assert "bytes were not kept" in text
    assert "4999" in text
    assert len(text) < 1 << 21


def test_another_job_of_the_same_name_begins_a_log_of_its_own(supervise, job, kept):
    for word in ("one", "two"):
        supervise(f"print('{word}')", env=job).finish()
    assert (kept.read_text(), Path(f"{kept}.1").read_text()) == ("two\n", "one\n")


def test_it_is_written_while_the_program_runs(supervise, job, kept):
    """A node may die at any moment."""
    kept.parents[2].mkdir()
    program = f"""
        import pathlib, time
        print('epoch 1', flush=True)
        while not pathlib.Path({str(kept)!r}).exists(): time.sleep(0.05)
        print('seen', flush=True)
        """
    assert supervise(program, env=job).finish()[0] == b"epoch 1\nseen\n"
