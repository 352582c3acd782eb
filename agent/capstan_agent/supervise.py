"""Runs one command as a container's first process should: signals, zombies, grace, output.

The command gets a process group of its own. What asks for an end (SIGTERM, SIGINT, SIGHUP, SIGQUIT) is
forwarded to the group and starts the grace, after which the group is killed. When the command has ended, so
has the container: what is left of the group is killed too, and output that is already in the pipes is passed
on, without waiting for whoever else holds them open.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf

from capstan_agent import hang
from capstan_agent.channel import Channel
from capstan_agent.relay import Relay, Stream
from capstan_agent.tail import Tail

_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_FORWARDED = _STOPS | {signal.SIGUSR1, signal.SIGUSR2}
# Python ignores these two, and what is ignored stays so in a new program.
_RESET = (signal.SIGPIPE, signal.SIGXFSZ)
_PATIENCE = 5.0
#: Seconds of silence after which stacks are taken for written.
_SETTLED = 0.5


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended: its exit code or the signal that killed it, and what we had a part in."""

    code: int = 0
    signal: int | None = None
    stopped_by: int | None = None
    grace_exceeded: bool = False
    hung: bool = False
    #: What it wrote up to when it was asked where it stands.
    stacks: str = ""


class Supervisor:
    """Signal handling for one command; `stopped` stays of use after it has ended."""

    def __init__(self, grace: float, hang_timeout: float | None = None) -> None:
        """Take over the process's signals.

        `grace` is in seconds, as is `hang_timeout`: a program that is silent for so long hangs, and is ended.
        """
        self._grace = grace
        self._hang_timeout = hang_timeout
        self._heard = time.monotonic()
        self._hung = False
        self._stacks = ""
        self._stopped_by: int | None = None
        self._deadline: float | None = None
        self._killed = False
        self._wakeup, self._signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(number, _noted)

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        tail: Tail,
        channel: Channel | None = None,
    ) -> Exit:
        """Run the command to its end. OSError when it cannot be started."""
        streams, process = _start(command, environment, tail)
        relay = Relay(*streams, *([channel] if channel else []))
        status: int | None = None
        self._heard = time.monotonic()
        while status is None:
            if relay.step(self._patience(channel), self._wakeup):
                self._heard = time.monotonic()
            for number in self._pending():
                if number in _FORWARDED:
                    self._forward(number, process)
            if self._silence_left(channel) <= 0 and (status := _reap(process)) is None:
                self._give_up_on(process, relay, tail)
            if self._deadline is not None and time.monotonic() >= self._deadline and not self._killed:
                if self._hung:
                    self._ask(relay, tail, all_of_them=True)
                self._killed = True
                _signal_group(process, signal.SIGKILL)
            status = _reap(process) if status is None else status
        _signal_group(process, signal.SIGKILL)
        relay.drain(_PATIENCE)
        code = os.waitstatus_to_exitcode(status)
        died_of = -code if code < 0 else None
        return Exit(max(code, 0), died_of, self._stopped_by, self._killed, self._hung, self._stacks)

    def stopped(self) -> bool:
        """Whether an end has been asked for by now."""
        for number in self._pending():
            if number in _STOPS:
                self._stopped_by = self._stopped_by or number
        return self._stopped_by is not None

    def exit_now(self, end: Exit) -> Exit:
        """The same end, with what has been asked for since."""
        return replace(end, stopped_by=self._stopped_by)

    def _pending(self) -> bytes:
        """The signals since the last call, in their order."""
        with suppress(BlockingIOError):
            return os.read(self._wakeup, 4096)
        return b""

    def _forward(self, number: int, process: int) -> None:
        if number in _STOPS and self._deadline is None:
            self._stopped_by = number
            self._deadline = time.monotonic() + self._grace
        _signal_group(process, number)

    def _give_up_on(self, process: int, relay: Relay, tail: Tail) -> None:
        """It hangs: ask who could save nothing anyway, then let the others save."""
        self._hung = True
        self._ask(relay, tail, all_of_them=False)
        self._deadline = time.monotonic() + self._grace
        _signal_group(process, signal.SIGTERM)
        hang.wake()

    def _ask(self, relay: Relay, tail: Tail, *, all_of_them: bool) -> None:
        """Have the program write where it stands, and keep that before others speak of its end."""
        if not hang.ask(all_of_them=all_of_them):
            return
        hang.wake()
        end, settled = time.monotonic() + _PATIENCE, _PATIENCE
        while time.monotonic() < end and relay.step(settled):
            settled = _SETTLED
        self._stacks = tail.text(hang.NOISE)

    def _silence_left(self, channel: Channel | None) -> float:
        """Seconds that the program may still be silent. It is watched until it has been asked to end.

        Often replica 0 alone says anything: others are watched once they have used the channel.
        """
        first = os.environ.get("CAPSTAN_REPLICA_INDEX", "0") == "0"
        if self._hang_timeout is None or self._deadline is not None:
            return inf
        if not first and (channel is None or not channel.used):
            return inf
        return self._heard + self._hang_timeout - time.monotonic()

    def _patience(self, channel: Channel | None) -> float | None:
        if self._killed:
            return None
        left = self._silence_left(channel) if self._deadline is None else self._deadline - time.monotonic()
        return None if left == inf else left


def _noted(_number: int, _frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written to."""


def _start(
    command: Sequence[str], environment: Mapping[str, str], tail: Tail
) -> tuple[tuple[Stream, Stream], int]:
    (out, child_out), (err, child_err) = os.pipe(), os.pipe()
    try:
        process = os.posix_spawnp(
            command[0],
            tuple(command),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, child_out, 1), (os.POSIX_SPAWN_DUP2, child_err, 2)],
            setpgroup=0,
            setsigdef=_RESET,
        )
    except OSError:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(child_out)
        os.close(child_err)
    return (Stream(out, 1, tail), Stream(err, 2, tail)), process


def _signal_group(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, number)


def _reap(process: int) -> int | None:
    """Collect every process that has ended, also a container's orphans; the status if it was ours."""
    status = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == process:
                status = ended[1]
    return status
