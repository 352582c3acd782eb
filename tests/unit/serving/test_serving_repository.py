"""Which models a folder holds. (Links and real models are the contract tests' part.)"""

import pytest
from capstan_serving.repository import scan


@pytest.fixture
def add(tmp_path):
    def add(path):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        return file

    return add


def test_the_highest_number_is_the_version(tmp_path, add):
    for version in ("1", "9", "10", "010", "0", "-3", "x", "1.5", ".11"):
        add(f"m/{version}/model.onnx")
    (found,) = scan(tmp_path)
    assert (found.name, found.version, found.reason) == ("m", 10, "")
    assert found.file == tmp_path / "m" / "10" / "model.onnx"


def test_models_come_by_name_and_what_is_no_model_is_passed_over(tmp_path, add):
    for path in ("b/1/model.onnx", "a/1/model.onnx", "lost+found/x", ".hidden/1/model.onnx", "README"):
        add(path)
    assert [found.name for found in scan(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("m/model.onnx", "has no version; put the model at"),
        ("m/1/other.onnx", "model.onnx is missing"),
        ("m/1/model.onnx/x", "model.onnx is missing"),
        ("m/config.pbtxt", "config.pbtxt is not supported"),
        ("m\n2/1/model.onnx", "rename it"),
    ],
)
def test_what_cannot_be_served_says_why(tmp_path, add, path, said):
    add(path)
    (found,) = scan(tmp_path)
    assert found.file is None
    assert said in found.reason
    assert found.name.isprintable()


def test_the_repository_itself_must_be_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        list(scan(tmp_path / "nowhere"))
