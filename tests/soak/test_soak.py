"""The soak's short form: that it runs, finds nothing, and would find something."""

import itertools

import pytest

from tests.conformance.server import Server
from tests.soak.soak import soak
from tests.soak.workers import Load, Wrong

# aiohttp's advice to tritonclient.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mixed_load_for_a_while():
    # After twelve seconds memory is not quite at its level: 5 % are for the ten minutes of `make soak`.
    print(soak(40, seed=1, allowed=0.1))


def test_growing_memory_is_a_fault(monkeypatch):
    grown = itertools.count(1000, 10)
    monkeypatch.setattr(Server, "resident", lambda self: next(grown) << 20)
    with pytest.raises(Wrong, match=r"memory has grown: .* \+\d\d\.\d% at the end"):
        soak(5, seed=3)


def test_a_wrong_answer_ends_it(monkeypatch):
    check = Load.check

    def lie(self, model, arrays, result):
        check(self, model, {name: array[::-1] for name, array in arrays.items()}, result)

    monkeypatch.setattr(Load, "check", lie)
    with pytest.raises(Wrong, match="the answer was"):
        soak(30, seed=2)
