"""Handles of the crate.

Calls that may do I/O release the interpreter's lock; handles may be used from any thread, and are closed by `close`,
`stop` or the end of their `with` block. A closed handle raises `ValueError`. Offsets and lengths are in bytes, limits in
seconds; times are text in UTC, or nanoseconds since 1970.

A state of a volume (`at`) is named by a point's id or label ("label:L" when it looks like something else), a sequence
number, a time such as "2026-11-21T09:30:00Z", "newest", or "newest-good": the newest point that checks found good, and
where nothing was checked the newest application-consistent point, or the newest. "VOLUME@EPOCH" names the branch of an
ended epoch where a replica is opened.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, final

from typing_extensions import Buffer, disjoint_base

from hrl.protocols import BlockDevice, PlanHost, Quiesce, Specified, Store

__all__ = [
    "ChangeSet",
    "Device",
    "FailedOver",
    "FileDevice",
    "Follower",
    "Gateway",
    "GroupCoordinator",
    "GroupMark",
    "GroupMember",
    "GroupPoint",
    "Key",
    "MemoryDevice",
    "Mirror",
    "NbdServer",
    "Overlay",
    "Pin",
    "Plan",
    "PlanMember",
    "PlanRequest",
    "Protection",
    "Record",
    "RecordIterator",
    "RecoveryPoint",
    "Replica",
    "Segment",
    "Stats",
    "Tap",
    "Ticket",
    "TimelineEntry",
    "Vault",
    "Verdict",
    "View",
    "Volume",
    "abandon_failover",
    "approve_plan_step",
    "cancel_failover",
    "churn",
    "convert",
    "create_authority",
    "enroll_client",
    "generate_key",
    "inspect_hyperv",
    "parse_duration",
    "plan_capacity",
    "plan_report",
    "plan_runs",
    "resume_plan",
    "run_watchdog",
]

_Path = str | PathLike[str]
_Discarded = Literal["zeroes", "undefined", "ignored"]
_Application: TypeAlias = Quiesce | Specified | str
_Applications: TypeAlias = _Application | list[_Application] | tuple[_Application, ...]
_PointKind = Literal["crash", "app", "group-crash", "group-app", "declared"]
_VerdictKind = Literal["integrity", "comparison", "file-system", "application", "command"]

@disjoint_base
class Device:
    """A disk. It has no constructor of its own: see its kinds.

    Any offset and length within the size works; others raise and touch nothing.
    """

    @property
    def name(self) -> str:
        """Name for errors and listings, for example a path."""
    @property
    def size_bytes(self) -> int:
        """Size in bytes; it never changes."""
    @property
    def block_bytes(self) -> int:
        """Logical block size in bytes, a power of two: the unit that is written without tearing."""
    @property
    def read_only(self) -> bool:
        """Refuses writes."""
    @property
    def closed(self) -> bool:
        """It was closed, or what it belongs to was stopped."""
    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`."""
    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fills a writable, contiguous buffer from `offset`, without a copy; gives how much of it, less at the end only.

        No other thread may use the buffer until it returns.

        >>> disk = hrl.MemoryDevice(1 << 20)
        >>> disk.write((1 << 20) - 3, b"end")
        >>> buffer = bytearray(b"........")
        >>> disk.readinto((1 << 20) - 3, buffer)
        3
        >>> buffer
        bytearray(b'end.....')
        """
    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        """Writes any contiguous buffer at `offset`; `durable`: it is on stable storage when the call returns.

        What cannot change (`bytes`, or a `memoryview` of them) is not copied here. Anything else is copied before the
        interpreter's lock is released, in pieces of 4 MiB; the copy is what goes to the device and to the journal, so
        another thread that changes the buffer meanwhile never makes the two differ.
        """
    def zero(self, offset: int, length: int, *, unmap: bool = True, durable: bool = False) -> None:
        """Makes a range read as zeroes. `unmap`: blocks may become holes, the cheap way."""
    def discard(self, offset: int, length: int) -> _Discarded:
        """Tells the device that a range is not needed; what that left: it reads as zeroes, as anything, or as before."""
    def flush(self) -> None:
        """Makes every finished write durable. After a failed flush the device refuses writes until it is reopened."""
    def close(self) -> None:
        """Closes it; calls that are under way end as usual."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class MemoryDevice(Device):
    """A sparse disk in memory: for tests, benchmarks and scratch space. Reads zeroes where it was not written.

    >>> with hrl.MemoryDevice(1 << 40) as disk:
    ...     disk.write(4096, b"hello")
    ...     disk.read(4095, 7)
    b'\\x00hello\\x00'
    """

    def __new__(cls, size_bytes: int) -> Self: ...

@final
class FileDevice(Device):
    """A disk in a regular file or on a block device.

    `create_bytes` creates a sparse file of that size unless it exists. `direct` bypasses the page cache: "auto" where
    the file system can, "always" or "never". `exclusive` refuses a device that somebody else has opened so.

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
    """A writable device over another one, which stays as it is: changes go to `scratch`.

    Either may be a device or a path; a scratch file is created as large as the base, sparse. The scratch device is never
    read where it was not written through the overlay.

    >>> base = hrl.MemoryDevice(1 << 20)
    >>> trial = hrl.Overlay(base, hrl.MemoryDevice(1 << 20))
    >>> trial.write(8192, b"a try")
    >>> trial.read(8192, 5), base.read(8192, 5)
    (b'a try', b'\\x00\\x00\\x00\\x00\\x00')
    >>> trial.changed()
    [(8192, 4096)]
    """

    def __new__(cls, base: Device | BlockDevice | _Path, scratch: Device | BlockDevice | _Path) -> Self: ...
    def changed(self) -> list[tuple[int, int]]:
        """Offset and length of the blocks changed so far."""

@final
class Volume(Device):
    """The volume of a protection: every change through it is captured. It is closed when the protection is stopped.

    A write that the device fails is read back and journaled, or left to a resync; the caller gets the error.
    """

    @staticmethod
    def unprotected(device: Device | BlockDevice | _Path) -> Volume:
        """A volume without protection: writes go straight to the device."""
    @property
    def is_protected(self) -> bool:
        """Changes through it are captured."""

@final
class Tap:
    """The write order of a protected volume, for callers who do the I/O themselves. Closed with the protection."""

    def begin(self, offset: int, length: int, *, limit: float | None = None) -> Ticket:
        """Asks to change a range, and waits while an overlapping change is in flight or its regions are not marked yet.

        `UnavailableError` after `limit` seconds; None waits forever.

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
        """Records that the writer flushed; call it after the device's own flush. Gives the newest sequence."""
    @property
    def mode(self) -> Literal["ordered", "dirty", "resync"]:
        """Mode of capture."""
    @property
    def last_sequence(self) -> int:
        """Sequence given last."""

@final
class Ticket:
    """Permission to change a range; ends with exactly one of `complete`, `zeroed`, `discarded`, `fail` and `cancel`.

    A `with` block that ends without any of them counts as `fail`, and so does a ticket that is forgotten.
    """

    @property
    def offset(self) -> int:
        """First byte that may be changed."""
    @property
    def length(self) -> int:
        """How many."""
    def complete(self, data: Buffer) -> int:
        """The device holds these bytes, as many as the ticket is for. Never waits.

        They are copied now: they must be those that were written. Gives the sequence of the newest record.
        """
    def zeroed(self) -> int:
        """The range reads as zeroes now. Gives the sequence of the newest record."""
    def discarded(self, left: _Discarded) -> int:
        """The range was discarded; `left` says how it reads. Gives the sequence of the newest record."""
    def fail(self) -> None:
        """The device failed: the range is read again, and no point is marked until then."""
    def cancel(self) -> None:
        """Nothing was done to the device."""
    def __enter__(self) -> Ticket: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class RecoveryPoint:
    """A recovery point."""

    @property
    def id(self) -> str:
        """Its identity."""
    @property
    def kind(self) -> _PointKind:
        """What it promises."""
    @property
    def sequence(self) -> int:
        """The state holds every change up to this one."""
    @property
    def time(self) -> str:
        """When it was marked, for people."""
    @property
    def time_ns(self) -> int:
        """The same in nanoseconds since 1970."""
    @property
    def label(self) -> str:
        """Free text; may be empty."""
    @property
    def epoch(self) -> int:
        """Epoch of the volume."""
    @property
    def group(self) -> str | None:
        """Identity of the group point that it is of; see `Vault.group_points`."""
    @property
    def chain(self) -> str:
        """Chain hash of the journal segment that holds the mark."""
    @property
    def pins(self) -> list[Pin]:
        """What keeps it through retention."""
    @property
    def verdicts(self) -> list[Verdict]:
        """What checks of it found: the newest of each kind."""

@final
class Pin:
    """What keeps a recovery point through retention: a pin, or a legal hold."""

    @property
    def point(self) -> str:
        """Identity of the point."""
    @property
    def until(self) -> str | None:
        """Until when; None until it is taken off."""
    @property
    def hold(self) -> bool:
        """It is a legal hold, which is lifted as such only."""
    @property
    def reason(self) -> str:
        """Why, for people."""
    @property
    def since(self) -> str:
        """When it was put."""

@final
class Verdict:
    """What a check of a recovery point found."""

    @property
    def point(self) -> str:
        """Identity of the point."""
    @property
    def kind(self) -> _VerdictKind:
        """What was checked."""
    @property
    def ok(self) -> bool:
        """Nothing was wrong."""
    @property
    def time(self) -> str:
        """When."""
    @property
    def text(self) -> str:
        """For people."""

@final
class TimelineEntry:
    """A stretch of history."""

    @property
    def first(self) -> int:
        """First sequence."""
    @property
    def last(self) -> int:
        """Last sequence."""
    @property
    def from_time(self) -> str:
        """When it begins."""
    @property
    def to_time(self) -> str:
        """When it ends."""
    @property
    def unordered(self) -> str | None:
        """The cause when it holds no restorable state; None when it is in order."""
    @property
    def folded(self) -> bool:
        """Retention folded it into one state: only the last sequence of the fold can be restored."""

@final
class Stats:
    """How a protection is doing."""

    @property
    def mode(self) -> Literal["ordered", "dirty", "resync"]:
        """Mode of capture."""
    @property
    def last_sequence(self) -> int:
        """Newest sequence captured."""
    @property
    def journaled_sequence(self) -> int:
        """Newest sequence that is durable in the local journal."""
    @property
    def replicated_sequence(self) -> int:
        """Newest sequence that is in the vault's catalog."""
    @property
    def rpo_seconds(self) -> float:
        """Age of the oldest captured change that is not in the vault; zero when all are."""
    @property
    def changes(self) -> int:
        """Changes captured: writes, zeroes, discards."""
    @property
    def bytes_captured(self) -> int:
        """Bytes of data captured."""
    @property
    def bytes_stored(self) -> int:
        """Bytes of sealed segments written."""
    @property
    def queue_bytes(self) -> int:
        """Memory of the queue, in bytes."""
    @property
    def spool_bytes(self) -> int:
        """Segments waiting for the vault, in bytes."""
    @property
    def backlog_bytes(self) -> int:
        """What is captured and not in the vault, in bytes: queue and spool."""
    @property
    def ship_bytes_per_second(self) -> int:
        """Speed of shipping of late, or the bandwidth allowed now where that is less; 0 when nothing has gone yet."""
    @property
    def eta_seconds(self) -> float | None:
        """Time until the backlog is in the vault at that speed, if nothing more were written; None when the vault does not
        answer or the speed is not known."""
    @property
    def marked_regions(self) -> int:
        """Regions that a crash now would have to read again."""
    @property
    def resync_bytes_left(self) -> int:
        """Bytes that a resync has still to read."""
    @property
    def resync_bytes_read(self) -> int:
        """Bytes that the resync under way, or the last, has read."""
    @property
    def points(self) -> int:
        """Points marked in this session."""
    @property
    def vault_available(self) -> bool:
        """The vault took the last segment."""
    @property
    def fenced(self) -> bool:
        """Another source has the volume now; nothing is replicated any more."""
    @property
    def provisional(self) -> bool:
        """A failover to here is not committed: what is written stays in the spool."""
    @property
    def handed_over(self) -> bool:
        """A planned failover has the volume: writes are refused."""

@final
class Protection:
    """One protected volume, running. Leaving the `with` block stops it cleanly.

    `disk` is a path, a `Device` or an object with the methods of `BlockDevice`; nothing else may write to it from now on.
    `volume` is its name in the vault, by default that of the file. `state` is the local directory of this agent (dirty
    map, spool, identity); it must not be on the protected disk. `policy` sets limits and choices by name. `take_over`
    takes the volume from another source, which must be gone. `on_event` is called with what happens, from any thread, and
    must return soon: with a dictionary of `time`, `volume`, `kind`, `message`, and `mode` and `cause` for the kind
    "mode-changed". The sinks of `hrl.events` are made for it.

    `FencedError` when another agent or source has the volume; kind "changed" when the disk is not the one that was
    protected; `WrongKeyError`; `UnavailableError` when the vault cannot be reached.

    >>> vault = hrl.Vault("vault", create=True)
    >>> disk = hrl.MemoryDevice(1 << 20)
    >>> with hrl.Protection(disk, vault=vault, state="state", volume="v") as protection:
    ...     protection.wait_ordered()
    ...     protection.volume.write(4096, bytearray(b"captured"))
    ...     point = protection.mark("first", kind="declared")
    >>> vault.replica("v").view("first").read(4096, 8)
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
        on_event: Callable[[dict[str, str]], object] | None = None,
        applications: _Applications | None = None,
    ) -> Self: ...
    @property
    def volume_name(self) -> str:
        """Name in the vault."""
    @property
    def size_bytes(self) -> int:
        """Size of the volume in bytes."""
    @property
    def volume(self) -> Volume:
        """The volume to write to."""
    @property
    def tap(self) -> Tap:
        """The write order, for callers who do the I/O themselves."""
    def mark(self, label: str = "", *, kind: _PointKind = "crash") -> RecoveryPoint:
        """Marks a recovery point now; it is durable in the local journal when the call returns.

        `NotOrderedError` during initial replication, resync or overflow.
        """
    def mark_quiesced(
        self,
        application: _Applications,
        label: str = "",
        *,
        limit: float = 10.0,
    ) -> RecoveryPoint:
        """Marks an application-consistent point: quiesce, flush, mark, release, in this order.

        `application` is one of `FileSystemFreeze`, `PostgreSql` and their like, a specification as text, an object with the
        methods of `Quiesce`, or a list of these, quiesced in order and released in reverse. Those that the library knows
        are held by a process of their own, which releases them at the limit whatever happens to this one.

        No point, and the application released, when it cannot be quiesced, when quiesce to mark took more than `limit`
        (`UnavailableError`), and for the errors of `mark`.
        """
    def join_group(
        self, group: str, coordinators: Sequence[str], *, identity: _Path, application: _Applications | None = None
    ) -> GroupMember:
        """Makes the volume a member of a consistency group: `HOST` or `HOST:PORT` (20004) of its coordinators, tried in this
        order, with the certificate in the bundle `identity` (see `enroll_client`). Connects in the background.

        `application` is quiesced for the group's application-consistent points.
        """
    def mark_app(self, label: str = "") -> RecoveryPoint:
        """As `mark_quiesced`, with `applications` or what the policy names as `quiesce`, and its `quiesce_limit_ms`."""
    def stats(self) -> Stats:
        """How it is doing."""
    def timeline(self) -> list[TimelineEntry]:
        """The history that the vault knows, in stretches."""
    def wait_ordered(self, limit: float = 60.0) -> None:
        """Waits until initial replication or resync is complete; `UnavailableError` at the limit."""
    def wait_replicated(self, limit: float = 60.0) -> int:
        """Waits until everything captured before is in the vault; gives the newest sequence there.

        `UnavailableError` at the limit.
        """
    def resync(self) -> None:
        """Reads the whole disk again, beside the writes. Older points stay usable; none is marked until it is complete."""
    def read(self, offset: int, length: int) -> bytes:
        """As `Device.read` of the volume."""
    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        """As `Device.write` of the volume."""
    def flush(self) -> None:
        """As `Device.flush` of the volume."""
    def stop(self, limit: float = 60.0) -> None:
        """Ends the session cleanly: seals and ships what there is, waiting for the vault up to the limit.

        The volume and the tap are closed; stop servers of the volume before. A protection that is forgotten without a
        stop leaves what a crash would leave: the next session reads the marked regions again.
        """
    def __enter__(self) -> Protection: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Key:
    """A key-encryption key: it wraps the keys of volumes. Its text and `repr` show its `id`, never the key.

    `content` is 32 bytes, or 64 hexadecimal digits with white space around them; errors name `origin` instead of it.

    >>> hrl.Key(bytes(32))
    Key(ea32c149309af722583f4ee84182d50e)
    """

    def __new__(cls, content: bytes | str, *, origin: str = "the key given") -> Self: ...
    @staticmethod
    def from_file(path: _Path) -> Key:
        """Reads a key file."""
    @property
    def id(self) -> str:
        """Name of the key, which tells nothing about it: errors name by it the key that is needed."""
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Vault:
    """A store with volumes in it: a directory (a path or file://PATH), an object store (s3://, az://, gs://; credentials
    come from the environment), or a `store` of your own.

    `key`, or the content of `key_file`, is the key-encryption key of sealed volumes. `create` makes a new vault.
    """

    def __new__(
        cls,
        url: _Path | None = None,
        *,
        store: Store | None = None,
        key: Key | None = None,
        key_file: _Path | None = None,
        create: bool = False,
    ) -> Self: ...
    def volumes(self) -> list[dict[str, Any]]:
        """What is known of every volume."""
    def group_points(self) -> list[GroupPoint]:
        """The points of consistency groups, oldest first, each once with its members in this vault."""
    def replica(self, name: str) -> Replica:
        """One volume, as of now; `NotFoundError` when there is none of that name."""
    def rotate_key(self, volume: str, new_key: Key) -> dict[str, Any]:
        """Wraps the key of a volume anew with `new_key`, and takes the wrapping of the vault's key away.

        No data is rewritten, and who has the volume open goes on. Interrupted, it leaves the volume openable with one of
        the two; run it again to finish. Gives `wrapped` and `unwrapped` (false: done before), and `others`: the objects of
        wrapped keys that other keys open.
        """
    def shred(self, volume: str, *, data: bool = False, override_legal_hold: bool = False) -> dict[str, Any]:
        """Makes a sealed volume unreadable for ever by deleting every wrapped key of it; stop its source first.

        `data`: also deletes everything else, which frees its name. `FencedError` while a point is under legal hold,
        `WrongKeyError` when that cannot be known. Gives `was_shredded`, `keys_deleted`, `objects_deleted` and
        `bytes_deleted`.
        """
    @property
    def closed(self) -> bool:
        """It was closed."""
    def close(self) -> None:
        """Lets the store go; what was opened from it works on."""
    def __enter__(self) -> Vault: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Replica:
    """One volume in a vault, as of the moment it was opened."""

    @property
    def info(self) -> dict[str, Any]:
        """Its name, id, size_bytes, block_bytes, created, sealed, extents_only and shredded."""
    @property
    def totals(self) -> tuple[int, int, int]:
        """Segments, bytes of data captured, bytes stored."""
    def point_bytes(self) -> list[tuple[str, int, int]]:
        """For each point: its identity, bytes captured and stored since the one before."""
    def points(self) -> list[RecoveryPoint]:
        """Every recovery point, oldest first."""
    def newest_good(self) -> tuple[RecoveryPoint, str]:
        """The point that "newest-good" means, and why: "checked", "application-consistent" or "newest"."""
    def lifecycle(self) -> dict[str, Any]:
        """Where the volume is: its stage, epoch, source, current step, steps, tests and branches."""
    def branch(self, epoch: int) -> Replica:
        """What the source of an ended epoch wrote after the failover, as a volume to read. `NotFoundError` lists them."""
    def drop_branch(self, epoch: int) -> None:
        """Gives a branch up; retention deletes its data."""
    def begin_test(self, name: str, at: str = "newest-good") -> dict[str, Any]:
        """Records that a test failover begins, and keeps its state through retention; gives its `sequence` to serve.

        `AlreadyExistsError` when another host has a test of this name; the same one again is no error.
        """
    def end_test(self, name: str) -> None:
        """Records that a test failover is cleaned up. `NotFoundError` lists those that there are."""
    def timeline(self) -> list[TimelineEntry]:
        """The history in stretches: ordered ones, and gaps with their cause."""
    def segments(self) -> list[dict[str, Any]]:
        """The segments in write order: object, kind, sequences, times, sizes, and "arrived_ns", the time of its file where
        the vault is a local directory (else None)."""
    def resolve(self, at: str = "newest") -> int:
        """The sequence that a state names; `NotFoundError` when it cannot be restored."""
    def view(self, at: str = "newest") -> View:
        """The volume as of a state, without a restore."""
    def restore(
        self,
        at: str,
        to: _Path,
        *,
        overwrite: bool = False,
        device: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[str, int]:
        """Writes a state to a new sparse file, or with `device` over an existing disk.

        `progress` is told the bytes done and in all; False from it, or an exception, stops the work.
        """
    def changes(self, since: str, until: str) -> ChangeSet:
        """What was written after one state, up to another."""
    def churn(
        self,
        *,
        bucket: float = 60.0,
        since: str | None = None,
        until: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[str, Any]:
        """How much was written over time, from the volume's journals; see `hrl.churn`. `progress` is told segments."""
    def verify(self, *, progress: Callable[[int, int], object] | None = None) -> dict[str, Any]:
        """Reads and checks everything that is stored of the volume; "sound" tells whether all of it is right."""
    def pin(self, point: str, *, until: str | None = None, hold: bool = False, reason: str = "") -> Pin:
        """Keeps a point through retention: until a time (RFC 3339), for ever, or with `hold` as a legal hold."""
    def unpin(self, point: str, *, hold: bool = False) -> None:
        """Takes the pin of a point off, or with `hold` its legal hold; neither takes off the other."""
    def record_verdict(self, point: str, kind: _VerdictKind, ok: bool, text: str = "") -> Verdict:
        """Stores what a check of a point found; retention never drops the last point whose checks were all good."""
    def compact(
        self,
        retention: str | None = None,
        *,
        dry_run: bool = False,
        fold_all: bool = False,
        scratch: _Path | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[str, Any]:
        """Carries retention out once, and says what it did (or with `dry_run` would do).

        `retention` is text such as "2h all; 24h hourly; 30d daily; bytes 100G" (None: the default). With `fold_all`
        whatever it does not keep goes at once, also where that saves few bytes. Restores and views that run go on.
        """
    @property
    def closed(self) -> bool:
        """It was closed."""
    def close(self) -> None:
        """Lets the store go; what was opened from it works on."""
    def __enter__(self) -> Replica: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class View(Device):
    """A volume as of one sequence, readable without a restore; read-only."""

    @property
    def sequence(self) -> int:
        """It shows every change up to this one."""

@final
class ChangeSet:
    """What was written after one state, up to another; exact. Iterating gives the same as `runs`."""

    @property
    def since(self) -> int:
        """Sequence of the earlier state."""
    @property
    def until(self) -> int:
        """Sequence of the later state."""
    @property
    def total_bytes(self) -> int:
        """Bytes that were written, zeroed or discarded."""
    def runs(self) -> list[tuple[int, int, bool]]:
        """Offset, length, and whether the range reads as zeroes in the later state."""
    def write_to_file(self, path: _Path) -> int:
        """Writes the changed bytes at their own offsets into a new sparse file; gives their number."""
    def __iter__(self) -> Iterator[tuple[int, int, bool]]: ...
    def __len__(self) -> int: ...

@final
class Segment:
    """A sealed journal segment in a local file. Iterating gives its records in order, one frame in memory at a time.

    `replica` has the key of a sealed one.

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
    def summary(self) -> dict[str, Any]:
        """What the segment says of itself."""
    def verify(self) -> None:
        """Reads and checks all of it; `CorruptError` names the place."""
    @property
    def closed(self) -> bool:
        """It was closed."""
    def close(self) -> None:
        """Closes it; the data of records that are still held stays readable."""
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
        """Its place."""
    @property
    def time(self) -> str:
        """When it was captured; for people, never for order."""
    @property
    def time_ns(self) -> int:
        """The same in nanoseconds since 1970."""
    @property
    def kind(
        self,
    ) -> Literal["write", "zero", "discard", "touch", "flush", "mark", "unordered-begin", "unordered-end"]:
        """What it says; "touch" is a change whose data was not captured."""
    @property
    def offset(self) -> int:
        """First byte of the volume that it changes."""
    @property
    def length(self) -> int:
        """How many; 0 when it changes none."""
    @property
    def data(self) -> memoryview | None:
        """What was written: a read-only view without a copy, which keeps its frame in memory. None for other kinds."""
    @property
    def detail(self) -> str:
        """Label of a mark, cause of an unordered interval; else empty."""

@final
class RecordIterator:
    """Gives the records of a segment. One thread at a time."""

    def __iter__(self) -> RecordIterator: ...
    def __next__(self) -> Record: ...

@final
class FailedOver:
    """A volume that failed over to here, running: writable as of a state at once, copied to its disk behind the reads.

    Nothing is final before `commit`. Leaving the `with` block stops it cleanly; `start` with the same directory goes on.

    >>> vault = hrl.Vault("vault", create=True)
    >>> with hrl.Protection(hrl.MemoryDevice(1 << 20), vault=vault, state="home", volume="v") as protection:
    ...     protection.wait_ordered()
    ...     point = protection.mark("good")
    >>> with hrl.FailedOver.start("v", vault=vault, state="away", disk=hrl.MemoryDevice(1 << 20)) as over:
    ...     over.volume.write(0, b"written here")
    ...     over.commit()
    >>> vault.replica("v").lifecycle()["stage"]
    'committed'
    """

    @staticmethod
    def start(
        volume: str,
        *,
        vault: Vault,
        state: _Path,
        disk: Device | BlockDevice | _Path,
        at: str = "newest-good",
        planned: float | None = None,
        change_point: bool = False,
        disk_reads_zero: bool = False,
        policy: Mapping[str, str | int] | None = None,
        on_event: Callable[[dict[str, str]], object] | None = None,
    ) -> FailedOver:
        """Fails over: returns when the volume can be read and written. A failover under way in `state` goes on.

        `planned` asks the source to hand over what is left, and waits so many seconds for it. `change_point` begins anew as
        of `at`, before the commit. `disk_reads_zero`: the disk is a new sparse file. `FencedError` when another failover is
        under way or was committed; `UnavailableError` when the source does not hand over in time.
        """
    @staticmethod
    def preview(
        volume: str,
        *,
        vault: Vault,
        state: _Path,
        disk: Device | BlockDevice | _Path,
        at: str = "newest-good",
        planned: float | None = None,
    ) -> dict[str, Any]:
        """What `start` would do, its `steps` in sentences; nothing is changed."""
    @property
    def volume(self) -> Volume:
        """The volume to read and write."""
    @property
    def volume_name(self) -> str:
        """Name in the vault."""
    @property
    def started(self) -> dict[str, Any]:
        """The state that it was served as of: `sequence`, `point`, `time`, `time_ns`; and the `seconds` that it took."""
    def hydration(self) -> tuple[int, int, bool]:
        """Bytes of data in the disk, bytes in all, and whether the disk is whole."""
    def wait_hydrated(self, limit: float = 60.0) -> None:
        """Waits until the disk is whole; `UnavailableError` at the limit."""
    def commit(self) -> None:
        """Makes it final: the old source is fenced, its later writes are a branch, and what is written here is shipped."""
    def stats(self) -> Stats:
        """How its protection is doing."""
    def mark(self, label: str = "") -> RecoveryPoint:
        """Marks a crash-consistent point."""
    def mark_app(self, label: str = "") -> RecoveryPoint:
        """Marks an application-consistent point with the applications of the policy."""
    def wait_replicated(self, limit: float = 60.0) -> int:
        """Waits until everything is in the vault; not before the commit."""
    def cancel(self) -> None:
        """Gives it up before the commit: what was written is dropped, and the source goes on as before."""
    def stop(self, limit: float = 60.0) -> None:
        """Ends the session cleanly; `start` goes on from there."""
    def detach(self, limit: float = 60.0) -> None:
        """Ends the session and leaves a plain disk, for a `Protection` with the same directory; it must be whole."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Follower:
    """A disk at the old site that follows the volume, written only where it differs. One thread at a time uses it.

    `state` is the directory of the agent that protected the disk, which has ended. What its spool still has is handed in to
    the branch of its epoch first.
    """

    def __new__(cls, volume: str, *, vault: Vault, state: _Path, disk: Device | BlockDevice | _Path) -> Self: ...
    def status(self) -> dict[str, Any]:
        """The `sequence` that the disk holds, the `bytes_differing` from it, and `why_everywhere` where that is all."""
    def bytes_behind(self, at: str = "newest") -> int:
        """Bytes that `catch_up` would write."""
    def catch_up(self, at: str = "newest", *, progress: Callable[[int, int], object] | None = None) -> dict[str, Any]:
        """Brings the disk to a state: sequences `from` and `to`, `bytes_diverged` and `bytes_written`."""
    def fail_back(
        self,
        *,
        planned: float | None = None,
        policy: Mapping[str, str | int] | None = None,
        on_event: Callable[[dict[str, str]], object] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[Protection, dict[str, Any]]:
        """Takes the volume home: the protection on this disk, and what was written. The other site hands over and is fenced.

        Without `planned` (seconds) the other site is not asked.
        """
    def close(self) -> None:
        """Lets go of disk and directory."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def abandon_failover(vault: Vault, volume: str) -> dict[str, Any] | None:
    """Gives up the failover that is under way, when the site that it was to is lost with its state directory.

    Its newest step as in the lifecycle, or None when none is under way. Should that site come back, its commit is refused.
    """

def cancel_failover(vault: Vault, volume: str, state: _Path) -> None:
    """Gives up a failover that is not committed and whose process has ended."""

@final
class NbdServer:
    """A listening NBD server. Leaving the `with` block stops it.

    With `tls`, a directory of certificates as `create_authority` makes it, nothing is served without TLS, and with
    `tls_verify` only to clients that are enrolled for the volume (of a device: for the export's name). `on_refused` is
    told of each other one by a line, on a thread of the server.
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
    ) -> NbdServer:
        """Serves a volume that failed over to here."""
    @staticmethod
    def device(
        address: str,
        device: Device | BlockDevice | _Path,
        name: str,
        *,
        tls: _Path | None = None,
        tls_verify: bool = True,
        on_refused: Callable[[str], object] | None = None,
    ) -> NbdServer:
        """Serves a device that nobody protects."""
    @staticmethod
    def replica(
        address: str,
        replica: Replica,
        at: str,
        *,
        scratch: _Path | None = None,
        changes: ChangeSet | None = None,
        tls: _Path | None = None,
        tls_verify: bool = True,
        on_refused: Callable[[str], object] | None = None,
    ) -> NbdServer:
        """Serves a state of a volume: read-only, or writable with its changes in a new `scratch` file.

        `changes` are shown as a dirty bitmap, which backup programs read.
        """
    @property
    def uri(self) -> str:
        """Where clients find it."""
    def stats(self) -> tuple[int, int, int, int]:
        """Requests answered, those with errors, bytes read, bytes written."""
    def stop(self) -> None:
        """Ends every connection and stops listening."""
    def __enter__(self) -> NbdServer: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class Mirror:
    """Makes the vault `target` follow the vault `source`, without the keys of its volumes.

    Where `target` was opened with the key, what its catalog names is never deleted. `volumes` are all by default;
    `scratch` is a directory for copies of objects above 32 MiB. One at a time for each target.
    """

    def __new__(
        cls, source: Vault, target: Vault, *, volumes: Sequence[str] | None = None, scratch: _Path | None = None
    ) -> Self: ...
    def run(self) -> list[dict[str, Any]]:
        """Catches up once; call it again to follow. What fails of one volume is in its entry and holds up no other.

        An entry has `volume`, `source_version`, `version` (never above it), `lag` in seconds, `objects_copied`,
        `bytes_copied`, `objects_deleted`, `source_lacks`, and `failure` and `failure_kind`, or None.
        """
    def stop(self) -> None:
        """Ends a run that another thread is in, and those that follow."""

@final
class Gateway:
    """A store served over HTTPS with client certificates, in front of a vault. Leaving the `with` block stops it.

    With `cache`, a directory, segments are acknowledged when they are durable there; otherwise when the vault has them.
    `acknowledge` says it: "gateway", or "vault" to take nothing new into the cache and empty it.
    `metrics` is an address for `/metrics` and `/healthz` without TLS.
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
    ) -> Self: ...
    @property
    def address(self) -> str:
        """Where it listens."""
    @property
    def metrics_address(self) -> str | None:
        """Where it serves metrics without TLS."""
    def stats(self) -> dict[str, int | bool]:
        """Counters now: connections, requests, errors, bytes, what the cache holds, whether the vault takes it."""
    def stop(self, limit: float = 60.0) -> bool:
        """Stops; tries to empty the cache for up to `limit` seconds. True when nothing is left in it."""
    def __enter__(self) -> Gateway: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class GroupMark:
    """The place of a group point in one member."""

    @property
    def volume(self) -> str:
        """Name of the volume."""
    @property
    def point(self) -> str:
        """Identity of the recovery point in it."""
    @property
    def sequence(self) -> int:
        """Its place in the write order of the volume."""
    @property
    def time(self) -> str:
        """When it was marked, by the clock of its machine."""

@final
class GroupPoint:
    """One cut across the volumes of a group."""

    @property
    def id(self) -> str:
        """Its identity; every member can be restored or served at it."""
    @property
    def kind(self) -> str:
        """`group-crash` or `group-app`."""
    @property
    def time(self) -> str:
        """When the coordinator began it."""
    @property
    def group(self) -> str:
        """Name of the group."""
    @property
    def label(self) -> str:
        """Its label; may be empty."""
    @property
    def members(self) -> int:
        """Members that it was made of."""
    @property
    def complete(self) -> bool:
        """Every member's mark is known, so that all can be restored to this cut."""
    @property
    def marks(self) -> list[GroupMark]:
        """Where it is in each member."""
    @property
    def held_seconds(self) -> float | None:
        """Longest hold of a member's writers; `None` for a point found in a vault."""

@final
class PlanMember:
    """A volume of a plan."""

    @property
    def volume(self) -> str:
        """Its name in the vault."""
    @property
    def disk(self) -> Path | None:
        """The disk that a failover fills."""
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
    """What a `PlanHost` is asked for."""

    @property
    def run(self) -> str:
        """Identity of the run."""
    @property
    def mode(self) -> Literal["test", "real"]:
        """Test or real."""
    @property
    def planned(self) -> bool:
        """The source is there still: its last bytes come first."""
    @property
    def at(self) -> str:
        """The state to come up at: "newest", a sequence, or the id of a point or group point."""
    @property
    def state(self) -> Path | None:
        """Directory for the failover's state: the member's, in a test one of the run's in it."""
    @property
    def nbd(self) -> str | None:
        """Address of this mode."""
    @property
    def limit(self) -> float:
        """How long it may take, in seconds; the host keeps to it."""
    @property
    def stopped(self) -> bool:
        """Looked at now and then: when true the host gives up with an error."""

@final
class Plan:
    """A recovery plan, from TOML. An error names the key, its line, what was expected and what is there."""

    def __new__(cls, text: str, *, name: str = "the plan") -> Self: ...
    @staticmethod
    def from_file(path: _Path) -> Plan:
        """Reads a plan from a file."""
    @property
    def name(self) -> str:
        """Its name."""
    @property
    def text(self) -> str:
        """The TOML that it was read from."""
    @property
    def groups(self) -> list[str]:
        """Names of its groups, as the file lists them."""
    @property
    def members(self) -> list[PlanMember]:
        """Its volumes."""
    def steps(self, mode: Literal["test", "real"]) -> list[dict[str, Any]]:
        """The steps of a run in the order of the plan."""
    def check(self, vault: Vault) -> dict[str, Any]:
        """The state that each volume would come up at, what that loses (`rpo_ms`), and `problems` in the way."""
    def run(
        self,
        vault: Vault,
        host: PlanHost,
        *,
        run: str | None = None,
        mode: Literal["test", "real"] = "test",
        planned: bool = False,
        failed_at: str | None = None,
        commit: bool = False,
        poll: float = 1.0,
        stopped: Callable[[], bool] | None = None,
        on_step: Callable[[str, dict[str, Any]], object] | None = None,
    ) -> dict[str, Any]:
        """Runs the plan to its end; its report. That a step failed is no error, but the report's `outcome`.

        `stopped` is asked every `poll` seconds, on a thread of the library: true ends what is under way, and the run can be
        resumed. `on_step` is told the run and the step when one begins and when it has ended.
        """

@final
class GroupCoordinator:
    """The coordinator of a consistency group. Leaving the `with` block stops it.

    It remembers its members in the directory `state` and lets clients in that are enrolled in `pki`, each with the volumes
    of its certificate. Writers are never held longer than `budget` seconds. With `interval` and `app_interval` (seconds; 0
    is never) crash- and application-consistent points are made by themselves; applications are quiesced within
    `quiesce_limit`.
    """

    def __new__(
        cls,
        name: str,
        *,
        state: _Path,
        pki: _Path,
        listen: str = "0.0.0.0:20004",
        budget: float = 0.3,
        interval: float = 0.0,
        app_interval: float = 0.0,
        quiesce_limit: float = 10.0,
        on_event: Callable[[dict[str, str]], object] | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str:
        """Where it listens."""
    def point(self, label: str = "", *, app: bool = False) -> GroupPoint:
        """Makes a point of the group now; `UnavailableError` says which member is in the way."""
    def remove(self, volume: str) -> None:
        """Takes a member out that is not coming back; `NotFoundError` when it is none."""
    def status(self) -> dict[str, Any]:
        """Members, counters, the newest point, and how long writers were held."""
    def stop(self) -> None:
        """Stops."""
    def __enter__(self) -> GroupCoordinator: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@final
class GroupMember:
    """A volume's membership in a group, see `Protection.join_group`. Leaving the `with` block closes it: the volume stays a
    member, and points of the group wait for it."""

    def stats(self) -> dict[str, Any]:
        """Whether it is connected, rounds, points, the longest hold, and what is wrong."""
    def wait_connected(self, limit: float = 30.0) -> None:
        """Waits until a coordinator has taken it in; `UnavailableError` at the limit."""
    def leave(self, limit: float = 30.0) -> None:
        """Leaves the group; `UnavailableError` when no coordinator confirms it within `limit` seconds."""
    def close(self) -> None:
        """Ends the connection."""
    def __enter__(self) -> GroupMember: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def create_authority(pki: _Path, hosts: Sequence[str]) -> None:
    """Makes a certificate authority in a new directory, and a gateway's certificate that is good for `hosts`."""

def enroll_client(pki: _Path, client: str, *, volumes: Sequence[str], bundle: _Path) -> None:
    """Makes and pins a certificate for a client that may touch `volumes` alone; its bundle goes into a new directory."""

def run_watchdog() -> int:
    """Runs the watchdog in this process, which a protection started for it; gives the exit code."""

def parse_duration(text: str, *, bare: str | None = None) -> timedelta:
    """Reads a length of time such as `500ms`, `60s`, `5m`, `2h`, `1d` or `1w`.

    A bare number counts `bare`, the name of a unit, and is refused without it; zero needs no unit.

    >>> hrl.parse_duration("1.5h")
    datetime.timedelta(seconds=5400)
    """

def generate_key() -> str:
    """64 hexadecimal digits for a key file."""

def churn(
    segments: Sequence[Segment], *, bucket: float = 60.0, since: str | None = None, until: str | None = None
) -> dict[str, Any]:
    """How much was written over time, from segments that follow each other in write order.

    "buckets" of `bucket` seconds, those with writes only, each with its "start", "records", "written_bytes" (data written;
    bytes touched where data is not captured), "unique_bytes" (each byte of the volume once), "stored_bytes" (compressed and
    sealed) and "resync_stored_bytes" (what a first copy or resync journaled, in none of the others). "total", "top" (the
    bucket with the most bytes), "duration_seconds", "percentiles" of the bytes of all buckets, quiet ones too.
    "segments_folded" hold what retention left of older churn, and are not counted. "is_sampled" tells that unique bytes of
    some bucket are an estimate. Index and record tables are read, not data.
    """

def convert(inputs: Sequence[_Path], output: _Path, *, to: str, replica: Replica | None = None) -> dict[str, Any]:
    """Converts journals: `to` is native (a new file), ms-hrl (a new directory with a chain of Hyper-V logs) or log-writes (a
    new file as dm-log-writes of the kernel writes it)."""

def inspect_hyperv(path: _Path) -> dict[str, Any] | None:
    """What a Hyper-V log holds, after checking all of it; None when the file is not one."""

def plan_capacity(
    replicas: Sequence[Replica],
    *,
    policy: Mapping[str, str] | None = None,
    link: int | None = None,
    latency: float = 0.02,
    since: str | None = None,
    until: str | None = None,
    days: int | None = None,
    rpo_target: float | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Plays the journals of volumes through a model of shipping and retention, and predicts what they need.

    `policy` as for `Protection`; `link` is what the link to the vault carries in bytes a second, all volumes together, None
    for as much as the policy allows; `latency` is the time that the store takes for a request; `days` of the vault are
    played, by default two more than the window of the retention; `rpo_target` asks for the slowest link with which the RPO
    keeps below it for 99 % of the time ("least_bytes_per_second", None when no link does).

    "volumes" have the RPO (max, p99, median), the spool's greatest size and when the policy's is full ("spool_full_at"),
    bytes and "days"; "days" are those of all volumes: bytes in the vault at their end and requests by verb; "steady_bytes"
    is where the vault no longer grows; "samples" are the curves over time. "is_sustainable" tells that the backlog of one
    repetition of the journals is gone in the next, "link_use" the share of the link that is used.
    """

def resume_plan(
    vault: Vault,
    run: str,
    host: PlanHost,
    *,
    commit: bool = False,
    take_over: bool = False,
    poll: float = 1.0,
    stopped: Callable[[], bool] | None = None,
    on_step: Callable[[str, dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Goes on with a run of a plan where it was; its report. Of one that is over, only the report.

    `FencedError` when its runner lives on this machine, unless `take_over`, or when another one takes it meanwhile. `commit`
    commits a real run that went well.
    """

def approve_plan_step(vault: Vault, run: str, step: str, *, approved: bool = True, by: str = "", note: str = "") -> None:
    """Decides about a manual step that waits, by its name or number. `NotFoundError` names those that wait."""

def plan_report(vault: Vault, run: str) -> dict[str, Any]:
    """How a run of a plan went, or goes."""

def plan_runs(vault: Vault) -> list[str]:
    """The runs of plans in a vault."""
