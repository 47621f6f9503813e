"""Handles of the crate.

Calls that may do I/O release the interpreter's lock. Handles may be used from any
thread, and are closed by `close`, `stop` or the end of their `with` block. A closed
handle raises `ValueError`.

Offsets and lengths are in bytes and limits in seconds. Times are text in UTC, or
nanoseconds since 1970 in attributes that end in `_ns`. Where a time is taken, a
`datetime` with a time zone is taken too.

A recovery state (`at`) is a `RecoveryPoint` or `GroupPoint`, a sequence number, a
`datetime`, or text: "newest", "newest-good", a label, a point's id, a sequence, or a time such
as "2026-11-21T09:30:00Z". A label that exists wins over what else a text may mean, except
"newest" and "newest-good"; "label:L", "point:DIGITS", "sequence:N" and "time:T" mean one thing.
"newest-good" is the newest point that checks found good; if nothing was checked, the newest
application-consistent point, or the newest.

Results are small frozen objects with attributes. A field is also found by name
(`report["segments"]`), and `dict(report)` gives all fields.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, final, overload

from typing_extensions import Buffer, disjoint_base

from hrl.protocols import BlockDevice, PlanHost, Quiesce, Specified, Store

__all__ = [
    "Attachment",
    "AttachmentStats",
    "AuditEntry",
    "AuditLog",
    "Branch",
    "CapacityDay",
    "CapacityPlan",
    "CapacitySample",
    "CapacityVolume",
    "CatalogVersion",
    "CatchUp",
    "CertificateRights",
    "ChangeSet",
    "ChangedRun",
    "Checkpoint",
    "Churn",
    "ChurnBucket",
    "ChurnPercentiles",
    "ChurnTotal",
    "CompactReport",
    "DeletedVolume",
    "Device",
    "DiskChanges",
    "ExportReport",
    "Extent",
    "FailedOver",
    "FailoverPreview",
    "FailoverStart",
    "FailoverStep",
    "FileDevice",
    "Finding",
    "Follower",
    "FollowerStatus",
    "Gateway",
    "GatewayStats",
    "GoodPoint",
    "GroupCoordinator",
    "GroupMark",
    "GroupMember",
    "GroupMemberStats",
    "GroupMemberStatus",
    "GroupPoint",
    "GroupPoints",
    "GroupStatus",
    "Hydration",
    "HypervSummary",
    "ImportReport",
    "KeptState",
    "Key",
    "KeyRotation",
    "Lifecycle",
    "MaintainedVolume",
    "Maintainer",
    "MarkEntry",
    "MemoryDevice",
    "Mirror",
    "MirroredVolume",
    "NbdServer",
    "NbdStats",
    "Overlay",
    "Pin",
    "Plan",
    "PlanMember",
    "PlanRequest",
    "PointBytes",
    "Protection",
    "PurgeReport",
    "Record",
    "RecordIterator",
    "RecoveryPoint",
    "Replica",
    "ReplicaTotals",
    "RestoreReport",
    "RetentionPlan",
    "Segment",
    "SegmentEntry",
    "SegmentSummary",
    "ShredReport",
    "Stats",
    "Tap",
    "TestFailover",
    "Ticket",
    "TimelineEntry",
    "Tracker",
    "TrackerStatus",
    "Undeleted",
    "UnreadVolume",
    "Vault",
    "Verdict",
    "VerifyReport",
    "View",
    "Volume",
    "VolumeInfo",
    "VolumeRekeyed",
    "__version__",
    "abandon_failover",
    "approve_plan_step",
    "cancel_failover",
    "certificate_rights",
    "churn",
    "convert",
    "create_authority",
    "deleted",
    "deletion_delay",
    "enroll_client",
    "generate_key",
    "inspect_hyperv",
    "parse_duration",
    "plan_capacity",
    "plan_report",
    "plan_runs",
    "read_audit",
    "renew_client",
    "renew_server",
    "request_client",
    "resume_plan",
    "revoke_client",
    "run_watchdog",
    "set_deletion_delay",
    "undelete",
]

_Path = str | PathLike[str]
_Discarded = Literal["zeroes", "undefined", "ignored"]
_Application: TypeAlias = Quiesce | Specified | str
_Applications: TypeAlias = _Application | list[_Application] | tuple[_Application, ...]
_PointKind = Literal["crash", "app", "group-crash", "group-app", "declared"]
_VerdictKind = Literal["integrity", "comparison", "file-system", "application", "command", "suspicious", "scan"]
_Mode = Literal["ordered", "dirty", "resync"]
_Role = Literal["reader", "source", "maintainer", "admin"]
_SegmentKind = Literal["log", "merged", "image"]
_State: TypeAlias = RecoveryPoint | GroupPoint | datetime | int | str
_Time: TypeAlias = datetime | str

class _Value:
    """Members of every result."""

    def keys(self) -> list[str]:
        """Returns the names of its fields, so that `dict(value)` and `{**value}` work."""
    def __getitem__(self, name: str, /) -> Any: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

class _Row:
    """Members of every result that unpacks like a tuple."""

    def keys(self) -> list[str]:
        """Returns the names of its fields, so that `dict(value)` and `{**value}` work."""
    def __getitem__(self, name: str | int, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

__version__: str

@final
class Extent(_Row):
    """A range of a disk. It unpacks as `offset, length`."""

    @property
    def offset(self) -> int:
        """First byte."""
    @property
    def length(self) -> int:
        """Number of bytes."""

@final
class ChangedRun(_Row):
    """A changed range. It unpacks as `offset, length, zero`."""

    @property
    def offset(self) -> int:
        """First byte."""
    @property
    def length(self) -> int:
        """Number of bytes."""
    @property
    def zero(self) -> bool:
        """Whether the range reads as zeroes in the later state."""

@disjoint_base
class Device:
    """A disk. It has no constructor of its own; its kinds do.

    Any offset and length within the size is accepted. A call that reaches outside raises
    `HrlError` and changes nothing.
    """

    @property
    def name(self) -> str:
        """Name for errors and listings, such as a path."""
    @property
    def size_bytes(self) -> int:
        """Size in bytes, which never changes."""
    @property
    def block_bytes(self) -> int:
        """Logical block size in bytes, a power of two. A write of one block is never torn."""
    @property
    def read_only(self) -> bool:
        """Whether it refuses writes."""
    @property
    def closed(self) -> bool:
        """Whether it was closed, or the handle that it belongs to was stopped."""
    def read(self, offset: int, length: int) -> bytes:
        """Returns `length` bytes from `offset`."""
    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fills a writable, contiguous buffer from `offset` without a copy, and returns the number
        of bytes.

        The number is smaller than the buffer at the end of the disk only. No other thread may
        use the buffer meanwhile.

        >>> disk = hrl.MemoryDevice(1 << 20)
        >>> disk.write((1 << 20) - 3, b"end")
        >>> buffer = bytearray(b"........")
        >>> disk.readinto((1 << 20) - 3, buffer)
        3
        >>> buffer
        bytearray(b'end.....')
        """
    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        """Writes any contiguous buffer at `offset`. With `durable` it is on stable storage when
        the call returns.

        Immutable buffers (`bytes`, or a `memoryview` of them) are not copied here. Others are
        copied in chunks of 4 MiB while the interpreter's lock is held. The copy goes to the
        device and to the journal, so the two never differ even if another thread changes the
        buffer.
        """
    def zero(self, offset: int, length: int, *, unmap: bool = True, durable: bool = False) -> None:
        """Makes a range read as zeroes. With `unmap` blocks may become holes, which is cheaper."""
    def discard(self, offset: int, length: int) -> _Discarded:
        """Reports to the device that a range is not needed any more.

        Returns how the range reads afterwards: as "zeroes", as anything ("undefined"), or as
        before ("ignored").
        """
    def flush(self) -> None:
        """Makes every finished write durable. After a failed flush the device refuses writes until
        it is reopened.
        """
    def close(self) -> None:
        """Closes the device. Calls under way end as usual."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class MemoryDevice(Device):
    """A sparse disk in memory, for tests, benchmarks and scratch space. Unwritten ranges read
    as zeroes.

    >>> with hrl.MemoryDevice(1 << 40) as disk:
    ...     disk.write(4096, b"hello")
    ...     disk.read(4095, 7)
    b'\\x00hello\\x00'
    """

    def __new__(cls, size_bytes: int) -> Self: ...

@final
class FileDevice(Device):
    """A disk in a regular file or on a block device.

    `create_bytes` creates a sparse file of that size unless it exists. `direct` bypasses
    the page cache: "always", "never", or "auto" if the file system supports it. `exclusive`
    refuses a device that another process has opened in this way.

    >>> with hrl.FileDevice("disk.img", create_bytes=1 << 20) as disk:
    ...     disk.write(0, b"on disk", durable=True)
    >>> open("disk.img", "rb").read(7)
    b'on disk'
    """

    def __new__(
        cls,
        path: _Path,
        *,
        create_bytes: int | None = None,
        read_only: bool = False,
        direct: Literal["auto", "always", "never"] = "auto",
        exclusive: bool = False,
    ) -> Self: ...

@final
class Overlay(Device):
    """A writable device over another one, which stays as it is. Changes go to `scratch`.

    Either may be a device or a path. A scratch file is created sparse, as large as the
    base. The overlay reads from the scratch device only what it wrote there.

    >>> base = hrl.MemoryDevice(1 << 20)
    >>> trial = hrl.Overlay(base, hrl.MemoryDevice(1 << 20))
    >>> trial.write(8192, b"a try")
    >>> trial.read(8192, 5), base.read(8192, 5)
    (b'a try', b'\\x00\\x00\\x00\\x00\\x00')
    >>> trial.changed()
    [Extent(offset=8192, length=4096)]
    """

    def __new__(cls, base: Device | BlockDevice | _Path, scratch: Device | BlockDevice | _Path) -> Self: ...
    def changed(self) -> list[Extent]:
        """Returns the blocks changed so far, by offset."""

@final
class Volume(Device):
    """The volume of a protection, which captures every change through it. It is closed when
    the protection is stopped.

    A write that fails on the device is read back and journaled, or left to a resync. The
    caller gets the error.
    """

    @staticmethod
    def unprotected(device: Device | BlockDevice | _Path) -> Volume:
        """Opens a volume without protection, whose writes go straight to the device."""
    @property
    def is_protected(self) -> bool:
        """Whether changes through it are captured."""

@final
class Tap:
    """The write order of a protected volume, for callers that do the I/O themselves. It is
    closed with the protection.
    """

    def begin(self, offset: int, length: int, *, limit: float | None = None) -> Ticket:
        """Asks for permission to change a range.

        Waits while an overlapping change is in flight, or while the regions are not durably
        marked as dirty. Raises `UnavailableError` after `limit` seconds; None waits without a
        limit.

        >>> vault = hrl.Vault("vault", create=True)
        >>> disk = hrl.MemoryDevice(1 << 20)
        >>> with hrl.Protection(disk, vault=vault, state="state", volume="v") as protection:
        ...     protection.wait_ordered()
        ...     with protection.tap.begin(4096, 5) as ticket:
        ...         disk.write(4096, b"hello")  # in your own way
        ...         sequence = ticket.complete(b"hello")
        ...     point = protection.mark()
        ...     sequence == protection.wait_replicated() - 1
        True
        """
    def flush(self) -> int:
        """Records a flush of the writer and returns the newest sequence. Call it after the
        device's own flush.
        """
    @property
    def mode(self) -> _Mode:
        """Mode of capture."""
    @property
    def last_sequence(self) -> int:
        """Newest sequence."""

@final
class Ticket:
    """Permission to change a range. It ends with one of `complete`, `zeroed`, `discarded`,
    `fail` and `cancel`.

    A `with` block that ends without any of them counts as `fail`, and so does a ticket that
    is garbage-collected.
    """

    @property
    def offset(self) -> int:
        """First byte that may be changed."""
    @property
    def length(self) -> int:
        """Number of bytes that may be changed."""
    def complete(self, data: Buffer) -> int:
        """Reports that the device holds these bytes, as many as the ticket is for. Never waits.

        The bytes are copied now and must be those that were written. Returns the sequence of
        the newest record.
        """
    def zeroed(self) -> int:
        """Reports that the range reads as zeroes now. Returns the sequence of the newest
        record.
        """
    def discarded(self, left: _Discarded) -> int:
        """Reports that the range was discarded and now reads as `left` says. Returns the sequence
        of the newest record.
        """
    def fail(self) -> None:
        """Reports that the device failed. The range is read again, and no point is taken until
        then.
        """
    def cancel(self) -> None:
        """Reports that nothing was done to the device."""
    def __enter__(self) -> Ticket: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class RecoveryPoint(_Value):
    """A recovery point of one volume.

    Two points are equal when their `id` is, whatever is pinned or checked meanwhile.
    """

    @property
    def id(self) -> str:
        """Identity: 32 hexadecimal digits."""
    @property
    def kind(self) -> _PointKind:
        """Consistency that it promises."""
    @property
    def sequence(self) -> int:
        """Last change that its recovery state holds."""
    @property
    def time(self) -> str:
        """Time of its mark in UTC, for people."""
    @property
    def time_ns(self) -> int:
        """Time of its mark in nanoseconds since 1970."""
    @property
    def label(self) -> str:
        """Free text; may be empty."""
    @property
    def epoch(self) -> int:
        """Epoch of the volume."""
    @property
    def group(self) -> str | None:
        """Identity of the group point that it belongs to, if any; see `Vault.group_points`."""
    @property
    def chain(self) -> str:
        """Chain hash of the segment that holds the mark."""
    @property
    def pins(self) -> list[Pin]:
        """Pins and legal holds that keep it through retention."""
    @property
    def verdicts(self) -> list[Verdict]:
        """Verdicts of checks: the newest of each kind."""
    def __hash__(self) -> int: ...

@final
class Pin(_Value):
    """A pin or legal hold, which keeps a recovery point through retention."""

    @property
    def point(self) -> str:
        """Identity of the point."""
    @property
    def until(self) -> str | None:
        """Time in UTC at which it ends; None for one that stays until it is removed."""
    @property
    def hold(self) -> bool:
        """Whether it is a legal hold, which `unpin` removes with `hold=True` only."""
    @property
    def reason(self) -> str:
        """Reason, for people."""
    @property
    def since(self) -> str:
        """Time in UTC at which it was set."""

@final
class Verdict(_Value):
    """The result of a check of a recovery point."""

    @property
    def point(self) -> str:
        """Identity of the point."""
    @property
    def kind(self) -> _VerdictKind:
        """Kind of the check."""
    @property
    def ok(self) -> bool:
        """Whether the check found nothing wrong."""
    @property
    def time(self) -> str:
        """Time of the check in UTC."""
    @property
    def text(self) -> str:
        """Details, for people."""

@final
class TimelineEntry(_Value):
    """A stretch of a volume's history, either in write order or a gap."""

    @property
    def first(self) -> int:
        """First sequence."""
    @property
    def last(self) -> int:
        """Last sequence."""
    @property
    def from_time(self) -> str:
        """Time of the first change in UTC."""
    @property
    def to_time(self) -> str:
        """Time of the last change in UTC."""
    @property
    def unordered(self) -> str | None:
        """Cause of the gap, in which no state can be restored; None for a stretch in write
        order.
        """
    @property
    def folded(self) -> bool:
        """Whether retention folded it, so that only the last sequence of each fold can be
        restored.
        """

@final
class GroupMark(_Value):
    """The place of a group point in one member."""

    @property
    def volume(self) -> str:
        """Name of the volume."""
    @property
    def point(self) -> str:
        """Identity of the recovery point in this volume."""
    @property
    def sequence(self) -> int:
        """Place in the write order of the volume."""
    @property
    def time(self) -> str:
        """Time of the mark in UTC, by the clock of the member's machine."""

@final
class GroupPoint(_Value):
    """One cut across the volumes of a consistency group.

    Two group points are equal when their `id` is.
    """

    @property
    def id(self) -> str:
        """Identity; every member can be restored or served at it."""
    @property
    def kind(self) -> Literal["group-crash", "group-app"]:
        """Consistency that it promises: "group-crash" or "group-app"."""
    @property
    def time(self) -> str:
        """Time in UTC at which the coordinator began it."""
    @property
    def group(self) -> str:
        """Name of the group."""
    @property
    def label(self) -> str:
        """Free text; may be empty."""
    @property
    def members(self) -> int:
        """Number of members in the cut."""
    @property
    def complete(self) -> bool:
        """Whether every member's mark is known, so that all can be restored to this cut."""
    @property
    def marks(self) -> list[GroupMark]:
        """Place of the cut in each known member."""
    @property
    def held_seconds(self) -> float | None:
        """Longest barrier of a member in seconds; None for a point read from a vault."""
    def __hash__(self) -> int: ...

@final
class Stats(_Value):
    """The condition of a protection."""

    @property
    def mode(self) -> _Mode:
        """Mode of capture."""
    @property
    def last_sequence(self) -> int:
        """Newest sequence captured."""
    @property
    def journaled_sequence(self) -> int:
        """Newest sequence that is durable in the local journal."""
    @property
    def replicated_sequence(self) -> int:
        """Newest sequence that is published in the vault."""
    @property
    def rpo_seconds(self) -> float:
        """Age of the oldest change that the vault lacks, captured or not; zero if none."""
    @property
    def changes(self) -> int:
        """Number of changes captured: writes, zeroes and discards."""
    @property
    def bytes_captured(self) -> int:
        """Bytes of data captured."""
    @property
    def bytes_stored(self) -> int:
        """Bytes of closed segments written."""
    @property
    def queue_bytes(self) -> int:
        """Memory of the queue in bytes."""
    @property
    def spool_bytes(self) -> int:
        """Bytes of closed segments that wait for the vault."""
    @property
    def backlog_bytes(self) -> int:
        """Bytes captured that are not in the vault: queue and spool."""
    @property
    def ship_bytes_per_second(self) -> int:
        """Recent throughput of shipping, or the bandwidth allowed now if that is less; 0 if
        unknown.
        """
    @property
    def eta_seconds(self) -> float | None:
        """Time until the backlog is in the vault if nothing more is written; None if the vault
        does not answer or the throughput is unknown.
        """
    @property
    def marked_regions(self) -> int:
        """Number of dirty regions, which a crash now would have to read again."""
    @property
    def resync_bytes_left(self) -> int:
        """Bytes that a resync has still to read."""
    @property
    def resync_bytes_read(self) -> int:
        """Bytes that the resync under way, or the last one, has read."""
    @property
    def points(self) -> int:
        """Number of points taken in this session."""
    @property
    def vault_available(self) -> bool:
        """Whether the vault took the last segment."""
    @property
    def vault_away(self) -> bool:
        """Whether the vault has not answered since the start, so that nothing is shipped and
        nothing counts as replicated.
        """
    @property
    def fenced(self) -> bool:
        """Whether another source has the volume, so that nothing is replicated any more."""
    @property
    def provisional(self) -> bool:
        """Whether a failover to here is not committed, so that changes stay in the spool."""
    @property
    def handed_over(self) -> bool:
        """Whether a planned failover took the volume over, so that writes are refused."""
    @property
    def catalog_version(self) -> int:
        """Newest version of the catalog, as this agent knows it."""
    @property
    def catalog_time_ns(self) -> int | None:
        """Time of the newest record or heartbeat that the version lists, in nanoseconds since 1970;
        None before both.
        """

@final
class Protection:
    """One protected volume, running. Leaving the `with` block stops it cleanly.

    `disk` is a path, a `Device` or an object with the methods of `BlockDevice`. Nothing
    else may write to it from now on. `volume` is the name in the vault, by default that of
    the file. `state` is the local state directory of this agent (dirty map, spool,
    identity); it must not be on the protected disk.

    `policy` sets limits and choices by name. `take_over` takes the volume from another
    source, which must be gone. `adopt_disk` goes on with another disk than the one that was
    protected, and compares all of it. `applications` are quiesced by `mark_app` and by the
    policy.

    Unless `suspicion` is False, a sudden change of what is written, as when data is encrypted,
    raises the event "suspicious-change". Points from then on have the bad verdict "suspicious"
    until they are trusted (`Replica.trust`).

    With `outside_writer` a copy writes to the volume, such as the mirror of a running machine. It is
    unordered until the copy's driver says otherwise (`set_writer_in_sync`).

    `on_event` is called with each event, from any thread, and must return soon. An event is
    a dictionary of `time`, `volume`, `kind` and `message`; the kind "mode-changed" adds
    `mode` and `cause`. The sinks of `hrl.events` are made for it. None sends events to the
    logger "hrl" of `logging`, as the attribute `hrl_event` of its records.

    Raises `FencedError` if another agent or source has the volume, and `UnavailableError`
    if the vault cannot be reached and `state` is new. With a `state` that knows the volume the
    protection begins without the vault, if that was opened with `state`. If the disk is not
    the one that was protected, the kind of the `HrlError` is "changed".

    >>> vault = hrl.Vault("vault", create=True)
    >>> disk = hrl.MemoryDevice(1 << 20)
    >>> with hrl.Protection(disk, vault=vault, state="state", volume="v") as protection:
    ...     protection.wait_ordered()
    ...     protection.volume.write(4096, bytearray(b"captured"))
    ...     point = protection.mark("first", kind="declared")
    >>> vault.replica("v").view(point).read(4096, 8)
    b'captured'
    """

    def __new__(
        cls,
        disk: Device | BlockDevice | _Path,
        *,
        vault: Vault,
        state: _Path,
        volume: str | None = None,
        policy: Mapping[str, str | int] | None = None,
        take_over: bool = False,
        adopt_disk: bool = False,
        on_event: Callable[[dict[str, str]], object] | None = None,
        applications: _Applications | None = None,
        suspicion: bool = True,
        outside_writer: bool = False,
    ) -> Self: ...
    @property
    def volume_name(self) -> str:
        """Name in the vault."""
    @property
    def size_bytes(self) -> int:
        """Size of the volume in bytes."""
    @property
    def volume(self) -> Volume:
        """Volume to read and write. It is closed when the protection is stopped."""
    @property
    def tap(self) -> Tap:
        """Write order, for callers that do the I/O themselves. It is closed when the protection
        is stopped.
        """
    def mark(self, label: str = "", *, kind: Literal["crash", "declared"] = "crash") -> RecoveryPoint:
        """Takes a recovery point now. It is durable in the local journal when the call returns.

        With `kind="declared"` the application says that it is at a transaction boundary of its
        own. Points of other kinds need a quiesced application or a group.

        Raises `NotOrderedError` during initial replication, resync or overflow.
        """
    def mark_quiesced(
        self,
        application: _Applications,
        label: str = "",
        *,
        limit: float = 10.0,
    ) -> RecoveryPoint:
        """Takes an application-consistent point: quiesce, flush, mark, release, in this order.

        `application` is one of `FileSystemFreeze`, `PostgreSql` and their like, its text, an
        object with the methods of `Quiesce`, or a list of these. A list is quiesced in order
        and released in reverse. Applications that the library knows are quiesced by a process
        of their own, which releases them at the limit even if this process dies.

        Raises `UnavailableError` if the application cannot be quiesced, or if that took more
        than `limit` seconds, and the errors of `mark`. The application is released and no point
        is taken then.
        """
    def join_group(
        self,
        group: str,
        coordinators: Sequence[str],
        *,
        identity: _Path,
        hold_share: float = 0.1,
        application: _Applications | None = None,
    ) -> GroupMember:
        """Makes the volume a member of a consistency group. Connects in the background.

        `coordinators` are tried in order, each as HOST or HOST:PORT (20004 by default).
        `identity` is the bundle with the client's certificate; see `enroll_client`.
        `application` is quiesced for the group's application-consistent points. `hold_share` is
        the greatest share of the time for which the coordinator may hold writers; what it
        gives in 100 s may be spent at once.
        """
    def mark_app(self, label: str = "") -> RecoveryPoint:
        """Takes a point as `mark_quiesced` does, with `applications` or those of the policy
        (`quiesce`), and its `quiesce_limit_ms`.
        """
    def stats(self) -> Stats:
        """Returns counters and conditions as of now."""
    def timeline(self) -> list[TimelineEntry]:
        """Returns the history that the vault knows, in stretches."""
    def wait_ordered(self, limit: float | None = None) -> None:
        """Waits until initial replication or resync is complete.

        Raises `UnavailableError`, with the newest trouble, after `limit` seconds; None waits
        without a limit.
        """
    def wait_replicated(self, limit: float = 60.0) -> int:
        """Waits until everything captured before the call is in the vault. Returns the newest
        sequence there.

        Raises `UnavailableError` after `limit` seconds.
        """
    def resync(self) -> None:
        """Reads the whole disk again, beside the writes. Older points stay usable; no point is
        taken until it is complete.
        """
    def set_writer_in_sync(self, in_sync: bool) -> None:
        """Says whether the outside writer is in sync. From True on its writes are in order, and points
        can be marked once what must be read again is read; False begins an unordered interval. An NBD
        server begins one by itself when a client that wrote goes away or a change fails.

        Raises `InvalidInputError` unless the protection has an `outside_writer`.
        """
    def read(self, offset: int, length: int) -> bytes:
        """Reads from the volume, as `Device.read` does."""
    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        """Writes to the volume, as `Device.write` does."""
    def flush(self) -> None:
        """Flushes the volume, as `Device.flush` does."""
    def stop(self, limit: float = 60.0) -> None:
        """Ends the session cleanly: ships the journal, waiting for the vault up to `limit`
        seconds.

        The volume and the tap are closed; stop servers of the volume before. A protection that
        ends without a stop leaves what a crash leaves, and the next session reads its dirty
        regions again.
        """
    def __enter__(self) -> Protection: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class AttachmentStats(_Value):
    """What the cuts of an attachment have taken, as of the last one."""

    @property
    def last_point_time_ns(self) -> int | None:
        """Time of the last point of this session, in nanoseconds since 1970; None before. Later
        changes are not in the replica.
        """
    @property
    def last_cut_seconds(self) -> float:
        """How long the last cut took, from its begin until its point was durable."""
    @property
    def last_cut_tries(self) -> int:
        """Cuts that were tried for the last point."""
    @property
    def last_cut_bytes_copied(self) -> int:
        """Bytes that were copied for the last point."""
    @property
    def last_cut_bytes_in_cut(self) -> int:
        """Bytes that were copied after the flip of the last point."""
    @property
    def read_amplification(self) -> float:
        """Bytes copied for each byte of the blocks that had changed, in this session. At least 1."""
    @property
    def bytes_copied(self) -> int:
        """Bytes that were copied in this session, without those of a compared disk."""
    @property
    def map_bytes(self) -> int:
        """Memory of the maps of changed blocks, which is never swapped."""
    @property
    def cuts(self) -> int:
        """Points of this session that were made by cuts."""
    @property
    def skipped(self) -> int:
        """Points that were due and could not be made."""
    @property
    def audits_failed(self) -> int:
        """Audits that failed: the whole disk was compared after each."""
    @property
    def freezes(self) -> int:
        """Points for which file systems were frozen, because no cut was clean without that."""
    @property
    def pinned(self) -> bool:
        """The programs and their maps outlive this process."""

@final
class Attachment:
    """A disk in use, protected by points at intervals, without a driver, a remount or a freeze.

    `disk` is a block device that others write to. `volume` is the name in the vault, by default
    that of the disk. `state` is the local state directory of this agent; neither it nor the vault
    may lie on the disk. The other arguments are those of `Protection`. The policy's
    `crash_point_interval` says how often a point is made: at least 5 s, or 0 for points on demand.

    Each point is a clean, audited cut: every write that was completed before it is in it, and none
    that began after. Between points nothing can be restored. If no cut is clean within the policy's
    `cut_limit`, the file systems on the disk are frozen for at most its `freeze_limit`; 0 freezes
    none.

    Raises the errors of `Protection`, and `HrlError` of the kind "unsupported" if the disk cannot
    be observed or "invalid-input" if the agent would write to it.
    """

    def __new__(
        cls,
        disk: _Path,
        *,
        vault: Vault,
        state: _Path,
        volume: str | None = None,
        policy: Mapping[str, str | int] | None = None,
        take_over: bool = False,
        adopt_disk: bool = False,
        on_event: Callable[[dict[str, str]], object] | None = None,
        applications: _Applications | None = None,
        suspicion: bool = True,
    ) -> Self: ...
    @staticmethod
    def together(
        group: str,
        disks: Sequence[_Path],
        *,
        vault: Vault,
        state: _Path,
        policy: Mapping[str, str | int] | None = None,
        take_over: bool = False,
        adopt_disk: bool = False,
        on_event: Callable[[dict[str, str]], object] | None = None,
        applications: _Applications | None = None,
        suspicion: bool = True,
    ) -> list[Attachment]:
        """Attaches several disks of a machine, whose points are one cut: no disk has a write whose cause
        another one lacks. Returns an attachment for each disk, in their order.

        Each point is one of the group `group`: `Vault.group_points` lists them. A point that any of
        the attachments makes is made of all disks. Each disk is a volume with the disk's name, and has
        the directory of that name in `state`. Stop all of them; the first that is stopped makes the
        last point of all.
        """
    @staticmethod
    def detach(state: _Path) -> None:
        """Takes the programs of a stopped or killed agent out of the kernel, by its state directory.
        Does nothing if there are none. The next attachment compares the whole disk.
        """
    @property
    def volume_name(self) -> str:
        """Name in the vault."""
    @property
    def size_bytes(self) -> int:
        """Size of the disk in bytes."""
    def mark(self, label: str = "", *, kind: Literal["crash", "declared"] = "crash") -> RecoveryPoint:
        """Makes a point now: a clean, audited cut of the disk. It is durable in the local journal when
        the call returns, and has everything that was completed before the call.

        Raises `NotOrderedError` during the first copy or a resync, `UnavailableError` if no cut is
        clean in time or an audit failed.
        """
    def mark_app(self, label: str = "") -> RecoveryPoint:
        """Makes an application-consistent point: copies most of what changed, quiesces `applications`
        or those of the policy, cuts and releases.
        """
    def stats(self) -> Stats:
        """Returns the counters and conditions of the protection behind, as of now. Its `rpo_seconds`
        counts from the last point that is in the vault.
        """
    def cuts(self) -> AttachmentStats:
        """Returns what cuts have taken, as of the last one."""
    def timeline(self) -> list[TimelineEntry]:
        """Returns the history that the vault knows, in stretches."""
    def wait_point(self, limit: float | None = None) -> None:
        """Waits until a point was made in this session. With a `crash_point_interval` of 0, call `mark`
        instead.

        Raises `UnavailableError`, with the newest trouble, after `limit` seconds; None waits
        without a limit.
        """
    def wait_replicated(self, limit: float = 60.0) -> int:
        """Waits until everything of the last point is in the vault. Returns the newest sequence there.

        Raises `UnavailableError` after `limit` seconds.
        """
    def resync(self) -> None:
        """Reads the whole disk again. Older points stay usable; no point is made until it is complete."""
    def stop(self, limit: float = 60.0) -> None:
        """Makes a last point if one is clean soon, and ends the session cleanly: ships the journal,
        waiting for the vault up to `limit` seconds. The programs go on marking what changes.
        """
    def __enter__(self) -> Attachment: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Key:
    """A key-encryption key, which wraps the keys of volumes. Its text and `repr` show its
    `id`, never the key.

    `content` is 32 bytes, or 64 hexadecimal digits with white space around them. Errors
    name `origin` instead of it.

    >>> hrl.Key(bytes(32))
    Key(ea32c149309af722583f4ee84182d50e)
    """

    def __new__(cls, content: bytes | str, *, origin: str = "the key given") -> Self: ...
    @staticmethod
    def from_file(path: _Path) -> Key:
        """Reads a key file."""
    @property
    def id(self) -> str:
        """Identity of the key, by which errors name the key that is needed. It reveals nothing of
        the key.
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class VolumeInfo(_Value):
    """The record of a volume in a vault."""

    @property
    def name(self) -> str:
        """Name in the vault."""
    @property
    def id(self) -> str:
        """Random identity: 32 hexadecimal digits."""
    @property
    def size_bytes(self) -> int:
        """Size in bytes."""
    @property
    def block_bytes(self) -> int:
        """Logical block size in bytes."""
    @property
    def created(self) -> str:
        """Time in UTC at which it was first protected."""
    @property
    def encrypted(self) -> bool:
        """Whether its segments and catalog are encrypted."""
    @property
    def extents_only(self) -> bool:
        """Whether changes are tracked without their data."""
    @property
    def shredded(self) -> bool:
        """Whether its keys were deleted, so that nothing of it can be read any more."""

@final
class KeyRotation(_Value):
    """The result of `Vault.rotate_key`."""

    @property
    def wrapped(self) -> bool:
        """Whether this call wrapped the volume's key with the new key; False if that was done
        before.
        """
    @property
    def unwrapped(self) -> bool:
        """Whether this call deleted the vault key's wrapping; False if that was done before."""
    @property
    def others(self) -> list[str]:
        """Objects that wrap the volume's key with other keys."""

@final
class VolumeRekeyed(_Value):
    """The result of `Vault.rekey`."""

    @property
    def key(self) -> str:
        """Name of the key that encrypts what is new."""
    @property
    def generation(self) -> int:
        """Its generation; the first key of a volume has 1."""
    @property
    def was_drawn(self) -> bool:
        """Whether an interrupted call had drawn it."""

@final
class ShredReport(_Value):
    """The result of `Vault.shred`."""

    @property
    def was_shredded(self) -> bool:
        """Whether the volume had been shredded before."""
    @property
    def keys_deleted(self) -> int:
        """Number of wrapped keys deleted."""
    @property
    def objects_deleted(self) -> int:
        """Number of all objects deleted."""
    @property
    def bytes_deleted(self) -> int:
        """Size of all objects deleted."""

@final
class Vault:
    """A store with the replicas of volumes.

    `url` is a directory (a path or file://PATH) or an object store (s3://, az:// or gs://,
    with credentials from the environment). Instead of it, `store` is a store of your own,
    with the methods of `Store`.

    `key`, or the content of `key_file`, is the key-encryption key of encrypted volumes.
    `create` makes a new vault.

    With `recorded_as`, such as "root@host (cleanup)", what is deleted through the vault is in its
    audit log before it is deleted, unless a gateway sees to that.

    `state` is the state directory of the agent that the vault is opened for. A new one makes a
    new vault. One that knows a volume makes none, and its `Protection` begins even while the
    vault is away.
    """

    def __new__(
        cls,
        url: _Path | None = None,
        *,
        store: Store | None = None,
        key: Key | None = None,
        key_file: _Path | None = None,
        create: bool = False,
        state: _Path | None = None,
        recorded_as: str | None = None,
    ) -> Self: ...
    def volumes(self) -> list[VolumeInfo]:
        """Returns the record of every volume."""
    def volume_names(self) -> list[str]:
        """Returns the name of every volume, without reading their records. So a damaged record
        hides no other volume.
        """
    def volume(self, name: str) -> VolumeInfo:
        """Returns the record of one volume. Raises `NotFoundError` if there is none of that
        name.
        """
    def group_points(self) -> GroupPoints:
        """Returns the points of consistency groups, and the volumes that could not be read."""
    def replica(self, name: str, *, at_least: _State | None = None) -> Replica:
        """Opens one volume as of now. Raises `NotFoundError` if there is none of that name.

        `name` may be "VOLUME@EPOCH", which names the branch of an ended epoch. With `at_least`
        raises `DivergedError` for a volume that does not have it, see `Replica.check_at_least`.
        """
    def accept_gap(self, volume: str) -> tuple[int, int] | None:
        """Accepts that versions of a volume's catalog are lost, for a vault that went back and
        whose source is lost with what it put since.

        Readers and failovers go on with the last version before the gap. Returns its number and
        that of the newest version; `None` if no version is missing. Nothing is deleted, and the
        catalog is whole again if the versions return. Raises `CorruptError` if no version can be
        read.
        """
    def rotate_key(self, volume: str, new_key: Key) -> KeyRotation:
        """Wraps the key of a volume with `new_key`, and deletes the wrapping of the vault's
        key.

        No data is rewritten, and agents that have the volume open continue. An interrupted call
        leaves the volume openable with one of the two keys; repeat it to finish.
        """
    def rekey(self, volume: str) -> VolumeRekeyed:
        """Draws another key for a volume, which encrypts what is written and folded from now on.

        Earlier data keeps its key and stays readable. Agents that run go on with the new key when
        they next publish. An interrupted call is finished by another.
        """
    def shred(self, volume: str, *, data: bool = False, override_legal_hold: bool = False) -> ShredReport:
        """Makes an encrypted volume unreadable forever by deleting every wrapped key of it.
        Stop its source first.

        With `data` everything else of the volume is deleted too, which frees its name. Raises
        `FencedError` while a point is under legal hold, and `WrongKeyError` if that cannot be
        known. `override_legal_hold` skips both checks.
        """
    @property
    def closed(self) -> bool:
        """Whether it was closed."""
    def close(self) -> None:
        """Releases the store. Handles that were opened from the vault stay usable."""
    def __enter__(self) -> Vault: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class FailoverStep(_Value):
    """A recorded step in the life cycle of a volume."""

    @property
    def step(self) -> str:
        """Kind of the step."""
    @property
    def failover(self) -> str:
        """Identity of the failover or test failover that it belongs to."""
    @property
    def time(self) -> str:
        """Time of the step in UTC."""
    @property
    def host(self) -> str:
        """Host that recorded it, for people."""
    @property
    def sequence(self) -> int:
        """Sequence of the recovery state."""
    @property
    def point(self) -> str | None:
        """Identity of the recovery point; None if the state is not a point."""
    @property
    def point_time(self) -> str:
        """Time of the recovery state in UTC."""
    @property
    def epoch(self) -> int:
        """Epoch of the volume after the failover."""
    @property
    def note(self) -> str:
        """Text for people, such as the reason of a cancellation."""

@final
class TestFailover(_Value):
    """A test failover that is not cleaned up."""

    @property
    def step(self) -> str:
        """Kind of the step that began it."""
    @property
    def failover(self) -> str:
        """Identity of the test failover."""
    @property
    def time(self) -> str:
        """Time in UTC at which it began."""
    @property
    def host(self) -> str:
        """Host that began it."""
    @property
    def sequence(self) -> int:
        """Sequence of the recovery state to serve."""
    @property
    def point(self) -> str | None:
        """Identity of the recovery point; None if the state is not a point."""
    @property
    def point_time(self) -> str:
        """Time of the recovery state in UTC."""
    @property
    def epoch(self) -> int:
        """Epoch of the volume."""
    @property
    def note(self) -> str:
        """Text for people."""
    @property
    def name(self) -> str:
        """Name, unique among the test failovers of the volume."""

@final
class Branch(_Value):
    """Changes that an old source made after the point of a failover. `Replica.branch` opens
    them.
    """

    @property
    def epoch(self) -> int:
        """Epoch that the failover ended."""
    @property
    def from_sequence(self) -> int:
        """Sequence at which the epoch ended."""
    @property
    def last_sequence(self) -> int:
        """Last sequence of the branch."""
    @property
    def segments(self) -> int:
        """Number of segments."""
    @property
    def stored_bytes(self) -> int:
        """Stored size in bytes."""
    @property
    def source(self) -> str | None:
        """Host that wrote it; None if no source had the volume."""
    @property
    def ended(self) -> str:
        """Time in UTC at which the epoch ended."""

@final
class Lifecycle(_Value):
    """The place of a volume in its life cycle."""

    @property
    def stage(self) -> str:
        """Stage, such as "protected", "failed-over" or "committed"."""
    @property
    def epoch(self) -> int:
        """Current epoch."""
    @property
    def source(self) -> str | None:
        """Host of the source that has the volume; None if none has."""
    @property
    def current(self) -> FailoverStep | None:
        """Newest step of the failover that is under way or committed; None if there is none."""
    @property
    def steps(self) -> list[FailoverStep]:
        """Recorded steps, oldest first."""
    @property
    def tests(self) -> list[TestFailover]:
        """Test failovers that are not cleaned up."""
    @property
    def branches(self) -> list[Branch]:
        """Branches of ended epochs."""

@final
class ReplicaTotals(_Row):
    """The size of a replica. It unpacks as `segments, data_bytes, stored_bytes`."""

    @property
    def segments(self) -> int:
        """Number of segments."""
    @property
    def data_bytes(self) -> int:
        """Bytes of data captured."""
    @property
    def stored_bytes(self) -> int:
        """Bytes stored."""

@final
class PointBytes(_Row):
    """What was captured for a point. It unpacks as `point, data_bytes, stored_bytes`."""

    @property
    def point(self) -> str:
        """Identity of the point."""
    @property
    def data_bytes(self) -> int:
        """Bytes of data captured since the point before."""
    @property
    def stored_bytes(self) -> int:
        """Bytes stored since the point before."""

@final
class GoodPoint(_Row):
    """The newest good point. It unpacks as `point, reason`."""

    @property
    def point(self) -> RecoveryPoint:
        """The point."""
    @property
    def reason(self) -> Literal["checked", "application-consistent", "newest"]:
        """Reason for the choice: "checked", "application-consistent" or "newest"."""

@final
class SegmentEntry(_Value):
    """A segment of a replica."""

    @property
    def object(self) -> str:
        """Name of its object in the vault; `Replica.open_segment` opens it."""
    @property
    def kind(self) -> _SegmentKind:
        """Kind: "log" in write order, "merged" or "image" in disk order."""
    @property
    def first_sequence(self) -> int:
        """First sequence."""
    @property
    def last_sequence(self) -> int:
        """Last sequence."""
    @property
    def first_time_ns(self) -> int:
        """Time of the first change in nanoseconds since 1970."""
    @property
    def last_time_ns(self) -> int:
        """Time of the last change in nanoseconds since 1970."""
    @property
    def records(self) -> int:
        """Number of records."""
    @property
    def data_bytes(self) -> int:
        """Bytes of data."""
    @property
    def stored_bytes(self) -> int:
        """Bytes stored."""
    @property
    def arrived_ns(self) -> int | None:
        """Time of its file if the vault is a local directory, in nanoseconds since 1970."""

@final
class RestoreReport(_Value):
    """The result of a restore."""

    @property
    def sequence(self) -> int:
        """Sequence of the restored state."""
    @property
    def bytes_written(self) -> int:
        """Bytes written to the target."""
    @property
    def volume_bytes(self) -> int:
        """Size of the volume."""
    @property
    def segments(self) -> int:
        """Number of segments read."""

@final
class CatalogVersion(_Value):
    """A version of a volume's catalog, which a reader may remember."""

    @property
    def number(self) -> int:
        """Its number; 0 for a volume without a catalog."""
    @property
    def text(self) -> str:
        """Its text for `Replica.check_at_least`: "v", the number, ":" and the hash of its object."""
    @property
    def sequence(self) -> int:
        """The last sequence that it lists."""
    @property
    def time(self) -> str | None:
        """Time in UTC of its newest record or heartbeat; None before both."""
    @property
    def time_ns(self) -> int | None:
        """That time in nanoseconds since 1970."""

@final
class GroupPoints(_Value):
    """The result of `Vault.group_points`."""

    @property
    def points(self) -> list[GroupPoint]:
        """The points, oldest first, each once with its members in this vault."""
    @property
    def unread(self) -> list[UnreadVolume]:
        """The volumes that could not be read, whose marks are missing."""

@final
class UnreadVolume(_Row):
    """A volume that could not be read. It unpacks as `volume, error`."""

    @property
    def volume(self) -> str:
        """Its name."""
    @property
    def error(self) -> str:
        """The reason."""

@final
class VerifyReport(_Value):
    """The result of `Replica.verify`."""

    @property
    def segments(self) -> int:
        """Number of segments read."""
    @property
    def bytes(self) -> int:
        """Bytes read."""
    @property
    def points(self) -> int:
        """Number of points whose states were checked."""
    @property
    def findings(self) -> list[Finding]:
        """Damaged or missing objects."""
    @property
    def strays(self) -> list[str]:
        """Names of objects that no catalog version lists."""
    @property
    def notes(self) -> list[str]:
        """Markers that are ignored because nothing proves them, and gates of a mirror."""
    @property
    def sound(self) -> bool:
        """Whether everything that the catalog lists is right."""

@final
class Finding(_Row):
    """A damaged object. It unpacks as `object, error`."""

    @property
    def object(self) -> str:
        """Name of the object in the vault."""
    @property
    def error(self) -> str:
        """What is wrong with it."""

@final
class CompactReport(_Value):
    """The result of `Replica.compact`."""

    @property
    def states_kept(self) -> int:
        """Number of recovery states that the policy keeps beyond its full window."""
    @property
    def segments_before(self) -> int:
        """Number of segments before."""
    @property
    def segments_after(self) -> int:
        """Number of segments after."""
    @property
    def folds(self) -> int:
        """Number of folds."""
    @property
    def points_dropped(self) -> int:
        """Number of points that are gone."""
    @property
    def bytes_read(self) -> int:
        """Bytes read from the vault."""
    @property
    def bytes_written(self) -> int:
        """Bytes written to the vault."""
    @property
    def objects_deleted(self) -> int:
        """Number of objects deleted."""
    @property
    def objects_waiting(self) -> int:
        """Number of objects that wait for the end of their grace."""
    @property
    def strays_retired(self) -> int:
        """Number of objects that no catalog version lists, which will be deleted."""
    @property
    def over_budget_bytes(self) -> int:
        """Bytes that the volume holds above the limit of the policy."""
    @property
    def lost_race(self) -> bool:
        """Whether another process was faster, so that some work was dropped."""
    @property
    def findings(self) -> list[Finding]:
        """Damaged objects, which were left alone."""

@final
class KeptState(_Value):
    """A recovery state that retention keeps."""

    @property
    def sequence(self) -> int:
        """Sequence of the state."""
    @property
    def time(self) -> str:
        """Time of the state in UTC."""
    @property
    def point(self) -> str | None:
        """Identity of the recovery point; None if the state is not a point."""
    @property
    def reason(self) -> str:
        """Reason, such as "thinned", "pinned", "legal-hold" or "last-verified"."""

@final
class RetentionPlan(_Value):
    """What retention would do now."""

    @property
    def kept(self) -> list[KeptState]:
        """States older than the full window that stay, oldest first. Younger ones all stay."""
    @property
    def points_dropped(self) -> list[str]:
        """Identities of points that a fold would drop."""
    @property
    def pins_expired(self) -> list[str]:
        """Identities of points whose pins have expired."""
    @property
    def objects_due(self) -> list[str]:
        """Names of retired objects whose grace is over."""
    @property
    def over_budget_bytes(self) -> int:
        """Bytes that the volume holds above the limit of the policy."""

@final
class ChurnBucket(_Value):
    """How much was written in one interval."""

    @property
    def start(self) -> str:
        """Time in UTC at which it begins."""
    @property
    def records(self) -> int:
        """Number of writes, zeroes, discards and flushes."""
    @property
    def written_bytes(self) -> int:
        """Bytes written; bytes touched if the volume is tracked without data."""
    @property
    def unique_bytes(self) -> int:
        """Bytes written, each byte of the volume counted once."""
    @property
    def stored_bytes(self) -> int:
        """Stored size of the journal, which has to be shipped."""
    @property
    def resync_stored_bytes(self) -> int:
        """Stored size of a first copy or resync, which is in none of the others."""

@final
class ChurnTotal(_Value):
    """How much was written in all."""

    @property
    def records(self) -> int:
        """Number of writes, zeroes, discards and flushes."""
    @property
    def written_bytes(self) -> int:
        """Bytes written; bytes touched if the volume is tracked without data."""
    @property
    def unique_bytes(self) -> int:
        """Bytes written, each byte of the volume counted once an interval."""
    @property
    def stored_bytes(self) -> int:
        """Stored size of the journal, which has to be shipped."""
    @property
    def resync_stored_bytes(self) -> int:
        """Stored size of first copies and resyncs, which is in none of the others."""

@final
class ChurnPercentiles(_Value):
    """Percentiles over all intervals, those without writes included. Keys are "50", "75",
    "90", "95", "99" and "100".
    """

    @property
    def written_bytes(self) -> dict[str, int]:
        """Bytes written."""
    @property
    def unique_bytes(self) -> dict[str, int]:
        """Bytes written, each byte of the volume counted once an interval."""
    @property
    def stored_bytes(self) -> dict[str, int]:
        """Stored size of the journal."""

@final
class Churn(_Value):
    """How much was written over time."""

    @property
    def bucket_seconds(self) -> float:
        """Length of an interval."""
    @property
    def duration_seconds(self) -> float:
        """Time from the first write to the last."""
    @property
    def segments(self) -> int:
        """Number of segments counted."""
    @property
    def segments_folded(self) -> int:
        """Number of folded segments, which are not counted because older churn is lost in them."""
    @property
    def is_sampled(self) -> bool:
        """Whether the unique bytes of some interval are an estimate."""
    @property
    def total(self) -> ChurnTotal:
        """Sum of all intervals."""
    @property
    def top(self) -> ChurnBucket | None:
        """Interval with the most bytes; None if nothing was written."""
    @property
    def percentiles(self) -> ChurnPercentiles:
        """Percentiles over all intervals."""
    @property
    def buckets(self) -> list[ChurnBucket]:
        """Intervals with writes, oldest first."""

@final
class Replica:
    """One volume in a vault, as of the moment it was opened."""

    @property
    def info(self) -> VolumeInfo:
        """Record of the volume."""
    @property
    def totals(self) -> ReplicaTotals:
        """Number of segments, bytes captured and bytes stored."""
    def point_bytes(self) -> list[PointBytes]:
        """Returns for each point the bytes captured and stored since the one before."""
    def refresh(self) -> None:
        """Reads the newest version of the catalog, which this handle shows from then on."""
    def version(self) -> CatalogVersion:
        """Returns the catalog version that was read. Remember it to notice later that a vault went
        back: `check_at_least` takes its `text`.
        """
    def check_at_least(self, expected: _State) -> None:
        """Checks that the volume has at least what is expected.

        `expected` is the `text` of a version that was seen before, a version such as "v12", a
        time (a record or heartbeat of then or later), a sequence, or a point. Raises
        `DivergedError` if the volume does not have it: the vault went back, or is an old copy.
        """
    def notes(self) -> list[str]:
        """Returns what a reader ignores, each with the reason: markers that nothing proves, and
        gates of a mirror.
        """
    def points(self) -> list[RecoveryPoint]:
        """Returns every recovery point, oldest first."""
    def newest_good(self) -> GoodPoint:
        """Returns the point that "newest-good" names, and why."""
    def lifecycle(self) -> Lifecycle:
        """Returns the stage, epoch, source, failover steps, test failovers and branches of the
        volume.
        """
    def branch(self, epoch: int) -> Replica:
        """Opens the branch of an ended epoch for reading. Raises `NotFoundError`, which lists
        the branches.
        """
    def drop_branch(self, epoch: int) -> None:
        """Gives a branch up, so that retention deletes its data."""
    def begin_test(self, name: str, at: _State = "newest-good") -> TestFailover:
        """Records that a test failover begins, and keeps its recovery state through retention.

        Serve the `sequence` of the result. Raises `AlreadyExistsError` if another host has a
        test of this name. Repeating the call on one host is fine.
        """
    def end_test(self, name: str) -> None:
        """Records that a test failover is cleaned up. Raises `NotFoundError`, which lists the
        tests.
        """
    def timeline(self) -> list[TimelineEntry]:
        """Returns the history in stretches: those in write order, and gaps with their cause."""
    def segments(self) -> list[SegmentEntry]:
        """Returns the segments in write order."""
    def open_segment(self, object: str) -> Segment:
        """Opens a segment of the volume by the name of its object; see `segments`."""
    def resolve(self, at: _State = "newest") -> int:
        """Returns the sequence of a recovery state. Raises `NotFoundError` if it cannot be
        restored.
        """
    def view(self, at: _State = "newest") -> View:
        """Opens a recovery state for reading, without a restore."""
    def restore(
        self,
        at: _State,
        to: _Path,
        *,
        overwrite: bool = False,
        device: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> RestoreReport:
        """Writes a recovery state to a new sparse file, or with `device` over an existing disk.

        `overwrite` replaces an existing file. `progress` is called with the bytes done and in
        all. False from it, or an exception, stops the restore.
        """
    def changes(self, since: _State, until: _State) -> ChangeSet:
        """Returns what was written after one recovery state, up to another."""
    def churn(
        self,
        *,
        bucket: float = 60.0,
        since: _Time | None = None,
        until: _Time | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Churn:
        """Returns how much was written over time, from the volume's journal; see `hrl.churn`.

        `progress` is called with the segments done and in all. False from it, or an exception,
        stops the call.
        """
    def verify(self, *, progress: Callable[[int, int], object] | None = None) -> VerifyReport:
        """Reads and checks everything that is stored of the volume.

        `progress` is called with the bytes done and in all. False from it, or an exception,
        stops the call.
        """
    def pin(self, point: _State, *, until: _Time | None = None, hold: bool = False, reason: str = "") -> Pin:
        """Keeps a point through retention: forever, until a time, or with `hold` as a legal
        hold.
        """
    def unpin(self, point: _State, *, hold: bool = False) -> None:
        """Removes the pin of a point, or with `hold` its legal hold. Neither removes the other.

        Through a gateway an `admin` alone lifts a legal hold.
        """
    def record_verdict(self, point: _State, kind: _VerdictKind, ok: bool, text: str = "") -> Verdict:
        """Stores the result of a check of a point.

        Retention never drops the last point whose checks all found nothing wrong.
        """
    def trust(self, text: str = "") -> list[str]:
        """Declares suspicious points to be good, and removes the pin that their change has set.

        Returns the identities of the points. Points that are taken later are suspicious only after
        another change.
        """
    def retention_plan(self, retention: str | None = None) -> RetentionPlan:
        """Returns what retention would do now, from the catalog alone.

        `retention` is text such as "2h all; 24h hourly; 30d daily; bytes 100G"; None is the
        default policy.
        """
    def compact(
        self,
        retention: str | None = None,
        *,
        dry_run: bool = False,
        fold_all: bool = False,
        scratch: _Path | None = None,
        progress: Callable[[int, int], object] | None = None,
        accept_clock: bool = False,
        rekey: bool = False,
    ) -> CompactReport:
        """Carries retention out once, or with `dry_run` reports what that would do.

        `retention` is text such as "2h all; 24h hourly; 30d daily; bytes 100G"; None is the
        default policy. With `fold_all` every state that it does not keep is dropped at once,
        even if that saves few bytes. `scratch` is a directory for temporary files. Restores and
        views under way continue. Raises `UnavailableError` if the clock is more than 7 days ahead of
        the newest time in the catalog, unless `accept_clock` says that it is right. `rekey` also
        rewrites what was folded under an earlier volume key.
        """
    @property
    def closed(self) -> bool:
        """Whether it was closed."""
    def close(self) -> None:
        """Releases the store. Views and change sets that were opened from the replica stay
        usable.
        """
    def __enter__(self) -> Replica: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class View(Device):
    """A read-only device that shows a recovery state of a volume, without a restore."""

    @property
    def sequence(self) -> int:
        """Last change that it shows."""
    def data_extents(self) -> list[Extent]:
        """Returns the ranges that hold data, by offset. Everything else reads as zeroes."""

@final
class ChangeSet:
    """The exact ranges that were written after one recovery state, up to another. Iterating
    it gives its `runs`.
    """

    @property
    def since(self) -> int:
        """Sequence of the earlier state."""
    @property
    def until(self) -> int:
        """Sequence of the later state."""
    @property
    def total_bytes(self) -> int:
        """Number of bytes that were written, zeroed or discarded."""
    def runs(self) -> list[ChangedRun]:
        """Returns the changed ranges by offset."""
    def write_to_file(self, path: _Path) -> int:
        """Writes the changed bytes at their own offsets into a new sparse file. Returns their
        number.
        """
    def __iter__(self) -> Iterator[ChangedRun]: ...
    def __len__(self) -> int: ...

@final
class MarkEntry(_Row):
    """A mark in a segment. It unpacks as `sequence, kind, point, label`."""

    @property
    def sequence(self) -> int:
        """Place in the write order."""
    @property
    def kind(self) -> _PointKind:
        """Kind of the recovery point."""
    @property
    def point(self) -> str:
        """Identity of the recovery point."""
    @property
    def label(self) -> str:
        """Free text; may be empty."""

@final
class SegmentSummary(_Value):
    """The description of a segment that it carries itself."""

    @property
    def kind(self) -> _SegmentKind:
        """Kind: "log" in write order, "merged" or "image" in disk order."""
    @property
    def volume(self) -> str:
        """Identity of the volume."""
    @property
    def epoch(self) -> int:
        """Epoch of the volume."""
    @property
    def first_sequence(self) -> int:
        """First sequence."""
    @property
    def last_sequence(self) -> int:
        """Last sequence."""
    @property
    def first_time(self) -> str:
        """Time of the first change in UTC."""
    @property
    def last_time(self) -> str:
        """Time of the last change in UTC."""
    @property
    def records(self) -> int:
        """Number of records."""
    @property
    def data_bytes(self) -> int:
        """Bytes of data."""
    @property
    def stored_bytes(self) -> int:
        """Bytes stored."""
    @property
    def frames(self) -> int:
        """Number of frames."""
    @property
    def key(self) -> str | None:
        """Identity of the volume key that encrypts it; None if it is not encrypted."""
    @property
    def previous(self) -> str:
        """Chain hash of the segment before."""
    @property
    def chain(self) -> str:
        """Chain hash of this segment."""
    @property
    def marks(self) -> list[MarkEntry]:
        """Marks, in write order."""

@final
class ExportReport(_Value):
    """The result of `convert` to another format."""

    @property
    def logs(self) -> list[Path]:
        """Paths of the logs written."""
    @property
    def writes(self) -> int:
        """Number of writes in them."""
    @property
    def bytes(self) -> int:
        """Bytes of data in them."""
    @property
    def notes(self) -> list[str]:
        """Warnings about what the format cannot carry."""

@final
class ImportReport(_Value):
    """The result of `convert` to a native segment."""

    @property
    def records(self) -> int:
        """Number of records."""
    @property
    def bytes(self) -> int:
        """Bytes of data."""
    @property
    def stored_bytes(self) -> int:
        """Bytes stored."""

@final
class HypervSummary(_Value):
    """The content of a Hyper-V Replica log."""

    @property
    def kind(self) -> Literal["ms-hrl"]:
        """Format: "ms-hrl"."""
    @property
    def created(self) -> str:
        """Time in UTC at which it was created."""
    @property
    def id(self) -> str:
        """Identity of the log."""
    @property
    def previous(self) -> str:
        """Identity of the log before."""
    @property
    def closed(self) -> bool:
        """Whether it was finished; a log under way is not."""
    @property
    def records(self) -> int:
        """Number of writes."""
    @property
    def data_bytes(self) -> int:
        """Bytes of data."""

@final
class Segment:
    """A closed journal segment. Iterating it gives its records in order, with one frame in
    memory at a time.

    `path` is a local file; `Replica.open_segment` opens one in a vault. `replica` has the
    key of an encrypted segment.

    >>> vault = hrl.Vault("vault", create=True)
    >>> disk = hrl.MemoryDevice(1 << 20)
    >>> with hrl.Protection(disk, vault=vault, state="state", volume="v") as protection:
    ...     protection.wait_ordered()
    ...     protection.write(4096, b"hello")
    >>> for path in pathlib.Path("vault").rglob("*.hrl"):
    ...     with hrl.Segment(path) as segment:
    ...         for record in segment:
    ...             if record.kind == "write":
    ...                 print(record.offset, bytes(record.data))
    4096 b'hello'
    """

    def __new__(cls, path: _Path, *, replica: Replica | None = None) -> Self: ...
    def summary(self) -> SegmentSummary:
        """Returns the description that the segment carries."""
    def verify(self) -> None:
        """Reads and checks all of it. Raises `CorruptError`, which names the place."""
    @property
    def closed(self) -> bool:
        """Whether it was closed."""
    def close(self) -> None:
        """Closes it. The data of records stays readable."""
    def __iter__(self) -> RecordIterator: ...
    def __enter__(self) -> Segment: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Record:
    """One change of a volume, in its place in the write order."""

    @property
    def sequence(self) -> int:
        """Place in the write order."""
    @property
    def time(self) -> str:
        """Time of capture in UTC; for people, never for order."""
    @property
    def time_ns(self) -> int:
        """Time of capture in nanoseconds since 1970."""
    @property
    def kind(
        self,
    ) -> Literal["write", "zero", "discard", "touch", "flush", "mark", "unordered-begin", "unordered-end"]:
        """Kind of the change; "touch" is a write whose data was not captured."""
    @property
    def offset(self) -> int:
        """First byte of the volume that it changes."""
    @property
    def length(self) -> int:
        """Number of bytes; 0 if it changes none."""
    @property
    def data(self) -> memoryview | None:
        """Data of a write: a read-only view without a copy, which keeps its frame in memory. None
        for other kinds.
        """
    @property
    def detail(self) -> str:
        """Label of a mark, or cause of an unordered interval; else empty."""

@final
class RecordIterator:
    """An iterator over the records of a segment, for one thread at a time."""

    def __iter__(self) -> RecordIterator: ...
    def __next__(self) -> Record: ...

@final
class FailoverPreview(_Value):
    """What `FailedOver.start` would do now."""

    @property
    def stage(self) -> str:
        """Stage of the volume."""
    @property
    def owner(self) -> str:
        """Host of the source that has the volume."""
    @property
    def sequence(self) -> int:
        """Sequence of the recovery state."""
    @property
    def point(self) -> str | None:
        """Identity of the recovery point; None if the state is not a point."""
    @property
    def time(self) -> str:
        """Time of the recovery state in UTC."""
    @property
    def epoch(self) -> int:
        """Epoch that a commit begins."""
    @property
    def records_later(self) -> int:
        """Number of records in the vault that are later than the state; they become a branch."""
    @property
    def seconds_later(self) -> float:
        """Time between the state and the newest record in the vault."""
    @property
    def steps(self) -> list[str]:
        """Steps in sentences."""

@final
class FailoverStart(_Value):
    """The recovery state that a failover serves."""

    @property
    def sequence(self) -> int:
        """Sequence of the recovery state."""
    @property
    def point(self) -> str | None:
        """Identity of the recovery point; None if the state is not a point."""
    @property
    def time(self) -> str:
        """Time of the recovery state in UTC."""
    @property
    def time_ns(self) -> int:
        """Time of the recovery state in nanoseconds since 1970."""
    @property
    def seconds(self) -> float:
        """Time from the call until the volume could be read and written."""

@final
class Hydration(_Row):
    """How much of a volume is in its disk. It unpacks as `hydrated_bytes, data_bytes,
    whole`.
    """

    @property
    def hydrated_bytes(self) -> int:
        """Bytes of data in the disk."""
    @property
    def data_bytes(self) -> int:
        """Bytes of data in all."""
    @property
    def whole(self) -> bool:
        """Whether the disk is whole."""

@final
class FailedOver:
    """A volume that failed over to here, running. It is writable at once, and its disk is
    filled behind the reads.

    Nothing is final before `commit`. Leaving the `with` block stops it cleanly; `start`
    with the same state directory continues.

    >>> vault = hrl.Vault("vault", create=True)
    >>> disk = hrl.MemoryDevice(1 << 20)
    >>> with hrl.Protection(disk, vault=vault, state="home", volume="v") as protection:
    ...     protection.wait_ordered()
    ...     point = protection.mark("good")
    >>> spare = hrl.MemoryDevice(1 << 20)
    >>> with hrl.FailedOver.start("v", vault=vault, state="away", disk=spare, at=point) as over:
    ...     over.volume.write(0, b"written here")
    ...     over.commit()
    >>> vault.replica("v").lifecycle().stage
    'committed'
    """

    @staticmethod
    def start(
        volume: str,
        *,
        vault: Vault,
        state: _Path,
        disk: Device | BlockDevice | _Path,
        at: _State = "newest-good",
        planned: float | None = None,
        change_point: bool = False,
        disk_reads_zero: bool = False,
        policy: Mapping[str, str | int] | None = None,
        on_event: Callable[[dict[str, str]], object] | None = None,
    ) -> FailedOver:
        """Fails over, and returns as soon as the volume can be read and written. A failover under
        way in `state` continues.

        `planned` asks the source to hand the volume over, and waits so many seconds for it.
        `change_point` begins again at another state, before the commit. `disk_reads_zero` says
        that the disk is a new sparse file. `on_event` is as for `Protection`.

        Raises `FencedError` if another failover is under way or was committed, and
        `UnavailableError` if the source does not hand over in time.
        """
    @staticmethod
    def preview(
        volume: str,
        *,
        vault: Vault,
        state: _Path,
        disk: Device | BlockDevice | _Path,
        at: _State = "newest-good",
        planned: float | None = None,
    ) -> FailoverPreview:
        """Returns what `start` would do. Nothing is changed."""
    @property
    def volume(self) -> Volume:
        """Volume to read and write."""
    @property
    def volume_name(self) -> str:
        """Name in the vault."""
    @property
    def started(self) -> FailoverStart:
        """Recovery state that is served, and the time that it took."""
    def hydration(self) -> Hydration:
        """Returns how much of the volume is in its disk."""
    def wait_hydrated(self, limit: float = 60.0) -> None:
        """Waits until the disk is whole. Raises `UnavailableError` after `limit` seconds."""
    def commit(self) -> None:
        """Makes the failover final: the old source is fenced, its later writes become a branch,
        and changes from here are shipped.
        """
    def stats(self) -> Stats:
        """Returns counters and conditions of its protection."""
    def mark(self, label: str = "") -> RecoveryPoint:
        """Takes a crash-consistent point."""
    def mark_app(self, label: str = "") -> RecoveryPoint:
        """Takes an application-consistent point with the applications of the policy."""
    def wait_replicated(self, limit: float = 60.0) -> int:
        """Waits until everything captured before the call is in the vault. Nothing is shipped
        before the commit.
        """
    def cancel(self) -> None:
        """Gives the failover up before the commit. Changes from here are dropped, and the source
        continues.
        """
    def stop(self, limit: float = 60.0) -> None:
        """Ends the session cleanly. `start` continues from there."""
    def detach(self, limit: float = 60.0) -> None:
        """Ends the session and leaves a plain disk, for a `Protection` with the same state
        directory. The disk must be whole.
        """
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class FollowerStatus(_Value):
    """The condition of a follower's disk."""

    @property
    def sequence(self) -> int:
        """Sequence of the recovery state that the disk holds."""
    @property
    def bytes_differing(self) -> int:
        """Bytes in which the disk may differ from that state."""
    @property
    def why_everywhere(self) -> str | None:
        """Reason why the disk may differ everywhere; None if it does not."""

@final
class CatchUp(_Value):
    """The result of bringing a disk to a recovery state."""

    @property
    def from_sequence(self) -> int:
        """Sequence of the state that the disk held before."""
    @property
    def to_sequence(self) -> int:
        """Sequence of the state that the disk holds now."""
    @property
    def bytes_diverged(self) -> int:
        """Bytes in which the disk had differed from the state before."""
    @property
    def bytes_written(self) -> int:
        """Bytes written to the disk."""

@final
class Follower:
    """A disk at the old site that follows the volume, for failback. It is written only where
    it differs.

    `state` is the state directory of the agent that protected the disk, which must have
    ended. Changes that its spool still holds are first handed in to the branch of their
    epoch. One thread at a time uses it.
    """

    def __new__(cls, volume: str, *, vault: Vault, state: _Path, disk: Device | BlockDevice | _Path) -> Self: ...
    def status(self) -> FollowerStatus:
        """Returns the recovery state that the disk holds, and how much may differ from it."""
    def bytes_behind(self, at: _State = "newest") -> int:
        """Returns how many bytes `catch_up` would write."""
    def catch_up(self, at: _State = "newest", *, progress: Callable[[int, int], object] | None = None) -> CatchUp:
        """Brings the disk to a recovery state.

        `progress` is called with the bytes done and in all. False from it, or an exception,
        stops the call.
        """
    def fail_back(
        self,
        *,
        planned: float | None = None,
        policy: Mapping[str, str | int] | None = None,
        on_event: Callable[[dict[str, str]], object] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[Protection, CatchUp]:
        """Takes the volume home. Returns the protection on this disk, and what was written.

        With `planned` the other site is asked to hand the volume over, for up to so many
        seconds. It is fenced then. Without it the other site is not asked. `policy` and
        `on_event` are as for `Protection`.
        """
    def close(self) -> None:
        """Releases the disk and the state directory."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def abandon_failover(vault: Vault, volume: str) -> FailoverStep | None:
    """Gives up the failover under way, if its site was lost together with its state
    directory.

    Returns its newest step, or None if no failover is under way. A commit from that site is
    refused later.
    """

def cancel_failover(vault: Vault, volume: str, state: _Path) -> None:
    """Gives up a failover that is not committed and whose process has ended."""

@final
class NbdStats(_Row):
    """Counters of an NBD server since its start. They unpack in this order."""

    @property
    def requests(self) -> int:
        """Number of requests answered."""
    @property
    def errors(self) -> int:
        """Number of requests answered with an error."""
    @property
    def bytes_read(self) -> int:
        """Bytes read by clients."""
    @property
    def bytes_written(self) -> int:
        """Bytes written by clients."""
    @property
    def connections(self) -> int:
        """Connections open now."""
    @property
    def connections_refused(self) -> int:
        """Number of connections refused."""

@final
class NbdServer:
    """A listening NBD server. Leaving the `with` block stops it.

    `address` is HOST:PORT or unix:PATH. With `tls`, a directory of certificates as
    `create_authority` makes it, nothing is served without TLS. With `tls_verify` only
    clients that are enrolled for the volume are served; of a device, for the export's name.
    `on_refused` is called with a line about each refused client, on a thread of the server.
    None logs it.

    The owner alone may connect to a UNIX socket, and the group of its directory if that has
    the setgid bit. Without TLS an address that other machines reach is refused, unless
    `insecure`.
    """

    @staticmethod
    def protected(
        address: str,
        protection: Protection,
        name: str,
        *,
        tls: _Path | None = None,
        tls_verify: bool = True,
        on_refused: Callable[[str], object] | None = None,
        insecure: bool = False,
    ) -> NbdServer:
        """Serves a protected volume."""
    @staticmethod
    def failed_over(
        address: str,
        failed_over: FailedOver,
        name: str,
        *,
        tls: _Path | None = None,
        tls_verify: bool = True,
        on_refused: Callable[[str], object] | None = None,
        insecure: bool = False,
    ) -> NbdServer:
        """Serves a volume that failed over to here."""
    @staticmethod
    def device(
        address: str,
        device: Device | BlockDevice | _Path,
        name: str,
        *,
        read_only: bool = False,
        changes: DiskChanges | None = None,
        tls: _Path | None = None,
        tls_verify: bool = True,
        on_refused: Callable[[str], object] | None = None,
        insecure: bool = False,
    ) -> NbdServer:
        """Serves a device without protection. A path is opened for this server alone, or for
        reads, without a claim, if `read_only`.

        `changes` are shown as a dirty bitmap, which backup programs read.
        """
    @staticmethod
    def replica(
        address: str,
        replica: Replica,
        at: _State,
        *,
        scratch: _Path | None = None,
        changes: ChangeSet | None = None,
        tls: _Path | None = None,
        tls_verify: bool = True,
        on_refused: Callable[[str], object] | None = None,
        insecure: bool = False,
    ) -> NbdServer:
        """Serves a recovery state: read-only, or writable with its changes in a new `scratch`
        file.

        The export has the volume's name; `replica` and the empty name reach it, too.
        `changes` are shown as a dirty bitmap, which backup programs read.
        """
    @property
    def uri(self) -> str:
        """URI by which clients find it."""
    @property
    def engine(self) -> str:
        """What carries the bytes: "io_uring", or "threads" where the system denies it."""
    def stats(self) -> NbdStats:
        """Returns counters since its start."""
    def stop(self) -> None:
        """Ends every connection and stops listening."""
    def __enter__(self) -> NbdServer: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Checkpoint(_Value):
    """A named instant of a disk that is tracked."""

    @property
    def name(self) -> str:
        """Its name."""
    @property
    def time(self) -> str:
        """Time at which it was made, in UTC."""
    @property
    def disk_bytes(self) -> int:
        """Size of the disk in bytes."""
    @property
    def bytes_changed(self) -> int:
        """Bytes that changed since the checkpoint before it, or since tracking began."""
    @property
    def everything(self) -> str | None:
        """Reason why those are the whole disk; None if they are exact."""
    @property
    def is_current(self) -> bool:
        """Whether changes since it are known. They are not if the machine has booted since."""

@final
class TrackerStatus(_Value):
    """How a disk is tracked."""

    @property
    def disk(self) -> str:
        """The kernel's name of the disk, such as "sda"."""
    @property
    def disk_bytes(self) -> int:
        """Size of the disk in bytes."""
    @property
    def since(self) -> str:
        """Time at which tracking began, in UTC."""
    @property
    def memory_bytes(self) -> int:
        """Memory of the maps in bytes. It is never swapped."""
    @property
    def bytes_changed(self) -> int:
        """Bytes that changed since the last checkpoint, or since tracking began."""
    @property
    def lost(self) -> str | None:
        """Reason why it is not tracked any more; None if it is."""

@final
class DiskChanges:
    """What changed on a disk between two checkpoints, or since one. Iterating it gives its
    `runs`.
    """

    @property
    def since(self) -> str:
        """Name of the earlier checkpoint."""
    @property
    def until(self) -> str | None:
        """Name of the later checkpoint; None for now."""
    @property
    def exact(self) -> bool:
        """Whether an audit proved that nothing is missing. Otherwise the changes are the whole
        disk.
        """
    @property
    def everything(self) -> str | None:
        """Reason why the changes are the whole disk; None if they are exact."""
    @property
    def total_bytes(self) -> int:
        """Number of bytes in the changed blocks."""
    def runs(self) -> list[Extent]:
        """Returns the changed ranges by offset, in blocks of 4 KiB."""
    def __iter__(self) -> Iterator[Extent]: ...
    def __len__(self) -> int: ...

@final
class Tracker:
    """Tracks which blocks of a disk or partition in use change, between named checkpoints, for
    backup programs. No data is kept, and nothing is installed.

    Opens a disk that `Tracker.start` has begun to track. `state` is the directory of the
    checkpoints of all disks. Any number of processes may use it. Make a checkpoint first,
    then read the disk.
    """

    def __new__(cls, disk: _Path, *, state: _Path | None = None) -> Self: ...
    @staticmethod
    def start(disk: _Path, *, state: _Path | None = None) -> Tracker:
        """Begins to track a disk or partition. It is tracked until `stop`, or until the machine
        boots, whatever processes end. `state` defaults to "/var/lib/hrl/track".
        """
    @staticmethod
    def all(*, state: _Path | None = None) -> list[Tracker]:
        """Returns a tracker for each disk that is tracked with a state directory."""
    @property
    def disk(self) -> Path:
        """Path of the disk."""
    def checkpoint(self, name: str) -> Checkpoint:
        """Makes a checkpoint: changes after it are apart from those before."""
    def checkpoints(self) -> list[Checkpoint]:
        """Returns the checkpoints, oldest first."""
    def changes(self, since: str, until: str | None = None) -> DiskChanges:
        """Returns what changed after checkpoint `since`, up to checkpoint `until`, or up to now.

        Raises an `HrlError` of the kind "changed" if everything may have changed, because the
        machine has booted since.
        """
    def forget(self, name: str) -> None:
        """Forgets a checkpoint. Its changes count for the next one, so those since others stay
        exact.
        """
    def status(self) -> TrackerStatus:
        """Returns how the disk is tracked."""
    def stop(self) -> None:
        """Stops to track the disk, and forgets its checkpoints. Nothing stays in the kernel."""

@final
class Undeleted(_Value):
    """What came back of a volume, or would. The result of `undelete`."""

    @property
    def volume(self) -> str | None:
        """Name of the volume; None for objects of no volume."""
    @property
    def objects(self) -> int:
        """Number of objects that were deleted and are back."""
    @property
    def bytes(self) -> int:
        """Their bytes."""
    @property
    def replaced(self) -> list[str]:
        """Names that other objects had taken, which gave way."""
    @property
    def lost(self) -> list[str]:
        """Names of objects that are gone all the same."""
    @property
    def was_shredded(self) -> bool:
        """Whether the volume had been shredded."""
    @property
    def points(self) -> list[str]:
        """Identities of the points that the catalog lists again."""
    @property
    def segments(self) -> int:
        """Number of segments that the catalog lists again."""
    @property
    def pins(self) -> int:
        """Number of pins and legal holds in force again."""
    @property
    def folds_left(self) -> int:
        """Number of folds that stay, because what they were made of is gone."""
    @property
    def version(self) -> int | None:
        """Catalog version that says it again; None if it needs none, or in a dry run."""
    @property
    def failure(self) -> str | None:
        """Error of this volume; None if there was none."""
    @property
    def failure_kind(self) -> str | None:
        """Kind of that error."""

@final
class DeletedVolume(_Value):
    """What can still be brought back of a volume. The result of `deleted`."""

    @property
    def volume(self) -> str | None:
        """Name of the volume; None for objects of no volume."""
    @property
    def tombstones(self) -> int:
        """Number of tombstones."""
    @property
    def objects(self) -> int:
        """Number of deleted segments and packs."""
    @property
    def bytes(self) -> int:
        """Bytes that all of it takes."""
    @property
    def since(self) -> str:
        """Time of the first delete in UTC."""
    @property
    def next_due(self) -> str:
        """When the first will be purged, in UTC."""

@final
class PurgeReport(_Value):
    """What a purge did. Part of the result of `Maintainer.run`."""

    @property
    def tombstones(self) -> int:
        """Number of tombstones removed."""
    @property
    def objects(self) -> int:
        """Number of objects removed."""
    @property
    def bytes(self) -> int:
        """Bytes freed."""
    @property
    def waiting(self) -> int:
        """Number of tombstones whose delay is not over, or that the store keeps locked."""
    @property
    def locked(self) -> int:
        """Number of objects that the store keeps locked; a later purge removes them."""
    @property
    def in_use(self) -> list[str]:
        """Deleted objects that catalogs list: somebody deleted what is in use."""
    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which the clock is too far ahead; None if it is believed."""
    @property
    def damaged(self) -> list[str]:
        """Tombstones that cannot be read."""

@final
class MaintainedVolume(_Value):
    """What maintenance did for one volume. Part of the result of `Maintainer.run`."""

    @property
    def volume(self) -> str:
        """Name of the volume."""
    @property
    def versions_deleted(self) -> int:
        """Catalog versions deleted that no reader needs."""
    @property
    def failure(self) -> str | None:
        """Error that ended the maintenance of this volume; None if there was none."""
    @property
    def failure_kind(self) -> str | None:
        """Kind of that error."""
    @property
    def compaction(self) -> CompactReport | None:
        """What retention did; None without a policy or the key."""

@final
class Maintainer:
    """Maintains a vault under an identity of its own: retention where it has the key, old catalog
    versions, and the purge of what was deleted and whose delay is over.

    `retention` is text such as "2h all; 24h hourly; 30d daily"; None means no retention. A vault
    without a deletion delay gets `deletion_delay`, in seconds. `accept_clock` believes a clock
    that is far ahead of the vault's own times. `name` is who does it, for tombstones and the
    audit log.
    """

    def __new__(
        cls,
        vault: str,
        *,
        key: Key | None = None,
        volumes: Sequence[str] | None = None,
        retention: str | None = None,
        deletion_delay: float = 1_209_600.0,
        accept_clock: bool = False,
        name: str = "maintainer",
    ) -> Self: ...
    def run(self) -> tuple[list[MaintainedVolume], PurgeReport]:
        """Maintains every volume once, then purges. A failure of one volume is in its result and
        does not stop the others.
        """
    def stop(self) -> None:
        """Ends a run of another thread soon, and those that follow."""

def undelete(
    vault: str,
    *,
    since: _Time,
    key: Key | None = None,
    volumes: Sequence[str] | None = None,
    dry_run: bool = True,
    name: str = "undelete",
) -> list[Undeleted]:
    """Brings back what was deleted from a vault since a time. With `dry_run`, the default, reports
    what that would be.

    `vault` is the directory or URL that a gateway would be given, `key` the key-encryption key of
    encrypted volumes. Without the key objects come back, and folds are not undone. Run it again
    after any failure. `name` is who does it, for the audit log.
    """

def deleted(vault: _Path) -> list[DeletedVolume]:
    """Returns what can still be brought back in a vault, by volume."""

def deletion_delay(vault: str) -> float:
    """Returns the deletion delay of a vault in seconds; zero if it has none."""

def set_deletion_delay(vault: str, delay: float) -> None:
    """Sets the deletion delay of a vault, in seconds. What is deleted already keeps its own."""

@final
class MirroredVolume(_Value):
    """The result of a mirror's run for one volume."""

    @property
    def volume(self) -> str:
        """Name of the volume."""
    @property
    def source_version(self) -> int:
        """Newest catalog version of the source."""
    @property
    def version(self) -> int:
        """Newest catalog version of the target, which is never above that of the source."""
    @property
    def lag(self) -> float:
        """Time in seconds by which the target is behind."""
    @property
    def objects_copied(self) -> int:
        """Number of objects copied."""
    @property
    def bytes_copied(self) -> int:
        """Bytes copied."""
    @property
    def objects_deleted(self) -> int:
        """Number of objects deleted."""
    @property
    def source_lacks(self) -> int:
        """Number of objects that the source lacks."""
    @property
    def shrunk(self) -> str | None:
        """How the history of the source shrank, if it did: it was shredded, or lost most of what
        the mirror has. None if it did not.
        """
    @property
    def failure(self) -> str | None:
        """Error that ended the run for this volume; None if there was none."""
    @property
    def failure_kind(self) -> str | None:
        """Kind of that error."""

@final
class Mirror:
    """Makes the vault `target` follow the vault `source`, without the keys of its volumes.

    If `target` was opened with the key, nothing that its catalog lists is deleted.
    `volumes` are all by default. `scratch` is a directory for copies of objects above 32
    MiB. Wrapped keys that the source has deleted stay for `keep` seconds. Run one mirror at a
    time for each target.
    """

    def __new__(
        cls,
        source: Vault,
        target: Vault,
        *,
        volumes: Sequence[str] | None = None,
        scratch: _Path | None = None,
        keep: float = 0.0,
    ) -> Self: ...
    def run(self) -> list[MirroredVolume]:
        """Catches up once; call it again to follow. A failure of one volume is in its result and
        does not stop the others.
        """
    def stop(self) -> None:
        """Ends a run of another thread, and those that follow."""

@final
class GatewayStats(_Value):
    """Counters of a gateway since its start."""

    @property
    def connections(self) -> int:
        """Connections open now."""
    @property
    def connections_refused(self) -> int:
        """Number of connections refused."""
    @property
    def requests(self) -> int:
        """Number of requests answered."""
    @property
    def errors(self) -> int:
        """Number of requests answered with an error."""
    @property
    def bytes_received(self) -> int:
        """Bytes of objects received."""
    @property
    def bytes_sent(self) -> int:
        """Bytes of objects sent."""
    @property
    def cached_objects(self) -> int:
        """Objects in the cache that are not in the vault."""
    @property
    def cached_bytes(self) -> int:
        """Bytes in the cache that are not in the vault."""
    @property
    def forwarded_objects(self) -> int:
        """Number of objects forwarded to the vault."""
    @property
    def forwarded_puts(self) -> int:
        """Number of puts that the forwarded objects took."""
    @property
    def vault_available(self) -> bool:
        """Whether the vault took the last object."""
    @property
    def refused(self) -> int:
        """Number of requests that the client had no right to."""
    @property
    def conflicts(self) -> int:
        """Number of segments under whose names the vault had other bytes."""
    @property
    def certificate_expires(self) -> str:
        """When the gateway's certificate expires."""
    @property
    def client_certificate_expires(self) -> str | None:
        """When the first certificate of a connected client expires."""

@final
class CertificateRights(_Value):
    """What a certificate permits, and until when."""

    @property
    def role(self) -> _Role | None:
        """Role; None if it was made before there were roles, which counts as "source"."""
    @property
    def volumes(self) -> list[str]:
        """Volumes, or "*" for all."""
    @property
    def expires(self) -> str:
        """When it expires."""
    @property
    def expires_ns(self) -> int:
        """When it expires, in nanoseconds since 1970."""

@final
class AuditEntry(_Value):
    """An entry of the audit log: who did what."""

    @property
    def batch(self) -> int:
        """Number of its batch."""
    @property
    def writer(self) -> str:
        """Who recorded it."""
    @property
    def time(self) -> str:
        """When it began."""
    @property
    def client(self) -> str:
        """Name of the client."""
    @property
    def role(self) -> str:
        """Role of the client."""
    @property
    def verb(self) -> str:
        """What was done, such as "put" and "delete"."""
    @property
    def objects(self) -> list[str]:
        """Objects that it was done to; a prefix of puts that were counted."""
    @property
    def outcome(self) -> Literal["done", "permitted", "denied", "failed"]:
        """How it ended: "done", "permitted", "denied" or "failed"."""
    @property
    def reason(self) -> str:
        """Why it was refused or failed."""
    @property
    def count(self) -> int:
        """How often it was done."""
    @property
    def bytes(self) -> int:
        """Bytes of the objects, if they are known."""

@final
class AuditLog(_Value):
    """The audit log of a vault."""

    @property
    def entries(self) -> list[AuditEntry]:
        """Entries in the order of the log."""
    @property
    def findings(self) -> list[str]:
        """What is wrong with the log; nothing if it is as its writers left it."""
    @property
    def head(self) -> str:
        """The end of the log. Keep it elsewhere, and give it as `expected` later."""

@final
class Gateway:
    """A store served over HTTPS with client certificates, in front of a vault. Leaving the
    `with` block stops it.

    With `cache`, a directory, segments are acknowledged as soon as they are durable there;
    without it when the vault has them. `acknowledge` chooses: "gateway", or "vault" to
    empty the cache and add nothing to it. `metrics` is an address for `/metrics` and
    `/healthz` without TLS. A vault without a deletion delay gets `deletion_delay`, in seconds: for
    so long `undelete` brings back what clients delete.

    One client may use `client_cache_bytes_max` of the cache and store
    `client_stored_bytes_max` in the vault. `on_refused` is called with a line about each
    refusal, on a thread of the gateway; None logs it.
    """

    def __new__(
        cls,
        vault: str,
        *,
        pki: _Path,
        listen: str = "0.0.0.0:9443",
        cache: _Path | None = None,
        cache_bytes_max: int | None = None,
        acknowledge: str | None = None,
        metrics: str | None = None,
        deletion_delay: float = 1_209_600.0,
        client_cache_bytes_max: int | None = None,
        client_stored_bytes_max: int | None = None,
        on_refused: Callable[[str], object] | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str:
        """Address that it listens on."""
    @property
    def metrics_address(self) -> str | None:
        """Address of its metrics, without TLS."""
    def stats(self) -> GatewayStats:
        """Returns counters and conditions as of now."""
    def stop(self, limit: float = 60.0) -> bool:
        """Stops the gateway, and tries to empty the cache for up to `limit` seconds. Returns
        whether the cache is empty.
        """
    def __enter__(self) -> Gateway: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class PlanMember:
    """A volume of a plan."""

    @property
    def volume(self) -> str:
        """Name in the vault."""
    @property
    def disk(self) -> Path | None:
        """Disk that a failover fills."""
    @property
    def state(self) -> Path | None:
        """Directory of the failover's state."""
    @property
    def nbd(self) -> str | None:
        """Address at which it is served."""
    @property
    def test_nbd(self) -> str | None:
        """Address at which it is served in a test."""

@final
class PlanRequest:
    """A request to a `PlanHost`."""

    @property
    def run(self) -> str:
        """Identity of the run."""
    @property
    def mode(self) -> Literal["test", "real"]:
        """Mode of the run."""
    @property
    def planned(self) -> bool:
        """Whether the source is still there, so that its last bytes come first."""
    @property
    def at(self) -> str:
        """Recovery state to come up at: "newest", "sequence:N", or "point:" and the id of a point or
        group point.
        """
    @property
    def state(self) -> Path | None:
        """Directory for the failover's state: the member's, or in a test one of the run's inside
        it.
        """
    @property
    def nbd(self) -> str | None:
        """Address of this mode."""
    @property
    def limit(self) -> float:
        """Time limit in seconds, which the host observes."""
    @property
    def stopped(self) -> bool:
        """Whether the run was stopped. A host looks at it regularly, and then gives up with an
        error.
        """

@final
class Plan:
    """A recovery plan, from TOML. An error names the key, its line, what was expected and what
    was found.
    """

    def __new__(cls, text: str, *, name: str = "the plan") -> Self: ...
    @staticmethod
    def from_file(path: _Path) -> Plan:
        """Reads a plan from a file."""
    @property
    def name(self) -> str:
        """Name of the plan."""
    @property
    def text(self) -> str:
        """TOML that it was read from."""
    @property
    def groups(self) -> list[str]:
        """Names of its groups, in the order of the file."""
    @property
    def members(self) -> list[PlanMember]:
        """Volumes of the plan."""
    def steps(self, mode: Literal["test", "real"]) -> list[dict[str, Any]]:
        """Returns the steps of a run in the order of the plan."""
    def check(self, vault: Vault) -> dict[str, Any]:
        """Returns the recovery state that each volume would come up at, what that loses
        (`rpo_ms`), and `problems`.
        """
    def run(
        self,
        vault: Vault,
        host: PlanHost,
        *,
        run: str | None = None,
        mode: Literal["test", "real"] = "test",
        planned: bool = False,
        failed_at: _Time | None = None,
        commit: bool = False,
        verify_with: list[str] | None = None,
        poll: float = 1.0,
        stopped: Callable[[], bool] | None = None,
        on_step: Callable[[str, dict[str, Any]], object] | None = None,
    ) -> dict[str, Any]:
        """Runs the plan to its end, and returns its report. A step that failed is in the report's
        `outcome`, not an error.

        `stopped` is called every `poll` seconds, on a thread of the library. True from it ends
        what is under way, and the run can be resumed. `on_step` is called with the run and the
        step when one begins and when it ends. The words of `verify_with` go before each
        `verify` program, such as those of a sandbox.
        """

@final
class GroupMemberStatus(_Value):
    """A member of a consistency group, as its coordinator sees it."""

    @property
    def volume(self) -> str:
        """Name of the volume."""
    @property
    def address(self) -> str | None:
        """Address that it is connected from; None if it is not connected."""
    @property
    def unconfirmed(self) -> int:
        """Number of group points that the member has not confirmed."""

@final
class GroupStatus(_Value):
    """The condition of a group's coordinator."""

    @property
    def members(self) -> list[GroupMemberStatus]:
        """Members, connected or not."""
    @property
    def points(self) -> int:
        """Number of group points made."""
    @property
    def failures(self) -> int:
        """Number of rounds that made no point."""
    @property
    def newest(self) -> GroupPoint | None:
        """Newest group point; None if there is none."""
    @property
    def problem(self) -> str:
        """What failed in the newest round; empty if nothing did."""
    @property
    def held_p50_seconds(self) -> float:
        """Median of a round's longest barrier."""
    @property
    def held_p99_seconds(self) -> float:
        """99th percentile of a round's longest barrier."""
    @property
    def held_max_seconds(self) -> float:
        """Maximum of a round's longest barrier."""

@final
class GroupMemberStats(_Value):
    """The condition of a membership."""

    @property
    def connected(self) -> bool:
        """Whether it is connected to a coordinator."""
    @property
    def rounds(self) -> int:
        """Number of rounds that it took part in."""
    @property
    def points(self) -> int:
        """Number of group points that it took part in."""
    @property
    def held_max_seconds(self) -> float:
        """Longest barrier."""
    @property
    def problem(self) -> str:
        """What is wrong; empty if nothing is."""

@final
class GroupCoordinator:
    """The coordinator of a consistency group. Leaving the `with` block stops it.

    It remembers its members in the directory `state`. It admits clients that are enrolled
    in `pki`, each with the volumes of its certificate. `members` lists the volumes that may
    be members; without it any of those clients may join, and from then on no point is made
    without it. Writers never wait longer than `budget` seconds at the barrier of a cut.

    With `interval` and `app_interval` crash- and application-consistent points are made
    periodically; zero is never. Applications are quiesced within `quiesce_limit`.
    `on_event` is as for `Protection`.
    """

    def __new__(
        cls,
        name: str,
        *,
        state: _Path,
        pki: _Path,
        listen: str = "0.0.0.0:20004",
        members: list[str] | None = None,
        budget: float = 0.3,
        interval: float = 0.0,
        app_interval: float = 0.0,
        quiesce_limit: float = 10.0,
        on_event: Callable[[dict[str, str]], object] | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str:
        """Address that it listens on."""
    def point(self, label: str = "", *, app: bool = False) -> GroupPoint:
        """Makes a point of the group now. Raises `UnavailableError`, which names the member that
        prevents it.
        """
    def remove(self, volume: str) -> None:
        """Removes a member that is not coming back. Raises `NotFoundError` if there is none of
        that name.
        """
    def status(self) -> GroupStatus:
        """Returns members, counters, the newest point and the length of barriers."""
    def stop(self) -> None:
        """Stops the coordinator."""
    def __enter__(self) -> GroupCoordinator: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class GroupMember:
    """A volume's membership in a group; see `Protection.join_group`.

    Leaving the `with` block closes it. The volume stays a member then, and points of the
    group wait for it.
    """

    def stats(self) -> GroupMemberStats:
        """Returns counters and conditions as of now."""
    def wait_connected(self, limit: float = 30.0) -> None:
        """Waits until a coordinator has admitted it. Raises `UnavailableError` after `limit`
        seconds.
        """
    def leave(self, limit: float = 30.0) -> None:
        """Leaves the group. Raises `UnavailableError` if no coordinator confirms that within
        `limit` seconds.
        """
    def close(self) -> None:
        """Ends the connection."""
    def __enter__(self) -> GroupMember: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def create_authority(pki: _Path, hosts: Sequence[str]) -> None:
    """Creates a certificate authority in a new directory, and a gateway's certificate that is
    good for `hosts`.
    """

def enroll_client(
    pki: _Path,
    client: str,
    *,
    volumes: Sequence[str],
    bundle: _Path,
    role: _Role = "source",
    days: int = 397,
    request: _Path | None = None,
) -> None:
    """Creates and pins a certificate for a client that may access `volumes` alone, or all if one
    is "*", in its `role`: "reader", "source", "maintainer" or "admin". Its bundle goes into a new
    directory.

    The certificate is valid for `days`. With `request`, a file that `request_client` made, the
    authority signs the key of that request rather than making one.
    """

def renew_client(
    pki: _Path,
    client: str,
    *,
    bundle: _Path,
    volumes: Sequence[str] | None = None,
    role: _Role | None = None,
    days: int = 397,
    request: _Path | None = None,
) -> None:
    """Gives an enrolled client a new certificate in `bundle`, in the role and for the volumes that it
    has unless others are given. The one before stays valid until it expires.
    """

def renew_server(pki: _Path, hosts: Sequence[str], *, days: int = 397) -> None:
    """Gives the gateway a new certificate for `hosts`. One that runs uses it from the next connection
    on.
    """

def request_client(client: str, bundle: _Path) -> None:
    """Makes a key in a new bundle, which never leaves this machine, and `request.pem` for the
    authority.
    """

def revoke_client(pki: _Path, client: str, *, vault: Vault | None = None, reason: str = "") -> list[str]:
    """Revokes all certificates of a client, for ever. Gateways end its connections within 10
    seconds: those that use this directory, and with `vault` all gateways of that vault. Returns
    the fingerprints. `reason` is for people.
    """

def certificate_rights(path: _Path) -> CertificateRights:
    """Returns the rights that the certificate of a PEM file states."""

def read_audit(vault: Vault, *, expected: str | None = None) -> AuditLog:
    """Reads and verifies the audit log of a vault: a batch that was removed, altered or reordered is a
    finding. With `expected`, an earlier `head`, so is a removed end.
    """

def run_watchdog() -> int:
    """Runs the watchdog in this process, which a protection started for it. Returns the exit
    code.
    """

def parse_duration(text: str, *, bare: str | None = None) -> timedelta:
    """Reads a length of time such as `500ms`, `60s`, `5m`, `2h`, `1d` or `1w`.

    A bare number counts `bare`, the name of a unit. Without `bare` it is refused, unless it
    is zero.

    >>> hrl.parse_duration("1.5h")
    datetime.timedelta(seconds=5400)
    """

def generate_key() -> str:
    """Returns a new random key as 64 hexadecimal digits, for a key file."""

@final
class CapacityDay(_Value):
    """What a vault holds and is asked for on one day."""

    @property
    def vault_bytes(self) -> int:
        """Bytes in the vault at the end of the day."""
    @property
    def put(self) -> float:
        """Number of put requests."""
    @property
    def get(self) -> float:
        """Number of get requests."""
    @property
    def list(self) -> float:
        """Number of list requests."""
    @property
    def head(self) -> float:
        """Number of head requests."""
    @property
    def delete(self) -> float:
        """Number of delete requests."""

@final
class CapacitySample(_Value):
    """A point of the curves over time."""

    @property
    def start(self) -> str:
        """Time in UTC at which it begins."""
    @property
    def rpo_max_seconds(self) -> float:
        """Greatest RPO."""
    @property
    def spool_bytes_max(self) -> int:
        """Greatest size of all spools."""
    @property
    def sealed_bytes(self) -> int:
        """Bytes of closed segments."""
    @property
    def sent_bytes(self) -> int:
        """Bytes shipped."""

@final
class CapacityVolume(_Value):
    """What one volume needs."""

    @property
    def name(self) -> str:
        """Name of the volume."""
    @property
    def rpo_max_seconds(self) -> float:
        """Greatest RPO."""
    @property
    def rpo_p99_seconds(self) -> float:
        """RPO that is kept for 99 % of the time."""
    @property
    def rpo_median_seconds(self) -> float:
        """Median RPO."""
    @property
    def spool_bytes_max(self) -> int:
        """Greatest size of the spool."""
    @property
    def spool_full_at(self) -> str | None:
        """Time in UTC at which the spool reaches the policy's limit; None if it never does."""
    @property
    def segments(self) -> int:
        """Number of segments."""
    @property
    def written_bytes(self) -> int:
        """Bytes written."""
    @property
    def unique_bytes(self) -> int:
        """Bytes written, each byte of the volume counted once a segment."""
    @property
    def shipped_bytes(self) -> int:
        """Bytes shipped."""
    @property
    def shipped_at(self) -> str:
        """Time in UTC at which the last segment is in the vault."""
    @property
    def is_sampled(self) -> bool:
        """Whether the unique bytes are an estimate."""
    @property
    def days(self) -> list[CapacityDay]:
        """The vault's days, for this volume."""

@final
class CapacityPlan(_Value):
    """What volumes need of a link and a vault."""

    @property
    def from_time(self) -> str:
        """Time in UTC of the first change."""
    @property
    def to_time(self) -> str:
        """Time in UTC of the last change."""
    @property
    def link_use(self) -> float | None:
        """Share of the link that is used; None without a limit."""
    @property
    def is_sustainable(self) -> bool:
        """Whether the backlog of one repetition of the journals is gone in the next."""
    @property
    def least_bytes_per_second(self) -> int | None:
        """Slowest link that keeps `rpo_target` for 99 % of the time; None if no link does."""
    @property
    def steady_bytes(self) -> int | None:
        """Bytes at which the vault no longer grows; None if it still grows."""
    @property
    def volumes(self) -> list[CapacityVolume]:
        """Volumes."""
    @property
    def days(self) -> list[CapacityDay]:
        """The vault's days, for all volumes."""
    @property
    def samples(self) -> list[CapacitySample]:
        """Curves over time."""

def churn(
    segments: Sequence[Segment], *, bucket: float = 60.0, since: _Time | None = None, until: _Time | None = None
) -> Churn:
    """Returns how much was written over time, from segments that follow each other in write
    order.

    `bucket` is the length of an interval in seconds; `since` and `until` bound the time.
    Index and record tables are read, not data.
    """

@overload
def convert(
    inputs: Sequence[_Path], output: _Path, *, to: Literal["native"], replica: Replica | None = None
) -> ImportReport:
    """Converts journals, and returns what was written.

    `to` is "native" for a new segment file, or "ms-hrl" for a new directory with a chain of
    Hyper-V Replica logs. "log-writes" is a new file as the kernel's dm-log-writes writes
    it. `replica` has the key of encrypted segments.
    """

@overload
def convert(
    inputs: Sequence[_Path], output: _Path, *, to: Literal["ms-hrl", "log-writes"], replica: Replica | None = None
) -> ExportReport: ...
@overload
def convert(
    inputs: Sequence[_Path], output: _Path, *, to: str, replica: Replica | None = None
) -> ExportReport | ImportReport: ...
def inspect_hyperv(path: _Path) -> HypervSummary | None:
    """Checks all of a Hyper-V Replica log and describes it. Returns None if the file is not
    such a log.
    """

def plan_capacity(
    replicas: Sequence[Replica],
    *,
    policy: Mapping[str, str] | None = None,
    link: int | None = None,
    latency: float = 0.02,
    since: _Time | None = None,
    until: _Time | None = None,
    days: int | None = None,
    rpo_target: float | None = None,
    progress: Callable[[int, int], object] | None = None,
    deletion_delay: float = 0.0,
) -> CapacityPlan:
    """Simulates shipping and retention with the journals of volumes, and predicts what they
    need.

    `policy` is as for `Protection`. `link` is the throughput of the link to the vault in
    bytes per second, shared by all volumes; None is as much as the policy allows. `latency`
    is the time of one request to the store. `days` of the vault are simulated, by default
    two more than the window of the retention. `rpo_target` asks for the slowest link that
    keeps the RPO below it for 99 % of the time. What was deleted takes space for
    `deletion_delay` seconds.
    """

def resume_plan(
    vault: Vault,
    run: str,
    host: PlanHost,
    *,
    plan: Plan | None = None,
    mode: Literal["test", "real"] = "test",
    planned: bool = False,
    commit: bool = False,
    take_over: bool = False,
    verify_with: list[str] | None = None,
    poll: float = 1.0,
    stopped: Callable[[], bool] | None = None,
    on_step: Callable[[str, dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Continues a run of a plan, and returns its report. If the run is over only the report is
    returned.

    Raises `FencedError` if its runner lives on this machine, unless `take_over`, or if
    another process takes the run meanwhile. `commit` commits a real run that succeeded.

    In a vault without a key anybody who writes to it can write records, so `plan` is needed:
    the records must name the same plan, `mode` and `planned`. Raises `DeniedError` without
    it, and `InvalidInputError` if they name another one. `verify_with` is as for `Plan.run`.
    """

def approve_plan_step(vault: Vault, run: str, step: str, *, approved: bool = True, by: str = "", note: str = "") -> None:
    """Decides about a manual step that waits, by its name or number. Raises `NotFoundError`,
    which lists those that wait.
    """

def plan_report(vault: Vault, run: str) -> dict[str, Any]:
    """Returns the report of a run, which may be under way."""

def plan_runs(vault: Vault) -> list[str]:
    """Returns the identities of the runs of plans in a vault."""
