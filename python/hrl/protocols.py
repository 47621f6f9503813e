"""What devices, stores, applications and hosts of plans of your own look like.

Objects with these methods are used wherever `hrl` takes such a thing; no base class is needed. The methods are
called from any thread, several at once, with the interpreter's lock held. An exception reaches whoever waits for the call
as the `__cause__` of an `HrlError`: an `OSError` keeps its errno, an `HrlError` its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hrl._hrl import PlanMember, PlanRequest


class BlockDevice(Protocol):
    """A disk: a flat array of bytes of a fixed size, zeroes at first.

    Optional beside these: `name` (text for errors), `block_bytes` (a power of two, 512 by default), `read_only`,
    `zero(offset, length, *, unmap, durable)`, without which zeroes are written, and `discard(offset, length)`, which
    gives what it left: "zeroes", "undefined", or "ignored", as without it.
    """

    @property
    def size_bytes(self) -> int:
        """Size in bytes, asked for once."""

    def read(self, offset: int, length: int, /) -> Buffer:
        """Exactly `length` bytes from `offset`, which are within the size."""

    def write(self, offset: int, data: bytes, /, *, durable: bool) -> object:
        """Writes `data` at `offset`; a read that starts afterwards sees it. `durable`: it survives a power failure."""

    def flush(self) -> object:
        """When it returns, every write that returned before survives a power failure."""


class Store(Protocol):
    """A place for immutable objects. Names are parts of `A-Z a-z 0-9 . _ -` with slashes between them.

    What cannot answer now raises: `OSError`, or any exception but `KeyError` and `FileNotFoundError`, which say that the
    object is absent. Optional beside these: `name` (text for errors).
    """

    def put_if_absent(self, name: str, data: bytes, /) -> bool:
        """Creates an object whole and durably: True, or False when one of that name exists, which stays as it is.

        When several race on one name exactly one creates it.
        """

    def get(self, name: str, offset: int, length: int, /) -> Buffer:
        """Exactly `length` bytes of an object from `offset`."""

    def list(self, prefix: str, /) -> Iterable[tuple[str, int]]:
        """Name and size of every object whose name begins with `prefix`, in any order."""

    def head(self, name: str, /) -> int | None:
        """Size of an object in bytes; None when it is absent."""

    def delete(self, name: str, /) -> object:
        """Removes an object; one that is absent is no error."""


class Quiesce(Protocol):
    """Brings an application to a state whose disk is consistent. Optional: `name` (text for errors and events)."""

    def quiesce(self, limit: float, /) -> object:
        """Makes the disk consistent within `limit` seconds, and keeps it so until `release`."""

    def release(self) -> object:
        """Lets the application go on; called once for each `quiesce`, also when that failed."""


class VolumeStarted(TypedDict):
    """A volume that a `PlanHost` brought up."""

    uri: str
    """Where it is served."""
    point: str | None
    """The recovery point that it came up at; None when the state is none."""
    sequence: int
    """The sequence of that state."""
    point_time: str
    """The time of that state, in UTC."""


class PlanHost(Protocol):
    """Brings the volumes of recovery plans up.

    Different members come at the same time from different threads. Each call may come again for the same run and member,
    because the runner was killed before it recorded the answer: `start` then finds what is up already and starts nothing
    twice; `commit` and `clean_up` of what is done already succeed. What serves a volume outlives the runner.
    """

    def start(self, member: PlanMember, request: PlanRequest, /) -> VolumeStarted:
        """Brings a volume up; returns once it is served."""

    def commit(self, member: PlanMember, request: PlanRequest, /) -> object:
        """Commits the failover of a volume, of a real run only."""

    def clean_up(self, member: PlanMember, request: PlanRequest, /) -> object:
        """Takes a test failover down with all that it left, also one whose start failed."""


class Specified(Protocol):
    """An application that the library quiesces itself, such as `FileSystemFreeze`."""

    @property
    def spec(self) -> str:
        """The specification, such as `fs:/srv`."""
