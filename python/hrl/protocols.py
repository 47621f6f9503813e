"""Contracts of your own devices, stores, applications and hosts of plans.

`hrl` accepts any object with these methods; no base class is needed. The methods are called from any thread, several at
once, with the interpreter's lock held. The caller that waits sees an exception as the `__cause__` of an `HrlError`. An
`OSError` keeps its errno, and an `HrlError` its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hrl._hrl import PlanMember, PlanRequest


class BlockDevice(Protocol):
    """A disk: a flat array of bytes of a fixed size, zeroes at first.

    Optional attributes are `name` (text for errors), `block_bytes` (a power of two, 512 by default) and `read_only`.
    Optional methods are `zero(offset, length, *, unmap, durable)`, without which zeroes are written, and
    `discard(offset, length)`. The latter returns how the range reads afterwards: "zeroes", "undefined" or "ignored".
    """

    @property
    def size_bytes(self) -> int:
        """Size in bytes, which is read once."""

    def read(self, offset: int, length: int, /) -> Buffer:
        """Returns exactly `length` bytes from `offset`. The range is within the size."""

    def write(self, offset: int, data: bytes, /, *, durable: bool) -> object:
        """Writes `data` at `offset`. Later reads return it. With `durable` it survives a power failure."""

    def flush(self) -> object:
        """Makes every write that returned before survive a power failure."""


class Store(Protocol):
    """A place for immutable objects. Names are parts of `A-Z a-z 0-9 . _ -` with slashes between them.

    A method raises `KeyError` or `FileNotFoundError` if the object is absent, and any other exception if the store cannot
    answer now. The attribute `name` (text for errors) is optional.
    """

    def put_if_absent(self, name: str, data: bytes, /) -> bool:
        """Creates an object whole and durably, and returns True. Returns False if one of that name exists, unchanged.

        If several calls race on one name, exactly one creates it.
        """

    def get(self, name: str, offset: int, length: int, /) -> Buffer:
        """Returns exactly `length` bytes of an object from `offset`."""

    def list(self, prefix: str, /) -> Iterable[tuple[str, int]]:
        """Returns name and size of every object whose name begins with `prefix`, in any order."""

    def head(self, name: str, /) -> int | None:
        """Returns the size of an object in bytes, or None if it is absent."""

    def delete(self, name: str, /) -> object:
        """Deletes an object. Does nothing if it is absent."""


class Quiesce(Protocol):
    """An application that can be made consistent on disk. Optional: `name` (text for errors and events)."""

    def quiesce(self, limit: float, /) -> object:
        """Makes the application's data on disk consistent within `limit` seconds, and keeps it so until `release`."""

    def release(self) -> object:
        """Lets the application continue. Called once for each `quiesce`, even if that failed."""


class VolumeStarted(TypedDict):
    """A volume that a `PlanHost` serves."""

    uri: str
    """URI of its NBD export."""
    point: str | None
    """Identity of its recovery point; None if the recovery state is not a point."""
    sequence: int
    """Sequence of the recovery state."""
    point_time: str
    """Time of the recovery state in UTC."""


class PlanHost(Protocol):
    """Starts the volumes of recovery plans.

    Threads call it for several members at once. A call is repeated for the same run and member if the runner was killed
    before it recorded the answer. `start` then returns the volume that is served already; `commit` and `clean_up` succeed
    if nothing is left to do. The process that serves a volume must outlive the runner.
    """

    def start(self, member: PlanMember, request: PlanRequest, /) -> VolumeStarted:
        """Starts a volume, and returns as soon as it is served."""

    def commit(self, member: PlanMember, request: PlanRequest, /) -> object:
        """Commits the failover of a volume. Called in real runs only."""

    def clean_up(self, member: PlanMember, request: PlanRequest, /) -> object:
        """Ends a test failover and deletes what it left, even if its start failed."""


class Specified(Protocol):
    """An application that the library quiesces itself, such as `FileSystemFreeze`."""

    @property
    def spec(self) -> str:
        """Specification, such as `fs:/srv`."""
