"""Checkpoints survive a crash and are found again."""

from pathlib import Path

import checkpoints
import pytest


def test_the_newest_comes_first_whatever_else_lies_there(tmp_path: Path) -> None:
    for name in (
        "epoch-0002.pt",
        "epoch-0010.pt",
        "epoch-9.pt",
        "epoch-best.pt",
        ".epoch-0011.pt.partial",
        "notes",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in checkpoints.newest_first(tmp_path)] == [
        "epoch-0010.pt",
        "epoch-9.pt",
        "epoch-0002.pt",
    ]


def test_a_folder_that_is_not_there_has_no_checkpoints(tmp_path: Path) -> None:
    assert not list(checkpoints.newest_first(tmp_path / "missing"))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        checkpoints.save(tmp_path / "new", epoch, lambda file: file.write(b"state"))
    assert [path.name for path in checkpoints.newest_first(tmp_path / "new")] == [
        "epoch-0005.pt",
        "epoch-0004.pt",
    ]


def test_a_crash_while_writing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    checkpoints.write_atomically(path, lambda file: file.write(b"whole"))

    def crash(file) -> None:
        file.write(b"ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.write_atomically(path, crash)
    assert path.read_bytes() == b"whole"


def test_an_epoch_is_read_from_the_name() -> None:
    assert checkpoints.epoch_of(Path("epoch-0042.pt")) == 42
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoints.epoch_of(Path("model.pt"))
