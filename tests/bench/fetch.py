"""How fast a model arrives: `capstan-agent fetch` against plain `curl` of the same file, over TLS.

    scripts/run python -m tests.bench.fetch [--size MIB] [--rounds N]

versitygw serves one file on loopback, over S3 and, by a signed URL, over HTTPS. In each round curl and the
agent take turns; medians and their ratio are printed, with the processor time and the peak memory of each.
`digest` reads one file, whose SHA-256 is made on the way; `no digest` reads the folder that holds it, which
has none. HTTPS has no folders.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from capstan_cluster.build import Builder, module_of

from tests import certificates

FLOOR = 0.9
USER, PASSWORD = "bench", "bench-secret"


def main() -> int:
    """Run the rounds and print the table; 1 when the agent is below the floor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="of the file, in MiB")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capstan-fetch-") as name:
        folder = Path(name)
        authority = certificates.make(folder)
        (folder / "root/models/m").mkdir(parents=True)
        make(folder / "root/models/m/model.onnx", options.size)
        port, server = serve(folder)
        try:
            return rounds(folder, f"https://localhost:{port}", authority, options.size, options.rounds)
        finally:
            server.terminate()
            server.wait(30)


def rounds(folder: Path, url: str, authority: Path, size: int, count: int) -> int:
    """Take turns."""
    secrets = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_REGION": "us-east-1"}
    env = os.environ | secrets | {"AWS_ENDPOINT_URL": url, "SSL_CERT_FILE": str(authority)}
    fetch = [sys.executable, "-m", "capstan_agent", "fetch", "--termination-log", str(folder / "message")]
    fetch += ["--target", str(folder / "target"), "--layout", "data", "--allow", f"s3,{url}", "--uri"]
    presigned = presign(url, env)
    ways: dict[str, list[str]] = {
        "curl": ["curl", "-sSf", "--cacert", str(authority), "-o", str(folder / "target/curl"), presigned],
        "s3, digest": [*fetch, "s3://models/m/model.onnx"],
        "s3, no digest": [*fetch, "s3://models/m"],
        "https, digest": [*fetch, presigned],
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    works: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, int] = dict.fromkeys(ways, 0)
    for number in range(count + 1):
        for way, command in ways.items():
            shutil.rmtree(folder / "target", ignore_errors=True)
            (folder / "target").mkdir()
            seconds, work, peak = timed(command, env)
            if number:  # the first round warms the page cache
                times[way].append(seconds)
                works[way].append(work)
                peaks[way] = max(peaks[way], peak)
    plain = statistics.median(times["curl"])
    print(f"{size} MiB, {count} rounds, TLS on loopback, {os.cpu_count()} processors")
    print("| with | seconds | MiB/s | rate, of curl's | processor seconds | peak memory |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        median, work = statistics.median(times[way]), statistics.median(works[way])
        print(
            f"| {way} | {median:.2f} | {size / median:.0f} | {plain / median:.2f} | {work:.2f}"
            f" | {peaks[way] >> 10} MiB |"
        )
    below = [way for way in ways if plain / statistics.median(times[way]) < FLOOR]
    print(f"below the floor of {FLOOR}: {', '.join(below) or 'none'}")
    return 1 if below else 0


def timed(command: Sequence[str], env: dict[str, str]) -> tuple[float, float, int]:
    """How long a command took, the processor time of it, and its peak memory in KiB."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {process.returncode}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def presign(url: str, env: dict[str, str]) -> str:
    """A URL that anybody may read the file by."""
    program = (
        "import obstore, datetime; from obstore.store import S3Store;"
        "print(obstore.sign(S3Store('models'), 'GET', 'm/model.onnx', datetime.timedelta(hours=1)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make(path: Path, size: int) -> None:
    """A file that does not compress."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(size):
            file.write(number.to_bytes(8, "big") + block[8:])


def serve(folder: Path) -> tuple[int, subprocess.Popen[bytes]]:
    """versitygw, with TLS, on the folder."""
    builder = Builder()
    builder.build((module_of("versitygw"),), print)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    (folder / "meta").mkdir()
    options = [
        "--port",
        f"127.0.0.1:{port}",
        "--access",
        USER,
        "--secret",
        PASSWORD,
        "--quiet",
        "--keep-alive",
    ]
    options += ["--cert", str(folder / "server.pem"), "--key", str(folder / "server.key")]
    backend = ["posix", "--sidecar", str(folder / "meta"), "--default-etag", "one", str(folder / "root")]
    process = subprocess.Popen(
        [str(builder.path("versitygw")), *options, *backend], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return port, process
        time.sleep(0.05)
    raise SystemExit("versitygw does not answer")


if __name__ == "__main__":
    sys.exit(main())
