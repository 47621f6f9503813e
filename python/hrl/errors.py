"""The exceptions of the package. A class of its own exists where a caller does something of its own.

What the operating system or the network did is also the `OSError` that Python programs expect for it.
"""


class HrlError(Exception):
    """An error of hrl; the base of all others."""

    kind: str
    """What can be done about it: invalid-input, not-found, already-exists, corrupt, wrong-key, unsupported, unavailable,
    full, poisoned, fenced, changed, read-only, not-ordered or io."""
    operation: str
    """What was being done."""
    object: str
    """To what."""
    offset: int | None
    """Byte offset in the object, where one is known."""
    errno: int | None
    """The operating system's code, where the cause is one."""

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
    """The object is sealed, and the key is missing or another one."""


class UnavailableError(HrlError, ConnectionError):
    """A store, socket or device does not answer now: try again later."""


class FencedError(HrlError):
    """Another agent or a newer epoch owns the volume: stop."""


class NotOrderedError(HrlError):
    """The volume is being resynchronised: no point can exist there."""


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
    "full": SystemFailure,
    "poisoned": SystemFailure,
    "read-only": SystemFailure,
    "io": SystemFailure,
}
"""The class for a kind; every other kind is an `HrlError`."""
