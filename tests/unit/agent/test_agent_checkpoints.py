"""Checkpoints: published whole or not at all, verified before they are resumed from, a few kept."""

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest
from capstan_agent import checkpoints
from capstan_agent.keeper import Keeper, Saved

HELPER = Path(__file__).parents[3] / "agent/capstan_agent/python/capstan.py"
GUIDE = Path(__file__).parents[3] / "docs/guide.md"


@pytest.fixture
def capstan() -> ModuleType:
    specification = importlib.util.spec_from_file_location("capstan", HELPER)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RANK", "CAPSTAN_REPLICA_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAPSTAN_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("CAPSTAN_ATTEMPT", "1")
    return tmp_path / "checkpoints"


@pytest.fixture
def save(capstan: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def saved(step: int, attempt: int = 1, weights: bytes = b"weights") -> Path:
        monkeypatch.setenv("CAPSTAN_ATTEMPT", str(attempt))
        with capstan.checkpoint(step=step) as place:
            (place / "model").write_bytes(weights)
            (place / "optimizer").mkdir(exist_ok=True)
            (place / "optimizer" / "shard 0").write_bytes(weights * 3)
        return folder / f"step-{step}-attempt-{attempt}"

    return saved


def newest(folder: Path) -> str | None:
    found, _ = checkpoints.newest(folder, lambda: False, lambda _: None)
    return found.path.name if found else None


# --- saving


def test_what_is_saved_is_verified_by_sha256sum_itself(save):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=save(5), check=True)


def test_nothing_is_published_of_what_was_not_saved_whole(capstan, folder):
    def fail() -> None:
        with capstan.checkpoint(step=5) as place:
            (place / "model").write_bytes(b"half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert newest(folder) is None
    assert checkpoints.published(folder) == []


def test_one_process_publishes_what_all_have_saved(capstan, folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with capstan.checkpoint(step=5) as place:
        (place / "shard-1").write_bytes(b"1")
    assert newest(folder) is None
    monkeypatch.setenv("RANK", "0")
    with capstan.checkpoint(step=5) as place:
        (place / "shard-0").write_bytes(b"0")
    assert sorted(path.name for path in (folder / "step-5-attempt-1").iterdir()) == [
        "SHA256SUMS",
        "shard-0",
        "shard-1",
    ]


def test_a_step_may_be_saved_again(save, folder):
    save(5, weights=b"first")
    save(5, weights=b"second")
    assert (folder / "step-5-attempt-1/model").read_bytes() == b"second"
    assert newest(folder) == "step-5-attempt-1"


def test_the_guides_shell_way_makes_a_checkpoint(folder, monkeypatch):
    """The very lines of the guide."""
    monkeypatch.setenv("CAPSTAN_CHECKPOINT_ATTEMPT", "1")
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "SHA256SUMS" in block]
    program = block.replace("save_state_to", "mkdir -p $new/a && echo 1 >$new/a/b && echo 2 >")
    assert program != block
    subprocess.run(["sh", "-euc", f"step=7; {program}"], check=True)
    assert newest(folder) == "step-7-attempt-1"


# --- resuming


def test_the_newest_is_resumed_from_and_a_later_attempt_is_newer(save, folder):
    save(900)
    save(1200)
    assert newest(folder) == "step-1200-attempt-1"
    save(1250, attempt=2)
    save(9000, attempt=1)  # by a half-dead pod
    assert newest(folder) == "step-1250-attempt-2"


def corrupt(path: Path) -> None:
    (path / "model").write_bytes(b"weighty")


def shorten(path: Path) -> None:
    os.truncate(path / "optimizer/shard 0", 3)


def lose(path: Path) -> None:
    (path / "model").unlink()


def forget(path: Path) -> None:
    (path / "SHA256SUMS").unlink()


def empty(path: Path) -> None:
    (path / "SHA256SUMS").write_text("")


def lead_away(path: Path) -> None:
    (path.parent / "outside").write_bytes(b"another's")
    digest = hashlib.sha256(b"another's").hexdigest()
    (path / "SHA256SUMS").write_text(f"{digest}  ../outside\n")


def scribble(path: Path) -> None:
    (path / "SHA256SUMS").write_bytes(b"\xff\xfe no sums\n")


@pytest.mark.parametrize("harm", [corrupt, shorten, lose, forget, empty, lead_away, scribble])
def test_one_that_is_not_as_it_was_saved_is_passed_over_and_told(save, folder, harm):
    save(1)
    harm(save(2))
    told: list[str] = []
    found, broken = checkpoints.newest(folder, lambda: False, told.append)
    assert found is not None
    assert found.path.name == "step-1-attempt-1"
    assert broken == {folder / "step-2-attempt-1"}
    (line,) = told
    assert "step-2-attempt-1 is passed over" in line


def test_what_else_is_in_the_folder_is_the_programs_own(folder):
    for name in ("epoch-5", "step-5", "step-5-attempt-", "step-x-attempt-1", ".saving-step-5-attempt-1"):
        (folder / name).mkdir(parents=True)
    (folder / "step-6-attempt-1").write_text("a file")
    assert checkpoints.published(folder) == []


def test_the_program_finds_it(supervise, save, folder):
    save(4)
    shown = "import os; print(os.environ.get('CAPSTAN_RESUME_FROM'))"
    out, _ = supervise(shown).finish()
    assert out.decode().strip() == str(folder / "step-4-attempt-1")
    corrupt(folder / "step-4-attempt-1")
    out, err = supervise(shown).finish()
    assert out == b"None\n"
    assert b"step-4-attempt-1 is passed over: model is not what was saved" in err


def test_who_names_another_place_to_resume_from_gets_that(supervise, save):
    save(4)
    out, _ = supervise(
        "import os; print(os.environ['CAPSTAN_RESUME_FROM'])", env={"CAPSTAN_RESUME_FROM": "/base"}
    ).finish()
    assert out == b"/base\n"


def test_a_stop_while_it_is_verified_starts_nothing(supervise, save, folder):
    """The largest file that costs nothing: one of holes."""
    path = save(4)
    with (path / "model").open("r+b") as file:
        file.truncate(1 << 40)
    running = supervise("print('started')")
    time.sleep(0.5)  # it may take its time to get there: then it is stopped before
    while running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert running.finish()[0] == b""
    assert running.process.returncode in {128 + signal.SIGTERM, -signal.SIGTERM}


# --- keeping


def keeper_of(folder: Path, keep: int = 2, attempt: int = 1, broken: frozenset[Path] = frozenset()):
    saved: list[Saved] = []
    heard = threading.Event()

    def tell(news: Saved) -> None:
        saved.append(news)
        heard.set()

    return Keeper(folder, keep, attempt, broken, tell, interval=0.01), saved, heard


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_the_last_one_is_told_at_the_end(save, folder):
    for step in (1, 2, 3, 4):
        save(step)
    keeper, saved, heard = keeper_of(folder)
    keeper.start()
    assert heard.wait(30)
    keeper.finish(30)
    assert names(folder) == ["step-3-attempt-1", "step-4-attempt-1"]
    assert [(news.step, news.name) for news in saved] == [(4, "step-4-attempt-1")]
    save(5)
    keeper, saved, _ = keeper_of(folder)
    keeper._interval = 3600
    keeper.start()
    keeper.finish(30)
    assert [news.step for news in saved] == [5]


def test_one_that_was_passed_over_is_neither_told_nor_counted(save, folder):
    save(1)
    bad = save(2)
    keeper, saved, _ = keeper_of(folder, keep=1, broken=frozenset({bad}))
    keeper.start()
    keeper.finish(30)
    assert [news.step for news in saved] == [1]
    assert names(folder) == ["step-1-attempt-1", "step-2-attempt-1"], "what was resumed from is still there"


def test_what_earlier_attempts_left_unfinished_goes(save, folder):
    save(3, attempt=2)
    for name in (".saving-step-1-attempt-1", ".saving-step-4-attempt-2", ".removing-step-1-attempt-1"):
        (folder / name).mkdir()
    keeper, _, _ = keeper_of(folder, attempt=2)
    keeper.start()
    keeper.finish(30)
    assert names(folder) == [".saving-step-4-attempt-2", "step-3-attempt-2"]


def test_a_folder_that_is_not_there_yet_is_no_trouble(folder, capsys):
    keeper, saved, _ = keeper_of(folder)
    keeper.start()
    keeper.finish(30)
    assert (saved, capsys.readouterr().err) == ([], "")


def test_a_program_saves_and_its_runner_keeps(supervise, folder):
    program = """
        from capstan import checkpoint
        for step in range(1, 8):
            with checkpoint(step) as place:
                (place / "state").write_text(str(step))
        """
    running = supervise(program, env={"CAPSTAN_CHECKPOINT_KEEP": "2"})
    assert running.finish() == (b"", b"")
    assert names(folder) == ["step-6-attempt-1", "step-7-attempt-1"]


def test_a_job_made_anew_goes_on_where_the_last_one_was(supervise, save, folder):
    """Its attempts are counted from 1 again; what it saves is newer all the same."""
    for attempt in (1, 2, 3):
        save(attempt * 100, attempt=attempt)
    program = """
        import os
        from capstan import checkpoint
        print(os.path.basename(os.environ["CAPSTAN_RESUME_FROM"]))
        for step in (301, 302):
            with checkpoint(step) as place:
                (place / "state").write_text(str(step))
        """
    running = supervise(program, env={"CAPSTAN_ATTEMPT": "1", "CAPSTAN_CHECKPOINT_KEEP": "2"})
    assert running.finish() == (b"step-300-attempt-3\n", b"")
    assert names(folder) == ["step-301-attempt-4", "step-302-attempt-4"]
    assert newest(folder) == "step-302-attempt-4"


def test_an_attempt_publishes_under_its_own_number(save, folder):
    assert checkpoints.number(folder, 2) == 2
    save(1)
    assert [checkpoints.number(folder, attempt) for attempt in (1, 2, 3)] == [2, 2, 3]


def test_other_replicas_remove_nothing(supervise, save, folder):
    for step in range(1, 6):
        save(step)
    supervise("", env={"CAPSTAN_REPLICA_INDEX": "1"}).finish()
    assert len(names(folder)) == 5
