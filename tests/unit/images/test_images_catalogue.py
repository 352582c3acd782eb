"""What an image's tag stands for."""

import fnmatch
import re
from pathlib import Path

import pytest
from capstan_images import catalogue
from capstan_images.catalogue import IMAGES, ROOT, Image, content, files, reference

DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {
        "Dockerfile": "FROM scratch",
        ".dockerignore": "*",
        "part/code.py": "print(1)",
        "part/deep/more.py": "print(2)",
        "other/code.py": "print(3)",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_tag_is_the_same_for_the_same_content(tree: Path) -> None:
    assert content(tree, ("part",), "x") == content(tree, ("part",), "x")
    assert re.fullmatch(r"[0-9a-f]{12}", content(tree, ("part",)))


@pytest.mark.parametrize("change", ["content", "name", "added", "argument", "dockerfile"])
def test_whatever_goes_into_an_image_changes_its_tag(tree: Path, change: str) -> None:
    image, arguments = Image("part", ("part",)), {"VARIANT": "cpu"}
    before = reference(image, arguments, tree)
    match change:
        case "content":
            (tree / "part/deep/more.py").write_text("print(4)")
        case "name":
            (tree / "part/code.py").rename(tree / "part/core.py")
        case "added":
            (tree / "part/empty.py").touch()
        case "argument":
            arguments = {"VARIANT": "gpu"}
        case "dockerfile":
            (tree / "Dockerfile").write_text("FROM something")
    assert reference(image, arguments, tree) != before


@pytest.mark.parametrize(
    "left_behind",
    ["part/__pycache__/code.pyc", "part/target/debug/x", "part/_native.abi3.so", "other/code.py"],
)
def test_what_goes_into_no_image_changes_no_tag(tree: Path, left_behind: str) -> None:
    before = reference(Image("part", ("part",)), {}, tree)
    path = tree / left_behind
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("changed")
    assert reference(Image("part", ("part",)), {}, tree) == before


def test_a_boundary_between_files_cannot_be_moved_unseen(tree: Path) -> None:
    (tree / "part/a").write_text("ab")
    (tree / "part/b").write_text("c")
    before = content(tree, ("part",))
    (tree / "part/a").write_text("a")
    (tree / "part/b").write_text("bc")
    assert content(tree, ("part",)) != before


def test_every_image_is_a_target_of_the_dockerfile() -> None:
    stages = set(re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(IMAGES) <= stages


def test_what_the_dockerfile_copies_is_counted_into_a_tag() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    counted = {str(path.relative_to(ROOT)) for image in IMAGES.values() for path in files(ROOT, image.inputs)}
    inputs = {name for image in IMAGES.values() for name in image.inputs}
    for source in set(copied) - {
        ".",
        "dist/native",
    }:  # the lock, which is an input; and the wheel, made of serving/
        assert source in inputs or fnmatch.filter(counted, source), source


def test_the_arguments_of_the_variants_exist_in_the_dockerfile() -> None:
    for image in IMAGES.values():
        for argument in {**image.cpu, **image.gpu}:
            assert re.search(rf"^ARG {argument}\b", DOCKERFILE, re.MULTILINE)


def test_registries_bases_are_pinned_by_digest() -> None:
    bases = re.findall(r"^ARG \w+_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases)


def test_local_names_are_where_the_demo_looks() -> None:
    name, _, tag = reference(IMAGES["agent"], {}).partition(":")
    assert name == "localhost/capstan/agent"
    assert re.fullmatch(r"dev-[0-9a-f]{12}", tag)
    assert catalogue.NAMES == ("operator", "serving", "agent", "trainer", "prometheus")
