"""What is known of npm's packages is told, and so is that nobody could be asked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "tests/integration/agent/azurite/package-lock.json"


class Service(BaseHTTPRequestHandler):
    """Knows of one version of one package."""

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        bad = {"package": {"ecosystem": "npm", "name": "@a/bad"}, "version": "1.0.0"}
        body = json.dumps({"results": [{"vulns": [{"id": "GHSA-1"}]} if q == bad else {} for q in queries]})
        self.send_response(200 if self.path == "/v1/querybatch" else 404)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def audit(lock: Path, url: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "scripts/audit_npm.py", lock],
        env=os.environ | {"OSV_URL": url}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_is_known_is_told(service: str, tmp_path: Path) -> None:
    packages = {
        "": {"name": "us", "version": "1.0.0"},
        "node_modules/good": {"version": "2.0.0"},
        "node_modules/good/node_modules/@a/bad": {"version": "1.0.0"},
    }
    lock = tmp_path / "package-lock.json"
    lock.write_text(json.dumps({"packages": packages}))
    done = audit(lock, service)
    assert (done.returncode, done.stdout.count("GHSA-1")) == (1, 1), done.stderr
    assert "@a/bad 1.0.0: GHSA-1" in done.stdout


def test_the_lock_of_the_tests_is_read_whole(service: str) -> None:
    done = audit(LOCK, service)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split(": ")[1].split()[0]) > 100


def test_that_nobody_could_be_asked_is_an_error_in_one_sentence() -> None:
    done = audit(LOCK, "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "nothing was looked up" in done.stderr
    assert "Traceback" not in done.stderr
