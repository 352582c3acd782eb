"""The installed runtime: it starts where there is nothing but itself."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from capstan_agent.errors import AgentError
from capstan_agent.install import install
from capstan_agent.launcher import instructions, launcher

CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
UNSHARE = shutil.which("unshare") or "/usr/bin/unshare"
ROOT = (CHROOT,) if os.geteuid() == 0 else (UNSHARE, "--user", "--map-root-user", CHROOT)

# A program that needs nothing: it shows what it was given, and exits with 3.
STATIC_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    const char *names[] = {"LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PLAIN"};
    for (int i = 1; i < argc; i++) printf("%s|", argv[i]);
    for (int i = 0; i < 4; i++) printf("%s=%s|", names[i], getenv(names[i]) ? getenv(names[i]) : "");
    const char *progress = getenv("CAPSTAN_PROGRESS_FILE");
    FILE *pipe = progress ? fopen(progress, "a") : 0;
    if (pipe) fprintf(pipe, "{\"step\": 5, \"total\": 10}\n"), fclose(pipe);
    return 3;
}
"""


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> Path:
    """An image's root with nothing in it but a static program and the runtime, copied from another folder."""
    scratch = tmp_path_factory.mktemp("runtime")
    built, root = scratch / "opt", scratch / "root"
    install(built)
    (root / "var/run/capstan").mkdir(parents=True)
    (root / "dev").mkdir()
    copied = [built / "capstan-agent", "install", "--termination-log", root / "dev/message", root / "agent"]
    subprocess.run(copied, check=True)
    assert (built / "fetch/obstore/_obstore.abi3.so").is_file()
    shutil.rmtree(built)  # nothing may depend on where it was built
    (root / "agent").rename(root / "var/run/capstan/agent")
    (scratch / "program.c").write_text(STATIC_PROGRAM)
    subprocess.run(["cc", "-static", "-o", root / "program", scratch / "program.c"], check=True)
    return root


def runner(image: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*ROOT, image, "/var/run/capstan/agent/run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_the_launcher_is_what_its_source_says(tmp_path):
    source = Path(__file__).parents[3] / "agent/capstan_agent/launcher.S"
    subprocess.run(["as", "-o", tmp_path / "object", source], check=True)
    text = tmp_path / "text"
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "object", text], check=True)
    assert text.read_bytes() == instructions()
    assert len(launcher()) < 1024


def test_it_runs_in_an_empty_image(image):
    done = runner(image, "--termination-log", "/dev/log", "--", "/program", "a b", "é", PLAIN="yes")
    assert done.stderr == ""
    assert done.stdout == "a b|é|LD_PRELOAD=|LD_LIBRARY_PATH=|PYTHONPATH=|PLAIN=yes|"
    assert done.returncode == 3
    message = json.loads((image / "dev/log").read_text())
    assert (message["class"], message["exitCode"]) == ("user", 3)


def test_the_environment_of_the_image_is_for_the_command_alone(image, tmp_path):
    """A library for another C library in LD_PRELOAD would end our interpreter before it begins."""
    source, broken = tmp_path / "broken.c", image / "broken.so"
    source.write_text("extern int no_such_function(void); int (*use)(void) = no_such_function;")
    subprocess.run(["cc", "-shared", "-fPIC", "-nostdlib", "-o", broken, source], check=True)
    agent = image / "var/run/capstan/agent"
    direct = [
        agent / "lib/ld.so",
        "--preload",
        broken,
        "--library-path",
        agent / "lib",
        agent / "bin/python3",
        "-V",
    ]
    assert subprocess.run(direct, capture_output=True, check=False).returncode != 0, "it would do no harm"
    done = runner(
        image,
        *("--termination-log", "/dev/log", "--", "/program"),
        LD_PRELOAD="/broken.so",
        LD_LIBRARY_PATH="/opt/lib",
        PYTHONPATH="/opt/python",
    )
    # chroot itself is a dynamic program of this machine, and says that it has no /broken.so.
    assert [line for line in done.stderr.splitlines() if "ld.so" not in line] == []
    assert done.stdout == "LD_PRELOAD=/broken.so|LD_LIBRARY_PATH=/opt/lib|PYTHONPATH=/opt/python|PLAIN=|"


def test_its_messages_and_help_work_there_too(image):
    done = runner(image, "--termination-log", "/dev/log", "--", "no-such-program")
    assert done.returncode == 127
    assert "no-such-program is not in the image" in done.stderr
    assert "--output-file" in runner(image, "--help").stdout
    assert "60s or 1m30s" in runner(image, "--grace", "soon", "--", "x").stderr


def test_it_fetches_there_too(image):
    claim = image / "claims/models"
    claim.mkdir(parents=True)
    (claim / "model.onnx").write_bytes(b"weights")
    arguments = "--uri pvc://models/model.onnx --target /out --model m --version 1 --claims /claims"
    fetch = ["fetch", *arguments.split(), "--termination-log", "/dev/f"]
    agent = [*ROOT, image, "/var/run/capstan/agent/capstan-agent"]
    subprocess.run([*agent, *fetch], check=True, capture_output=True)
    assert (image / "out/m/1/model.onnx").read_bytes() == b"weights"
    assert json.loads((image / "dev/f").read_text())["output"]["digest"].startswith("sha256:")


def test_what_only_the_agents_image_needs_is_not_brought_along(image):
    agent = image / "var/run/capstan/agent"
    names = {path.name for path in agent.rglob("*")}
    assert not [name for name in names if "obstore" in name]
    assert not [path for path in agent.rglob("*") if path.is_symlink()]
    arguments = "--uri s3://bucket/m --target /out --model m --version 1 --termination-log /dev/none"
    fetch = [*ROOT, image, "/var/run/capstan/agent/capstan-agent", "fetch", *arguments.split()]
    done = subprocess.run(fetch, capture_output=True, text=True, check=False)
    assert (done.returncode, "only the agent's image has" in done.stderr) == (1, True), done.stderr


class Nothing(BaseHTTPRequestHandler):
    """A server that has nothing, and notes what it is told."""

    told: ClassVar[list[tuple[str | None, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.told.append((self.headers["Authorization"], body))
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.fixture
def https(tmp_path) -> Iterator[tuple[int, Path]]:
    """The port of such a server on this machine, with TLS, and the certificate that it shows."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=one", "-keyout", key]
    extensions = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*make, *extensions, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, certificate
        server.shutdown()
        thread.join()


def test_it_reports_progress_from_an_empty_image(image, https):
    """TLS is the runner's own, as is what host names take; the helper is there for images with Python."""
    port, certificate = https
    (image / "token").write_text("the-token")
    (image / "progress").mkdir(exist_ok=True)
    pod = {
        "CAPSTAN_PROGRESS_FILE": "/progress/pipe",
        "CAPSTAN_REPORT_URL": f"https://127.0.0.1:{port}/v1/progress",
        "CAPSTAN_REPORT_CA": certificate.read_text(),
        "CAPSTAN_REPORT_TOKEN_FILE": "/token",
    }
    done = runner(image, "--termination-log", "/dev/log", "--", "/program", **pod)
    assert done.stderr == ""
    assert "PYTHONPATH=/var/run/capstan/agent/python|" in done.stdout
    assert (image / "var/run/capstan/agent/python/capstan.py").is_file()
    ((token, body),) = Nothing.told
    assert (token, json.loads(body)) == ("Bearer the-token", {"step": 5, "total": 10})
    done = runner(image, "--", "/program", **pod | {"CAPSTAN_REPORT_URL": "https://no-such-host:1/"})
    assert "does not reach the operator" in done.stderr
    assert done.returncode == 3


def test_the_agents_image_has_what_object_stores_and_tls_need(tmp_path, https):
    """In a root with nothing else: that a server has nothing is known only after speaking TLS with it."""
    port, certificate = https
    root = tmp_path / "root"
    install(root / "opt/agent")
    (root / "dev").mkdir()
    (root / "tmp").mkdir()
    shutil.copy(certificate, root / "ca.pem")
    secret = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two", "AWS_REGION": "us-east-1"}
    store = {"AWS_ENDPOINT_URL": f"https://127.0.0.1:{port}", **secret}
    for uri, rule, env, reason, said in (
        ("s3://bucket/m", "s3", {**store, "SSL_CERT_FILE": "/ca.pem"}, "ModelNotFound", "bucket"),
        ("s3://bucket/m", "s3", {**store, "SSL_CERT_FILE": "/none"}, "SourceUnavailable", "SSL_CERT_FILE"),
        (
            f"https://127.0.0.1:{port}/m",
            "https://127.0.0.1",
            {"SSL_CERT_FILE": "/ca.pem"},
            "ModelNotFound",
            "404",
        ),
    ):
        arguments = (
            f"--uri {uri} --allow {rule} --target /tmp/out --model m --version 1 --termination-log /dev/m"
        )
        fetch = [*ROOT, root, "/opt/agent/capstan-agent", "fetch", *arguments.split()]
        done = subprocess.run(fetch, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 1
        message = json.loads((root / "dev/m").read_text())
        assert message["reason"] == reason, message
        assert said in message["message"]


def test_every_user_may_run_it_and_nobody_change_it(image):
    for path in (image / "var/run/capstan/agent").rglob("*"):
        mode = path.stat().st_mode & 0o777
        assert mode in ({0o755} if path.is_dir() else {0o644, 0o755}), path


def test_it_is_small_and_quickly_copied(image, tmp_path):
    agent = image / "var/run/capstan/agent"
    chosen = [path for path in agent.rglob("*") if path.is_file() and "python3" not in path.name]
    assert (
        sum(path.stat().st_size for path in chosen) < 15 << 20
    )  # the interpreter is what its builder made it
    start = time.monotonic()
    copy = [agent / "capstan-agent", "install", "--termination-log", tmp_path / "message", tmp_path / "copy"]
    subprocess.run(copy, check=True)
    assert time.monotonic() - start < 5  # some 0.1 s on an idle machine


def test_installing_again_over_itself(image, tmp_path):
    agent = image / "var/run/capstan/agent"
    copy = [agent / "capstan-agent", "install", "--termination-log", tmp_path / "message", tmp_path / "copy"]
    subprocess.run(copy, check=True)
    subprocess.run(copy, check=True)
    subprocess.run([tmp_path / "copy/run", "--termination-log", tmp_path / "m", "--", "true"], check=True)


def test_a_damaged_runtime_says_so(image, tmp_path):
    shutil.copy(image / "var/run/capstan/agent/run", tmp_path / "run")
    done = subprocess.run([tmp_path / "run", "--", "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 126
    assert "missing or damaged" in done.stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentError, match="writable volume"):
        install(tmp_path / "file" / "agent")


def test_the_builds_output_depends_on_its_input_only(tmp_path):
    install(tmp_path / "a")
    install(tmp_path / "b")
    archive = f"lib/python{sys.version_info[0]}{sys.version_info[1]}.zip"
    assert (tmp_path / "a" / archive).read_bytes() == (tmp_path / "b" / archive).read_bytes()
