"""Which of several operators acts: the holder of a Lease, elected as client-go elects.

The holder renews; whoever has seen the record unchanged for its whole duration, on a clock of its own, takes
it. Nobody compares clocks: the times in the record are for people. A holder trusts its lease for less long
than the others wait, counted from before the request that renewed it was sent. `leads` is the fence that
every write passes (client.py): its clock goes on while the process is stopped or the machine asleep, so that
one that wakes knows that it is late before it does anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any

from capstan_operator.core.model import Manifest
from capstan_operator.shell.client import Api
from capstan_operator.shell.errors import ShellError
from capstan_operator.shell.keys import Resource

logger = logging.getLogger(__name__)

LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
#: Linux' monotonic clock stands still while the machine is suspended; that of other systems has no such twin.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
#: Seconds that giving the lease back may take at the end.
GRACE_RELEASE = 2.0


def since_boot() -> float:
    """Return the seconds since the machine started, those it was suspended included."""
    return time.clock_gettime(_CLOCK)


def own_identity() -> str:
    """Return a name for this process: its successor in the same pod is somebody else."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4()}"


@dataclass(frozen=True, slots=True)
class Terms:
    """The election's times in seconds, all from one, so that no choice of it lets two lead.

    The ratios are those that Kubernetes' own components use, a little tighter: a renewal that is refused may
    be tried three times before the holder stops, and clocks may run a third faster or slower than another.
    """

    duration: int = 10

    @property
    def renew(self) -> float:
        """How long a renewal holds in its holder's own eyes."""
        return 0.7 * self.duration

    @property
    def request(self) -> float:
        """How long one attempt may take."""
        return 0.5 * self.duration

    @property
    def retry(self) -> float:
        """How long between two attempts."""
        return min(2.0, 0.2 * self.duration)


class Elector:
    """One candidate for one Lease."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        terms: Terms,
        identity: str,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._terms = terms
        self._identity = identity
        self._clock = clock
        self._valid_until = -inf
        self._lease: Manifest | None = None  # as we wrote it last: a renewal then costs one request
        self._spec: Manifest = {}  # as anybody wrote it last, and when we first saw it so
        self._seen_at = -inf
        self._turned: float | None = None

    def leads(self) -> bool:
        """Say whether we hold the lease at this moment, for sure."""
        return self._clock() < self._valid_until

    def turning(self) -> bool:
        """Say whether the election goes on; before it has begun, it does."""
        return self._turned is None or self._clock() - self._turned < 3 * self._terms.duration

    async def run(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Compete for ever; `lead` runs while we hold the lease, is cancelled when we do not, and ends us.

        At the end, however it comes, the lease is given back, for the next one to take at once.
        """
        work: asyncio.Task[None] | None = None
        try:
            while work is None or not work.done():
                begun = self._clock()
                # Before the turn as well: whoever lost the lease and takes it again begins anew.
                work = await self._while_leading(work)
                await self._turn()
                work = await self._while_leading(work)
                if work is None and self.leads():
                    logger.info("leading", extra={"fields": {"identity": self._identity}})
                    work = asyncio.create_task(lead(), name="leading")
                spent = self._clock() - begun
                rest = max(self._terms.retry - spent, self._terms.retry / 4) * random.uniform(0.9, 1.1)
                await (asyncio.sleep(rest) if work is None else asyncio.wait((work,), timeout=rest))
        finally:
            try:
                if work is not None:
                    await _cancel(work)
            finally:
                await self._end()

    async def _while_leading(self, work: asyncio.Task[None] | None) -> asyncio.Task[None] | None:
        if work is None or self.leads():
            return work
        logger.warning("not leading any more", extra={"fields": {"identity": self._identity}})
        await _cancel(work)
        return None

    async def attempt(self) -> None:
        """Renew the lease, or take it if it is free: one request or two. Raises ShellError."""
        lease, self._lease = self._lease, None
        if lease is None or not self.leads():
            lease = await self._look()
            if self._taken():
                return
        sent = self._clock()
        if lease is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            written = await self._api.create(LEASES, _lease(metadata, self._record({})))
        else:
            written = await self._api.replace(
                LEASES, _lease(lease["metadata"], self._record(_spec_of(lease)))
            )
        self._note(written)
        self._lease, self._valid_until = written, sent + self._terms.renew

    async def give_back(self) -> None:
        """Stop leading, then say so in the lease. Raises ShellError."""
        if not self.leads():
            return
        self._valid_until = -inf
        lease = self._lease or await self._look()
        if lease is not None and _spec_of(lease).get("holderIdentity") == self._identity:
            given = self._record(_spec_of(lease)) | {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._api.replace(LEASES, _lease(lease["metadata"], given))

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(GRACE_RELEASE):
                await self.give_back()
        except (ShellError, TimeoutError) as error:
            logger.warning("the lease was not given back, it will run out: %r", error)

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(self._terms.request):
                await self.attempt()
        except (ShellError, TimeoutError) as error:
            logger.warning("the lease was not renewed or looked at, trying again: %r", error)
        self._turned = self._clock()

    async def _look(self) -> Manifest | None:
        lease = await self._api.get(LEASES, self._namespace, self._name)
        if lease is not None:
            self._note(lease)
        if _spec_of(lease).get("holderIdentity") != self._identity:
            self._valid_until = -inf
        return lease

    def _note(self, lease: Manifest) -> None:
        spec = _spec_of(lease)
        if spec != self._spec:
            self._spec, self._seen_at = spec, self._clock()

    def _taken(self) -> bool:
        """Say whether somebody else holds it, as far as is known: so does who held it when it was deleted."""
        if self._spec.get("holderIdentity") in (None, "", self._identity):
            return False
        duration = self._spec.get("leaseDurationSeconds") or self._terms.duration
        return bool(self._clock() < self._seen_at + duration)

    def _record(self, before: Manifest) -> Manifest:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = before.get("holderIdentity") == self._identity
        return before | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._terms.duration,
            "acquireTime": before.get("acquireTime") if ours else now,
            "renewTime": now,
            "leaseTransitions": (before.get("leaseTransitions") or 0) + (not ours and bool(before)),
        }


def _lease(metadata: Manifest, spec: Manifest) -> Manifest:
    return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}


def _spec_of(lease: Manifest | None) -> Manifest:
    return (lease or {}).get("spec") or {}


async def _cancel(work: asyncio.Task[None]) -> None:
    """Cancel and wait; if it ended by itself, raise what it raised."""
    work.cancel()
    await asyncio.wait((work,))
    if not work.cancelled():
        work.result()
