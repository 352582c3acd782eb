"""What can go wrong with a request that Python answers.

    ServingError
    ├── InvalidArgument     the caller's request is at fault
    ├── NotFound            no such model, version or route
    ├── MethodNotAllowed    the route is there, for another method
    ├── Unavailable         it would work, but not now
    └── Unimplemented       this server does not do that

The names of the codes become HTTP and gRPC statuses in one place, `native/src/error.rs`. An exception of
any other class is a bug: the caller gets INTERNAL, the log the traceback.
"""

from typing import ClassVar


class ServingError(Exception):
    """An answer to a caller; its text is the sentence that the caller reads."""

    code: ClassVar[str]


class InvalidArgument(ServingError):
    """The request cannot be right, whenever it is sent."""

    code = "INVALID_ARGUMENT"


class NotFound(ServingError):
    """There is nothing of that name."""

    code = "NOT_FOUND"


class MethodNotAllowed(ServingError):
    """The route exists for `allow` only."""

    code = "METHOD_NOT_ALLOWED"

    def __init__(self, allow: str) -> None:
        super().__init__(f"method not allowed, use {allow}")
        self.allow = allow


class Unavailable(ServingError):
    """The server or the model cannot answer at the moment."""

    code = "UNAVAILABLE"


class Unimplemented(ServingError):
    """The protocol has it, this server does not."""

    code = "UNIMPLEMENTED"


class ModelLoadError(Exception):
    """A model cannot be served; the text names the file and says what to do."""
