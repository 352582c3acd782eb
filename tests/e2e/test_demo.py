"""`make demo`, as the README says it, on the cluster the other tests use."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.cluster


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_tells_its_whole_story(installed) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "capstan_demo"], capture_output=True, text=True, timeout=850, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    for word in ("held-out digits", "HTTP", "gRPC", "p50", "p99", "What to try next"):
        assert word in done.stdout
