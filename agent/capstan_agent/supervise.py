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

from capstan_agent.channel import Channel
from capstan_agent.relay import Relay, Stream
from capstan_agent.tail import Tail

_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_FORWARDED = _STOPS | {signal.SIGUSR1, signal.SIGUSR2}
# Python ignores these two, and what is ignored stays so in a new program.
_RESET = (signal.SIGPIPE, signal.SIGXFSZ)
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended: its exit code or the signal that killed it, and what we had a part in."""

    code: int = 0
    signal: int | None = None
    stopped_by: int | None = None
    grace_exceeded: bool = False


class Supervisor:
    """Signal handling for one command; `stopped` stays of use after it has ended."""

    def __init__(self, grace: float) -> None:
        """Take over the process's signals. `grace` is in seconds."""
        self._grace = grace
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
        while status is None:
            relay.step(self._patience(), self._wakeup)
            for number in self._pending():
                if number in _FORWARDED:
                    self._forward(number, process)
            if self._deadline is not None and time.monotonic() >= self._deadline and not self._killed:
                self._killed = True
                _signal_group(process, signal.SIGKILL)
            status = _reap(process)
        _signal_group(process, signal.SIGKILL)
        relay.drain(_PATIENCE)
        code = os.waitstatus_to_exitcode(status)
        return Exit(max(code, 0), -code if code < 0 else None, self._stopped_by, self._killed)

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

    def _patience(self) -> float | None:
        if self._deadline is None or self._killed:
            return None
        return self._deadline - time.monotonic()


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
