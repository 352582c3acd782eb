"""A certificate authority for tests and measurements, and a server of it on this machine."""

import subprocess
from pathlib import Path

_NEW = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
_ISSUED = "-CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE"
_NAMES = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"


def make(folder: Path) -> Path:
    """The authority, ca.pem; beside it the certificate that it issued for localhost: server.pem and .key."""
    for options in (
        "-subj /CN=tests -keyout ca.key -out ca.pem",
        f"-subj /CN=localhost -keyout server.key -out server.pem {_ISSUED} {_NAMES}",
    ):
        subprocess.run(f"{_NEW} {options}".split(), cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem"
