"""From how a command ended to what the operator is told: the exit class, a reason and a sentence.

Pure. The classes decide which restart budget a failure is charged to, so when in doubt between the user and
the infrastructure the evidence decides: a signal we were sent, a count of the kernel's.
"""

import errno
import os
import signal
from pathlib import Path

from capstan_agent.supervise import Exit
from capstan_agent.termination import Output, Termination

COMPLETED = "Completed"
NON_ZERO_EXIT = "NonZeroExit"
SIGNALED = "Signaled"
OUT_OF_MEMORY = "OutOfMemory"
KILLED = "Killed"
TERMINATED = "Terminated"
GRACE_EXCEEDED = "GracePeriodExceeded"
HUNG = "Hung"
OUTPUT_MISSING = "OutputMissing"
COMMAND_NOT_FOUND = "CommandNotFound"
COMMAND_NOT_EXECUTABLE = "CommandNotExecutable"

_NO_STACKS = (
    "it could not be asked where it stood, as it is no Python, or has taken Python's faulthandler away."
)
_HINTS: dict[int, str] = {
    signal.SIGBUS: " Too little shared memory does this: mount an emptyDir of medium Memory at /dev/shm.",
    signal.SIGILL: " The image may be built for a newer CPU than the node has.",
}


def ended(end: Exit, oom_kills: int, log: str, output: Output | None = None) -> Termination:
    """What an end means. `oom_kills` is how many processes the kernel killed for memory meanwhile."""
    code = end.code if end.signal is None else 128 + end.signal
    if end.hung:
        stacks = "where it stood is in its last lines." if end.stacks else _NO_STACKS
        message = (
            "The program has written nothing and reported no progress for longer than"
            f" spec.failurePolicy.hang.timeout, and was ended: {stacks}"
        )
        return Termination("hang", code or 128 + signal.SIGTERM, HUNG, message, end.signal, end.stacks or log)
    if end.stopped_by is not None:
        # Exit code 0 may mean "finished" or "saved, as asked": only what nobody stopped is finished.
        name = _name(end.stopped_by)
        code = code or 128 + end.stopped_by
        if end.grace_exceeded:
            reason = GRACE_EXCEEDED
            message = (
                f"The container was asked to stop ({name}) and was killed when its grace had passed: exit on"
                " SIGTERM once the checkpoint is written, or set a longer spec.checkpoint.gracePeriod."
            )
        else:
            reason, message = TERMINATED, f"The container was asked to stop ({name}) and did."
        return Termination("infrastructure", code, reason, message, end.signal, log)
    if code == 0:
        return Termination("ok", 0, COMPLETED, "The command completed.", None, log, output)
    if oom_kills > 0:
        message = (
            f"The kernel killed {oom_kills} process(es) of this container for want of memory: raise"
            " spec.resources.limits.memory, or lower the batch size or the number of data loader workers."
        )
        return Termination("outOfMemory", code, OUT_OF_MEMORY, message, end.signal, log)
    if end.signal == signal.SIGKILL:
        message = (
            "The command was killed (SIGKILL) from outside, and not for want of memory in this container."
        )
        return Termination("infrastructure", code, KILLED, message, end.signal, log)
    if end.signal is not None:
        message = f"The command died of {_name(end.signal)}: see its last lines.{_HINTS.get(end.signal, '')}"
        return Termination("user", code, SIGNALED, message, end.signal, log)
    message = f"The command exited with code {code}: see its last lines."
    return Termination("user", code, NON_ZERO_EXIT, message, None, log)


def output_missing(path: Path, error: OSError, log: str) -> Termination:
    """The command succeeded and did not leave what was promised."""
    message = (
        f"The command exited with 0, but its output {path} cannot be read ({error.strerror}): write the model"
        f" to $CAPSTAN_OUTPUT_DIR/{path.name} in replica 0 before exiting."
    )
    return Termination("user", 1, OUTPUT_MISSING, message, None, log)


def not_started(command: str, error: OSError) -> Termination:
    """The command could not be executed: 127 when it is not there, 126 when it is and cannot run."""
    found = command if "/" in command else _on_path(command)
    if found is None or not os.path.lexists(found):
        message = (
            f"{command} is not in the image: give spec.command a program that is there"
            f" (PATH is {os.environ.get('PATH', os.defpath)})."
        )
        return Termination("user", 127, COMMAND_NOT_FOUND, message)
    match error.errno:
        case errno.ENOENT:
            message = (
                f"{found} is there, but the interpreter it names (the #! line of a script, the loader of a"
                " program built for another C library) is not in the image."
            )
            return Termination("user", 127, COMMAND_NOT_FOUND, message)
        case errno.EACCES:
            cause = f"{found} is not executable for user {os.getuid()}: chmod +x it, or name its interpreter."
        case errno.ENOEXEC:
            cause = (
                f"{found} is no program for this machine: a script needs a #! line, a binary the CPU's kind."
            )
        case errno.E2BIG:
            cause = f"The arguments and environment of {found} are larger than the kernel allows."
        case _:
            cause = f"{found} cannot be executed: {error.strerror}."
    return Termination("user", 126, COMMAND_NOT_EXECUTABLE, cause)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals between the first and the last have none
        return f"signal {number}"


def _on_path(command: str) -> str | None:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(folder or ".", command)  # noqa: PTH118 (an empty entry is the current folder)
        if os.path.isfile(candidate):  # noqa: PTH113
            return candidate
    return None
