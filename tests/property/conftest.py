"""Profiles of hypothesis: short by default, `--hypothesis-profile=long` for as long as one has."""

import logging

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "long",
    max_examples=3000,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
