"""Writes what each image is made of beside its base, from the locks, as CycloneDX: `make sbom`.

Python packages are uv's own list of the lock; crates are those of Cargo.lock, with the checksums that cargo
checks. Nothing that differs from run to run is kept, so that the same locks give the same files. The packages
of the Debian base are in no lock: the release workflow has them listed by BuildKit, from the image itself.
"""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: Each image's options of `uv export`, as the Dockerfile has them.
IMAGES = {
    "operator": ["--no-dev", "--package", "capstan-operator"],
    "agent": ["--no-dev", "--package", "capstan-agent", "--extra", "storage"],
    "serving": ["--no-dev", "--package", "capstan-serving", "--extra", "cpu"],
    "serving-gpu": ["--no-dev", "--package", "capstan-serving", "--extra", "gpu"],
    "trainer": ["--no-dev", "--project", "examples/digits"],
}
NATIVE = ("serving", "serving-gpu")


def python(options: list[str]) -> dict[str, Any]:
    """The packages of a lock, by uv."""
    command = [os.environ.get("UV", "uv"), "export", "--quiet", "--frozen", "--format", "cyclonedx1.5"]
    command += ["--preview-features", "sbom-export", *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    listed: dict[str, Any] = json.loads(done.stdout)
    listed.pop("serialNumber")
    listed["metadata"].pop("timestamp")
    return listed


def crates() -> list[dict[str, Any]]:
    """The crates that the serving front end is compiled from."""
    locked = tomllib.loads((ROOT / "serving/native/Cargo.lock").read_text())["package"]
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:cargo/{crate['name']}@{crate['version']}",
            "name": crate["name"],
            "version": crate["version"],
            "purl": f"pkg:cargo/{crate['name']}@{crate['version']}",
            "hashes": [{"alg": "SHA-256", "content": crate["checksum"]}],
        }
        for crate in locked
        if "source" in crate
    ]


def main(folder: Path) -> None:
    """Write one file an image."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, options in IMAGES.items():
        listed = python(options)
        if image in NATIVE:
            listed.setdefault("components", []).extend(crates())
        path = folder / f"{image}.cdx.json"
        path.write_text(json.dumps(listed, indent=1) + "\n")
        print(f"{path}: {len(listed.get('components', []))} components")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "sbom")
