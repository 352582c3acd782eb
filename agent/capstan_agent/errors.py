"""What can go wrong, as the operator and the user are told it.

    AgentError
      UsageError          the command line (class user)
      FetchError
        InvalidURI          the address itself (user)
        ModelNotFound       nothing there (user)
        PermissionDenied    there, but this user may not read it (user)
        DigestMismatch      not the bytes that were named (user)
        SourceNotAllowed    the allow list does not have it (user)
        UnsafeArchive       an archive that must not be unpacked (user)
        SourceUnavailable   the storage is away or fails (infrastructure)
        DiskFull            no room in the pod (infrastructure)
        TargetNotWritable   the pod's own folder refuses (infrastructure)

Class names are the reasons of the termination message; every message is a sentence that says what to do.
"""

import errno
import os
from typing import ClassVar, Literal

ExitClass = Literal["ok", "user", "outOfMemory", "infrastructure", "hang"]


class AgentError(Exception):
    """An error that is reported by its sentence, without a traceback."""

    exit_class: ClassVar[ExitClass] = "user"

    @property
    def reason(self) -> str:
        """The CamelCase reason."""
        return type(self).__name__


class UsageError(AgentError):
    """The arguments contradict each other or make no sense."""


class FetchError(AgentError):
    """The model could not be put into the pod."""


class InvalidURI(FetchError):
    """The address is malformed, unsupported, or leads to what cannot be a model."""


class ModelNotFound(FetchError):
    """There is nothing at the address."""


class PermissionDenied(FetchError):
    """The address exists and may not be read."""


class DigestMismatch(FetchError):
    """The bytes are not the ones that were named."""


class SourceNotAllowed(FetchError):
    """The address is of a scheme or host that may not be fetched from."""


class UnsafeArchive(FetchError):
    """The archive is damaged, or would do more than put a bounded number of plain files into its folder."""


class SourceUnavailable(FetchError):
    """The storage is not mounted, away, or fails while being read."""

    exit_class = "infrastructure"


class DiskFull(FetchError):
    """The pod's volume has no room for the model."""

    exit_class = "infrastructure"


class TargetNotWritable(FetchError):
    """The folder in the pod cannot be written to."""

    exit_class = "infrastructure"


def source_error(error: OSError, where: str) -> FetchError:
    """What failing to read `where` means."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return PermissionDenied(
                f"{where} may not be read by user {os.getuid()}, group {os.getgid()}: make it readable for"
                " others, or set spec.template.spec.securityContext.fsGroup to the group that owns it."
            )
        case errno.ENOENT | errno.ENOTDIR:
            return ModelNotFound(
                f"{where} disappeared while it was being read: write models under a new name."
            )
        case errno.ELOOP:
            return InvalidURI(f"{where} is a symbolic link that leads in a circle: name the file itself.")
        case errno.ENAMETOOLONG:
            return InvalidURI(f"{where} has a name longer than file systems allow.")
        case _:
            return SourceUnavailable(
                f"Reading {where} failed: {error.strerror}. Check the volume behind the claim."
            )


def target_error(error: OSError, where: str, needed: int) -> FetchError:
    """What failing to write `where`, which needs `needed` bytes in all, means."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return DiskFull(
                f"The model needs {needed:,} bytes and the pod's volume is full: free disk space on the node,"
                " or ask for more ephemeral-storage so that the pod is placed where there is room."
            )
        case _:
            return TargetNotWritable(
                f"Writing {where} failed: {error.strerror}. Check the pod's model volume."
            )
