"""Handles of the crate. Calls that may do I/O release the interpreter's lock; handles may be used from any thread."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, final

_Path = str | PathLike[str]

@final
class RecoveryPoint:
    """A recovery point."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def time(self) -> str: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def chain(self) -> str: ...

@final
class TimelineEntry:
    """A stretch of history; `unordered` is the cause when it holds no restorable state."""

    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def from_time(self) -> str: ...
    @property
    def to_time(self) -> str: ...
    @property
    def unordered(self) -> str | None: ...

@final
class Stats:
    """How a protection is doing; sizes in bytes."""

    @property
    def mode(self) -> str: ...
    @property
    def last_sequence(self) -> int: ...
    @property
    def journaled_sequence(self) -> int: ...
    @property
    def replicated_sequence(self) -> int: ...
    @property
    def rpo_seconds(self) -> float: ...
    @property
    def changes(self) -> int: ...
    @property
    def bytes_captured(self) -> int: ...
    @property
    def bytes_stored(self) -> int: ...
    @property
    def queue_bytes(self) -> int: ...
    @property
    def spool_bytes(self) -> int: ...
    @property
    def marked_regions(self) -> int: ...
    @property
    def resync_bytes_left(self) -> int: ...
    @property
    def resync_bytes_read(self) -> int: ...
    @property
    def points(self) -> int: ...
    @property
    def vault_available(self) -> bool: ...
    @property
    def fenced(self) -> bool: ...

@final
class Protection:
    """One protected volume, running. Leaving the `with` block stops it cleanly."""

    def __new__(
        cls,
        disk: _Path,
        *,
        vault: Vault,
        state: _Path,
        volume: str | None = None,
        policy: Mapping[str, str] | None = None,
        take_over: bool = False,
        on_event: Callable[[dict[str, str]], object] | None = None,
    ) -> Protection: ...
    @property
    def volume_name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    def mark(self, label: str = "", *, kind: str = "crash") -> RecoveryPoint:
        """Marks a recovery point; durable in the local journal when it returns."""
    def stats(self) -> Stats: ...
    def timeline(self) -> list[TimelineEntry]: ...
    def wait_ordered(self, limit: float = 60.0) -> None:
        """Waits (seconds) until initial replication or resync is complete."""
    def wait_replicated(self, limit: float = 60.0) -> int:
        """Waits (seconds) until everything captured is in the vault; gives the newest sequence there."""
    def resync(self) -> None:
        """Reads the whole disk again, beside the writes."""
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def stop(self, limit: float = 60.0) -> None:
        """Ends the session cleanly, shipping for up to `limit` seconds. Stop servers of the volume before."""
    def __enter__(self) -> Protection: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Vault:
    """A store with volumes in it: a directory, as a path or file://PATH."""

    def __new__(cls, url: str, *, key_file: _Path | None = None, create: bool = False) -> Vault: ...
    def volumes(self) -> list[dict[str, Any]]: ...
    def replica(self, name: str) -> Replica: ...

@final
class Replica:
    """One volume in a vault, as of the moment it was opened."""

    @property
    def info(self) -> dict[str, Any]: ...
    @property
    def totals(self) -> tuple[int, int, int]:
        """Segments, bytes of data captured, bytes stored."""
    def point_bytes(self) -> list[tuple[str, int, int]]:
        """For each point: its identity, bytes captured and stored since the one before."""
    def points(self) -> list[RecoveryPoint]: ...
    def timeline(self) -> list[TimelineEntry]: ...
    def resolve(self, at: str = "newest") -> int: ...
    def view(self, at: str = "newest") -> View: ...
    def restore(
        self,
        at: str,
        to: _Path,
        *,
        overwrite: bool = False,
        device: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[str, int]: ...
    def changes(self, since: str, until: str) -> ChangeSet: ...
    def verify(self, *, progress: Callable[[int, int], object] | None = None) -> dict[str, Any]: ...

@final
class View:
    """A volume as of one sequence, readable without a restore."""

    @property
    def sequence(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...

@final
class ChangeSet:
    """What was written after one state, up to another; exact."""

    @property
    def since(self) -> int: ...
    @property
    def until(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    def runs(self) -> list[tuple[int, int, bool]]:
        """Offset, length, and whether the range reads as zeroes."""
    def write_to_file(self, path: _Path) -> int: ...

@final
class Segment:
    """A sealed journal segment in a local file."""

    def __new__(cls, path: _Path, *, replica: Replica | None = None) -> Segment: ...
    def summary(self) -> dict[str, Any]: ...
    def records(self) -> list[tuple[int, str, str, int, int]]:
        """Sequence, time, kind, offset and length of every record."""
    def verify(self) -> None: ...

@final
class NbdServer:
    """A listening NBD server."""

    @staticmethod
    def protected(address: str, protection: Protection, name: str) -> NbdServer: ...
    @staticmethod
    def replica(
        address: str,
        replica: Replica,
        at: str,
        *,
        scratch: _Path | None = None,
        changes: ChangeSet | None = None,
    ) -> NbdServer: ...
    @property
    def uri(self) -> str: ...
    def stats(self) -> tuple[int, int, int, int]:
        """Requests answered, those with errors, bytes read, bytes written."""
    def stop(self) -> None: ...
    def __enter__(self) -> NbdServer: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def generate_key() -> str:
    """64 hexadecimal digits for a key file."""

def convert(inputs: Sequence[_Path], output: _Path, *, to: str, replica: Replica | None = None) -> dict[str, Any]:
    """Converts journals: `to` is native (a new file) or ms-hrl (a new directory with a chain of Hyper-V logs)."""

def inspect_hyperv(path: _Path) -> dict[str, Any] | None:
    """What a Hyper-V log holds, after checking all of it; None when the file is not one."""
