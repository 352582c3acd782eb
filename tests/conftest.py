"""What tests on a cluster start from: Capstan as a user has it, images and chart, on a real Kubernetes."""

import os
import re
from collections.abc import Iterator

import pytest
from capstan_demo import environment
from capstan_demo.digits import RESTRICTED
from capstan_demo.kube import Kube
from hypothesis import HealthCheck, Phase, settings

# Machines are noisy, so no example has a deadline. `--hypothesis-profile=long` is for whoever has an hour.
settings.register_profile(
    "fast",
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    max_examples=3000,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
settings.load_profile("fast")

#: They come last: one judges what the operator did in all the others, one replaces what those use.
LAST = ("test_rights.py", "test_upgrade.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("CONTEXT"):
        elsewhere = [item for item in items if item.get_closest_marker("local")]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]
    items.sort(key=lambda item: LAST.index(item.path.name) + 1 if item.path.name in LAST else 0)


@pytest.fixture(scope="session")
def installed() -> environment.Environment:
    """The cluster with Capstan's chart installed; built and booted when it is not there."""
    return environment.ready()


@pytest.fixture(scope="session")
def kube(installed: environment.Environment) -> Kube:
    return installed.kube


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own that enforces the restricted Pod Security Standard."""
    name = "t-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:50].strip("-")
    kube.delete("namespace", name)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    yield name
    kube.delete("namespace", name, wait=False)
