"""The exceptions of the package. A kind has a class of its own if callers handle it separately.

Errors of the operating system or the network are also the `OSError` that Python programs expect.
"""


class HrlError(Exception):
    """An error of hrl; the base of all others."""

    kind: str
    """What the caller can do about it: invalid-input, not-found, already-exists, corrupt, wrong-key, unsupported,
    unavailable, full, poisoned, fenced, changed, read-only, not-ordered, io, denied or diverged."""
    operation: str
    """Operation that failed."""
    object: str
    """Subject of the operation, such as a file or a volume."""
    offset: int | None
    """Byte offset in the subject, if known."""
    errno: int | None
    """Code of the operating system, if it caused the error."""

    def __init__(
        self,
        message: str = "",
        kind: str = "io",
        operation: str = "",
        object: str = "",
        offset: int | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.operation = operation
        self.object = object
        self.offset = offset
        self.errno = errno


class NotFoundError(HrlError, FileNotFoundError):
    """The object asked for does not exist."""


class AlreadyExistsError(HrlError, FileExistsError):
    """The object exists already and is never overwritten."""


class CorruptError(HrlError):
    """Bytes are not what was written: use another copy."""


class WrongKeyError(HrlError):
    """The object is encrypted, and the key is missing or another one."""


class UnavailableError(HrlError, ConnectionError):
    """A store, socket or device does not answer now: try again later."""


class FencedError(HrlError):
    """Another agent or a newer epoch owns the volume: stop."""


class NotOrderedError(HrlError):
    """The volume is out of order, so that no point can be taken there."""


class DeniedError(HrlError, PermissionError):
    """The server knows this identity, and does not let it do that."""


class DivergedError(HrlError):
    """The vault and what is known of it here are not of one history: compare."""


class SystemFailure(HrlError, OSError):
    """A full disk, a read-only file, a failed flush or another refusal of the operating system."""


BY_KIND: dict[str, type[HrlError]] = {
    "not-found": NotFoundError,
    "already-exists": AlreadyExistsError,
    "corrupt": CorruptError,
    "wrong-key": WrongKeyError,
    "unavailable": UnavailableError,
    "fenced": FencedError,
    "not-ordered": NotOrderedError,
    "denied": DeniedError,
    "diverged": DivergedError,
    "full": SystemFailure,
    "poisoned": SystemFailure,
    "read-only": SystemFailure,
    "io": SystemFailure,
}
"""Class of each kind; every other kind is an `HrlError`."""
