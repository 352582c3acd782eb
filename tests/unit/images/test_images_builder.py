"""Which images are built, with what, and how docker and buildah are told."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from capstan_images import ImageError, base, build, commands, engines, native, publish
from capstan_images.__main__ import main
from capstan_images.engines import Buildah, Docker


class Shelf:
    """An engine that only remembers."""

    from_registries = True

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.built: list[tuple[str, str, dict[str, str]]] = []
        self.pushed: list[tuple[str, str]] = []

    def has(self, reference: str) -> bool:
        return reference in self.there

    def build(self, target: str, reference: str, arguments: Mapping[str, str]) -> None:
        self.built.append((target, reference, dict(arguments)))
        self.there.add(reference)

    def push(self, reference: str, destination: str) -> None:
        self.pushed.append((reference, destination))


class LocalShelf(Shelf, Buildah):
    """The same, as buildah: without registries."""

    from_registries = False


@pytest.fixture
def said() -> list[str]:
    return []


def test_an_image_is_built_once(said: list[str]) -> None:
    shelf = Shelf()
    first = build(["agent", "operator"], said.append, engine=shelf)
    again = build(["agent", "operator"], said.append, engine=shelf)
    assert first == again
    assert [target for target, _, _ in shelf.built] == ["agent", "operator"]
    assert [line for line in said if "is there already" in line] == [
        f"{name} is there already" for name in first.values()
    ]
    assert sum(" built in " in line for line in said) == 2


def test_gpu_variants_are_other_images(said: list[str]) -> None:
    shelf = Shelf()
    cpu = build(["serving", "trainer"], said.append, engine=shelf)
    gpu = build(["serving", "trainer"], said.append, engine=shelf, gpu=True)
    assert not set(cpu.values()) & set(gpu.values())
    assert [arguments for _, _, arguments in shelf.built] == [
        {"VARIANT": "cpu"}, {"DEVICE": "cpu"}, {"VARIANT": "gpu"}, {"DEVICE": "cuda"}
    ]  # fmt: skip


def test_without_registries_the_base_and_the_wheel_are_made_first(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(base, "suite", lambda: "bookworm")
    monkeypatch.setattr(base, "make", lambda release, buildah: made.append(f"base {release}"))
    monkeypatch.setattr(native, "make", lambda: made.append("wheel"))
    shelf = LocalShelf()
    build(["agent"], said.append, engine=shelf)
    assert made == ["base bookworm"]
    shelf.there.add(base.reference("bookworm"))
    build(["agent", "serving"], said.append, engine=shelf)
    assert made == ["base bookworm", "wheel"]
    _, _, arguments = shelf.built[-1]
    assert arguments == {"VARIANT": "cpu", "BASE_IMAGE": base.reference("bookworm"), "NATIVE": "prebuilt"}


def test_a_base_of_other_packages_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base.reference("bookworm")
    assert before != base.reference("trixie")
    monkeypatch.setattr(base, "_OPTIONS", (*base._OPTIONS, "--include=vim"))
    assert base.reference("bookworm") != before


def test_published_under_the_given_tag_or_its_own(said: list[str]) -> None:
    shelf, local = Shelf(), {"agent": "localhost/capstan/agent:dev-0123456789ab"}
    assert publish(local, shelf, "ghcr.io/acme/", "v1", said.append) == {"agent": "ghcr.io/acme/agent:v1"}
    assert publish(local, shelf, "ghcr.io/acme", None, said.append) == {
        "agent": "ghcr.io/acme/agent:dev-0123456789ab"
    }
    assert shelf.pushed[0] == (local["agent"], "ghcr.io/acme/agent:v1")


@pytest.mark.parametrize("engine", [Docker(), Buildah()])
def test_the_dockerfiles_target_and_arguments_reach_the_program(
    engine: Docker | Buildah, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.touch()
    ran: list[list[str]] = []
    monkeypatch.setattr(engines, "run", lambda argv: ran.append([str(word) for word in argv]))
    monkeypatch.setattr(engines, "CA_BUNDLE", bundle)
    engine.build("serving", "localhost/capstan/serving:dev-1", {"VARIANT": "gpu"})
    line = " ".join(ran[0])
    assert "--target serving --tag localhost/capstan/serving:dev-1" in line
    assert "--build-arg VARIANT=gpu" in line
    assert f"--secret id=ca,src={bundle}" in line
    bundle.unlink()
    engine.build("serving", "localhost/capstan/serving:dev-1", {})
    assert "--secret" not in " ".join(ran[1])


def test_what_a_failed_program_said_is_told() -> None:
    with pytest.raises(ImageError, match="status 3:\nno space left"):
        commands.run(["sh", "-c", "echo no space left >&2; exit 3"])
    with pytest.raises(ImageError, match="no-such-program is not installed"):
        commands.run(["no-such-program"])
    assert not commands.succeeds(["no-such-program"])


def test_a_machine_with_nothing_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "succeeds", lambda argv: False)
    with pytest.raises(ImageError, match="buildah and mmdebstrap"):
        engines.engine()


@pytest.mark.parametrize("arguments", [["nothing"], ["--tag", "v1"]])
def test_the_command_line_refuses(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["capstan-images", *arguments])
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_failure_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ImageError("nothing here builds images")

    monkeypatch.setattr("sys.argv", ["capstan-images"])
    monkeypatch.setattr("capstan_images.__main__.engine", fail)
    assert main() == 1
    assert capsys.readouterr().err == "capstan-images: nothing here builds images\n"
