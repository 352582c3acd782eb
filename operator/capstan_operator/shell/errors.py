"""What can go wrong while a resource is reconciled, as a small tree.

    ShellError
    ├── Transient          the API is away, slow or busy: back off and try the same again
    │   ├── Stale          a write was refused because the object has moved on: look again
    │   └── Fenced         a write was not sent, because this operator may not lead any more
    ├── Gone               the object a write was meant for no longer exists
    ├── Rejected           the API server will not have this child: say so in the status
    └── OwnershipConflict  a child's name is taken by an object that is not ours: say so, never touch it

ChildFailed carries one of these together with the child it is about.

Anything else that is raised is a bug: a traceback, a metric, and back off. An invalid spec is not an
error here at all; plan() turns it into a condition.
"""

from __future__ import annotations

from capstan_operator.core.model import ObjectRef


class ShellError(Exception):
    """The root: an outcome of talking to the cluster that is foreseen and handled."""


class Transient(ShellError):
    """Trying again later may work. `retry_after` is what the server asked for, in seconds."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "Unavailable",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


class Stale(Transient):
    """A precondition (resourceVersion or uid) did not hold: the plan was made from an old view."""


class Fenced(Transient):
    """Our lease has run out: what we planned may be done, or undone, by somebody else by now."""


class Gone(ShellError):
    """404: the object, or the kind itself, is not there."""


class Rejected(ShellError):
    """The API server understood the request and refuses it; `reason` is its CamelCase reason."""

    def __init__(self, reason: str, message: str, *, status: int) -> None:
        super().__init__(f"{reason} ({status}): {message}")
        self.reason = reason
        self.message = message
        self.status = status


class OwnershipConflict(ShellError):
    """An object with the name of a child exists and another owner, or nobody, controls it."""


class ChildFailed(Exception):
    """Says which child could not be made so; the cause is one of the tree."""

    def __init__(self, ref: ObjectRef, cause: ShellError) -> None:
        super().__init__(f"{ref.kind} {ref.namespace}/{ref.name}: {cause}")
        self.ref = ref
        self.cause = cause
