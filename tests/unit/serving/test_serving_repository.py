"""Which models folders hold, and which of their files can be reached."""

from pathlib import Path

import pytest
from capstan_serving.config.schema import ModelConfig
from capstan_serving.errors import ModelLoadError
from capstan_serving.loading import Loader
from capstan_serving.repository import Repository, from_files


@pytest.fixture
def add(tmp_path):
    def add(path):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        return file

    return add


@pytest.fixture
def find(tmp_path):
    return Repository([tmp_path]).find


def test_versions_are_numbers_in_order(find, add):
    for version in ("1", "9", "10", "010", "0", "-3", "x", "1.5", ".11"):
        add(f"m/{version}/model.onnx")
    assert find("m").versions() == [1, 9, 10]


def test_models_come_by_name_and_what_is_no_model_is_passed_over(tmp_path, add):
    for path in ("b/1/model.onnx", "a/1/model.onnx", "lost+found/x", ".hidden/1/model.onnx", "README"):
        add(path)
    assert list(Repository([tmp_path]).folders()) == ["a", "b"]


def test_repositories_are_taken_together_and_a_name_is_there_once(tmp_path, add):
    for path in ("one/a/1/model.onnx", "one/b/1/model.onnx", "two/b/1/model.onnx", "two/c/1/model.onnx"):
        add(path)
    folders = Repository([tmp_path / "one", tmp_path / "two"]).folders()
    assert list(folders) == ["a", "b", "c"]
    assert folders["c"].versions() == [1]
    with pytest.raises(ModelLoadError, match="the model is there twice"):
        folders["b"].versions()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("m/model.onnx", "has no version; put the model at"),
        ("m\n2/1/model.onnx", "rename it"),
    ],
)
def test_what_cannot_be_served_says_why(tmp_path, add, path, said):
    add(path)
    (folder,) = Repository([tmp_path]).folders().values()
    assert folder.name.isprintable()
    with pytest.raises(ModelLoadError, match=said):
        folder.versions()


@pytest.mark.parametrize("name", ["../m", "m/1", "/etc", ".", "..", "", "M", "m\0"])
def test_names_never_become_paths(find, add, name):
    add("m/1/model.onnx")
    assert find(name) is None


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../../secret", "a\0b", "a\nb"])
def test_file_names_stay_in_the_folder(find, add, name):
    add("m/1/model.onnx")
    add("secret")
    with pytest.raises(ModelLoadError, match="cannot be a file of model 'm'"):
        find("m").file("1", name)


def test_files_may_lie_deeper_and_must_be_there(find, add):
    add("m/1/net/model.onnx")
    add("m/2/model.onnx/x")
    assert find("m").file("1", "net/model.onnx").is_file()
    for version in ("1", "2"):
        with pytest.raises(ModelLoadError, match=r"model\.onnx is missing; put the file there"):
            find("m").file(version, "model.onnx")


def test_a_fingerprint_changes_with_its_version_and_the_models_own_files_only(find, add):
    first, second = add("m/1/model.onnx"), add("m/2/deep/weights")
    before = find("m").fingerprint(1)
    second.write_bytes(b"2")
    assert find("m").fingerprint(1) == before
    everything = find("m").fingerprint()
    first.write_bytes(b"1")
    assert find("m").fingerprint(1) != before
    assert find("m").fingerprint() != everything
    before = find("m").fingerprint(1)
    add("m/labels.txt")
    assert find("m").fingerprint(1) != before


def test_a_link_that_is_moved_changes_the_fingerprint(find, add, tmp_path):
    old, new = add("m/..old/model.onnx"), add("m/..new/model.onnx")
    new.write_bytes(b"1")
    (tmp_path / "m" / "1").mkdir()
    link = tmp_path / "m" / "1" / "model.onnx"
    link.symlink_to(old)
    before = find("m").fingerprint(1)
    (tmp_path / "next").symlink_to(new)
    (tmp_path / "next").replace(link)
    assert find("m").fingerprint(1) != before


def test_the_repository_itself_must_be_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        Repository([tmp_path / "nowhere"]).folders()


def test_a_file_that_cannot_be_looked_at_is_none_of_a_fingerprint(find, add, monkeypatch):
    add("m/1/model.onnx")
    add("m/secret/x")
    whole = find("m").fingerprint()
    is_symlink = Path.is_symlink

    def fail(path):
        if path.name == "secret":
            raise PermissionError("no")
        return is_symlink(path)

    monkeypatch.setattr(Path, "is_symlink", fail)
    assert find("m").fingerprint() == whole


def test_libraries_are_not_taken_from_a_request():
    folder = from_files("m", {"file:1/model.onnx": b"", "file:1/evil.so": b""})
    config = ModelConfig()
    config.model_operations.op_library_filename.append("1/evil.so")
    with pytest.raises(ModelLoadError, match="not taken from a request"):
        Loader(workers=1, custom_operators=True).load(folder, 1, config)
