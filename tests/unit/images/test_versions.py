import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_images_are_built_with_the_uv_that_the_bootstrap_installs():
    scripts = (ROOT / "scripts" / "environment.sh").read_text()
    (installed,) = re.findall(r"^UV_VERSION=(.*)$", scripts, re.MULTILINE)
    assert f"uv=={installed} " in (ROOT / "Dockerfile").read_text()
