"""The election, whatever the network does and however clocks run: never two that lead at one time.

Simulated, in hours that take a second: requests are lost, or are processed or answered late, after who sent
them has given up; candidates freeze anywhere, die and come back; their clocks run differently.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
from capstan_operator.shell.errors import Gone, Rejected, ShellError, Stale
from capstan_operator.shell.leader import Elector, Terms

TERMS = Terms(10)
HOURS = 2


class Server:
    """One Lease, with preconditions."""

    def __init__(self) -> None:
        self.lease: Any = None
        self.version = itertools.count(1)

    def get(self) -> Any:
        return self.lease

    def create(self, lease: Any) -> Any:
        if self.lease is not None:
            raise Rejected("AlreadyExists", "there is one", status=409)
        return self._keep(lease)

    def replace(self, lease: Any) -> Any:
        if self.lease is None:
            raise Gone("none")
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Stale("it has moved on")
        return self._keep(lease)

    def touch(self) -> None:
        """Somebody annotates it."""
        if self.lease is not None:
            self._keep(self.lease)

    def _keep(self, lease: Any) -> Any:
        version = {"resourceVersion": str(next(self.version))}
        self.lease = lease | {"metadata": lease["metadata"] | version}
        return self.lease


class Request:
    """On the wire, in either direction."""

    def __init__(self, verb: str, *lease: Any) -> None:
        self.verb, self.lease = verb, lease
        self.answer: Any = None
        self.error: ShellError | None = None
        self.processed = False

    def __await__(self) -> Generator["Request", Any, Any]:
        yield self
        if self.error is not None:
            raise self.error
        return self.answer

    def process(self, server: Server) -> None:
        self.processed = True
        try:
            self.answer = getattr(server, self.verb)(*self.lease)
        except ShellError as error:
            self.error = error


class Wire:
    async def get(self, *_: Any) -> Any:
        return await Request("get")

    async def create(self, _: Any, lease: Any) -> Any:
        return await Request("create", lease)

    async def replace(self, _: Any, lease: Any) -> Any:
        return await Request("replace", lease)


class Simulation:
    """What happens when, in the world's own time."""

    def __init__(self, seed: int) -> None:
        self.now, self.dice, self.server = 0.0, random.Random(seed), Server()
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = itertools.count()
        self.candidates = [Candidate(self, number) for number in range(3)]
        self.reigns: set[str] = set()

    def at(self, delay: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (self.now + delay, next(self.serial), do))

    def run(self, until: float) -> None:
        while self.agenda[0][0] < until:
            self.now, _, do = heapq.heappop(self.agenda)
            self.check()
            do()
            self.check()

    def check(self) -> None:
        leading = [who.name for who in self.candidates if who.elector.leads()]
        assert len(leading) <= 1, (self.now, leading)
        self.reigns.update(leading)

    def late(self) -> float:
        return self.dice.choice((0.01, 0.01, 0.01, 0.01, 0.5, 2.0, 4.0, 6.0, 12.0))


class Candidate:
    """An elector and the process around it, as run() is: attempts that time out, pauses between them."""

    def __init__(self, world: Simulation, number: int) -> None:
        self.world, self.number, self.lives = world, number, itertools.count()
        self.rate = world.dice.uniform(0.85, 1.15)  # 0.7 * 1.15 / 0.85 < 1
        self.frozen_until = 0.0
        self.live()

    def live(self) -> None:
        wire: Any = Wire()
        self.name = f"{self.number}-{next(self.lives)}"
        self.elector = Elector(wire, "ns", "lease", TERMS, self.name, self.clock)
        self.doing: Coroutine[Any, Any, None] | None = None
        self.later(0.0, self.attempt)

    def clock(self) -> float:
        return 1000.0 * self.number + self.world.now * self.rate

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Do it in so many seconds of our own, when we are not frozen and have not died."""
        name = self.name

        def act() -> None:
            if self.name != name:
                return
            if self.world.now < self.frozen_until:
                self.world.at(self.frozen_until - self.world.now, act)
            else:
                do()

        self.world.at(seconds / self.rate, act)

    def attempt(self) -> None:
        fate = self.world.dice.random()
        if fate < 0.02:
            self.live()
            return
        if fate < 0.04:
            self.freeze()
        self.begin(self.elector.give_back() if fate > 0.98 else self.elector.attempt())

    def begin(self, doing: Coroutine[Any, Any, None]) -> None:
        self.doing = doing
        self.later(TERMS.request, lambda: self.give_up(doing))
        self.go_on(doing)

    def freeze(self) -> None:
        self.frozen_until = self.world.now + self.world.dice.choice((3.0, 8.0, 15.0))

    def go_on(self, doing: Coroutine[Any, Any, None]) -> None:
        if self.doing is not doing:
            return
        try:
            request = doing.send(None)
        except (StopIteration, ShellError):
            self.rest()
            return
        if self.world.dice.random() < 0.02:
            self.freeze()
        trouble = self.world.dice.random() < 0.3
        there = self.world.late() if trouble else 0.01
        back = self.world.late() if trouble else 0.01
        if self.world.dice.random() > 0.05:
            self.world.at(there, lambda: request.process(self.world.server))
            self.world.at(there + back, lambda: self.later(0.0, lambda: self.go_on(doing)))

    def give_up(self, doing: Coroutine[Any, Any, None]) -> None:
        if self.doing is doing:
            doing.close()
            self.rest()

    def rest(self) -> None:
        self.doing = None
        self.later(TERMS.retry, self.attempt)


@pytest.mark.parametrize("seed", range(10))
def test_never_two_lead_and_somebody_soon_does(seed: int) -> None:
    world = Simulation(seed)
    for minute in range(60 * HOURS):
        world.run(until=60.0 * minute)
        if world.dice.random() < 0.1:
            world.server.touch()
    assert len(world.reigns) > 20, "leadership has moved often"
