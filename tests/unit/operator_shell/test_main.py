"""The command line, up to where a cluster is needed."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from capstan_operator.__main__ import main
from capstan_operator.shell import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in logs.LIBRARIES}
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def test_crds_are_printed_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert {crd["spec"]["names"]["kind"] for crd in printed} == {"TrainingJob", "InferenceService"}


def test_no_kubeconfig_is_a_sentence_not_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--log-format", "text", "--kubeconfig", str(tmp_path / "none")]) == 1
    said = capsys.readouterr().err
    assert "cannot start" in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_a_sentence_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "c", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            }
        )
    )
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert (
            main(["run", "--log-format", "text", "--metrics-port", port, "--kubeconfig", str(kubeconfig)])
            == 1
        )
    said = capsys.readouterr().err
    assert "cannot start" in said
    assert "Traceback" not in said


def test_a_command_is_needed() -> None:
    with pytest.raises(SystemExit):
        main([])
