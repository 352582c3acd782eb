"""The work queue: which resource to look at next, and when.

A key is worked on by one worker at a time; keys added meanwhile are remembered once and handed out when
the worker is done. Failures back off exponentially with jitter, one counter a key. `Schedule` is the pure
part (time comes in as an argument); `WorkQueue` lets asyncio workers wait on it. Neither knows what a key
means.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable

from capstan_operator.shell.keys import Key

#: The first delay after a failure, in seconds; doubled with each further one.
BACKOFF_FIRST = 0.25
#: Changes of children within so many seconds of a pass are looked at together, as the Job controller does
#: with pods (its syncJobBatchPeriod): a gang that starts is many events, few of them worth a status.
BATCH = 1.0
#: No failure delays a key for longer than this, in seconds.
BACKOFF_LIMIT = 120.0


class Schedule:
    """Keys that are ready, due later, and in work. Every method is O(log n) and takes the time given."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._taken: dict[Key, float] = {}
        self._due: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = itertools.count()

    def __len__(self) -> int:
        """Return how many keys wait to be worked on now (those due later are not counted)."""
        return len(self._ready) + len(self._again)

    def add(self, key: Key) -> None:
        """Ask for a pass now: once, however often it is asked before the pass begins."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)

    def add_batched(self, key: Key, now: float) -> None:
        """Ask for a pass: now, or once `BATCH` seconds have passed since the last one began."""
        due = self._taken.get(key, now - BATCH) + BATCH
        if due > now:
            self.add_at(key, due)
        else:
            self.add(key)

    def add_at(self, key: Key, when: float) -> None:
        """Ask for a pass at `when`; of several times asked for, the earliest holds."""
        current = self._due.get(key)
        if current is None or when < current[0]:
            entry = (when, next(self._serial))
            self._due[key] = entry
            heapq.heappush(self._heap, (*entry, key))

    def next_due(self) -> float | None:
        """Return when the next delayed key is due, or None."""
        self._drop_superseded()
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> Key | None:
        """Hand out the next key, or None. Its delayed pass is forgotten: the one that begins decides anew."""
        self._drop_superseded()
        while self._heap and self._heap[0][0] <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            self.add(key)
            self._drop_superseded()
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._queued.discard(key)
        self._working.add(key)
        self._due.pop(key, None)
        self._remember(key, now)
        return key

    def done(self, key: Key) -> None:
        """End the pass of a key that was taken; if it was asked for meanwhile, it is ready again."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _remember(self, key: Key, now: float) -> None:
        """Note when a pass began, for as long as that matters: the oldest come first."""
        self._taken.pop(key, None)
        self._taken[key] = now
        while self._taken[oldest := next(iter(self._taken))] + BATCH <= now:
            del self._taken[oldest]

    def _drop_superseded(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)


def backoff(failures: int, spread: float, limit: float = BACKOFF_LIMIT) -> float:
    """Return the delay in seconds after so many failures in a row; `spread` in [0, 1) is the jitter."""
    delay = min(limit, BACKOFF_FIRST * 2.0 ** min(failures - 1, 30))
    return delay * (0.5 + spread / 2)


class WorkQueue:
    """The schedule, for asyncio workers of one event loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
        on_add: Callable[[], None] = lambda: None,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._dice = dice
        self._on_add = on_add
        self._on_retry = on_retry
        self._schedule = Schedule()
        self._failures: dict[Key, int] = {}
        self._wakeups: set[asyncio.Future[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        """Return how many keys wait for a worker."""
        return len(self._schedule)

    def failures(self, key: Key) -> int:
        """Return how often in a row the key's pass has failed."""
        return self._failures.get(key, 0)

    def add(self, key: Key) -> None:
        """Ask for a pass over this key now."""
        self._on_add()
        self._schedule.add(key)
        self._wake()

    def add_batched(self, key: Key) -> None:
        """Ask for a pass over this key soon: a child has changed, and more of them may."""
        self._on_add()
        self._schedule.add_batched(key, self._clock())
        self._wake()

    def add_after(self, key: Key, delay: float) -> None:
        """Ask for a pass over this key in `delay` seconds, unless one comes earlier."""
        self._schedule.add_at(key, self._clock() + delay)
        self._wake()

    def retry(self, key: Key, at_least: float = 0.0) -> float:
        """Ask for a pass after a failure, later with each one; return the delay in seconds."""
        self._on_retry()
        self._failures[key] = self.failures(key) + 1
        delay = max(at_least, backoff(self._failures[key], self._dice()))
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: Key) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    def done(self, key: Key) -> None:
        """Give back a key that get() handed out."""
        self._schedule.done(key)
        self._wake()

    def close(self) -> None:
        """Hand out nothing more: every get(), waiting or to come, returns None."""
        self._closed = True
        self._wake()

    async def get(self) -> Key | None:
        """Wait for the next key and begin its pass; None when the queue is closed."""
        while not self._closed:
            now = self._clock()
            key = self._schedule.take(now)
            if key is not None:
                return key
            due = self._schedule.next_due()
            await self._sleep(None if due is None else max(0.0, due - now))
        return None

    async def _sleep(self, seconds: float | None) -> None:
        wakeup: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wakeups.add(wakeup)
        try:
            await asyncio.wait((wakeup,), timeout=seconds)
        finally:
            self._wakeups.discard(wakeup)

    def _wake(self) -> None:
        for wakeup in self._wakeups:
            if not wakeup.done():
                wakeup.set_result(None)
