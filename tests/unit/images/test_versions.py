import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_images_are_built_with_the_uv_that_the_bootstrap_installs():
    scripts = (ROOT / "scripts" / "environment.sh").read_text()
    ((version, digest),) = re.findall(r"(?m)^UV_VERSION=(.*)\nUV_SHA256=(.*)$", scripts)
    assert f"uv=={version} --hash=sha256:{digest}" in (ROOT / "Dockerfile").read_text()


def test_the_extension_is_built_by_the_maturin_whose_hash_is_known():
    (required,) = tomllib.loads((ROOT / "serving/pyproject.toml").read_text())["build-system"]["requires"]
    locked = (ROOT / "serving" / "build-constraints.txt").read_text()
    assert re.fullmatch(rf"{re.escape(required)} --hash=sha256:[0-9a-f]{{64}}\n", locked)
    checked = "--build-constraints {}build-constraints.txt --require-hashes"
    assert checked.format("/src/") in (ROOT / "Dockerfile").read_text()
