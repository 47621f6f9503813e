"""Checks of a recovery point: its file systems, and a command of the user's. `boot` and `scan` have other checks.

Programs that read what is on the disk run in a box (`box`), unless the operator says otherwise. The kernel mounts, and only
kinds of file systems whose drivers are kept.

A check that was made gives an `Outcome`, good or bad. A check that could not be made (no root, a missing tool or kernel
driver) is `Refused`, and is no verdict on the point. A request that the point could not answer makes any outcome bad.

A file system is mounted first, as after a power failure, so that its log is replayed into the scratch file. Only then can
its own checker distinguish damage from a crash.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hrl import Replica
from hrl.cli.box import MOUNT, Bind
from hrl.cli.exits import Exit, Refused
from hrl.cli.programs import need
from hrl.cli.served_point import Disk, Served, block_device, node
from hrl.words import clean, count

Kind = Literal["integrity", "file-system", "application", "command", "scan"]
# A catalog takes no longer text for a verdict.
TEXT_BYTES_MAX = 512
TAIL_LINES = 3
# With less room than this for the scratch file, a failed request may be a failed write to it.
SCRATCH_BYTES_MIN = 16 << 20
CHECKERS = {
    "ext2": ["e2fsck", "-f", "-n"],
    "ext3": ["e2fsck", "-f", "-n"],
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly"],
}
# Kinds that are mounted, by what blkid calls them: with a driver that somebody keeps, because the content may be hostile.
KINDS = {name: name for name in ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "exfat")} | {
    "ntfs": "ntfs3",
    "iso9660": "iso9660",
    "udf": "udf",
    "squashfs": "squashfs",
    "erofs": "erofs",
}
# A copy may be checked on a host that has the original mounted. An ext file system never gets the panic that it asks for.
MOUNT_OPTIONS = {name: ",errors=remount-ro" for name in ("ext2", "ext3", "ext4")} | {"xfs": ",nouuid"}
# Partitions of these types are meant for file systems (Linux of an MBR; data, root of x86-64 and home of a GPT).
PARTITIONS_WITH_FILES = {
    "0x83",
    "0fc63daf-8483-4772-8e79-3d69d8477de4",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915",
}
EXTENDED_PARTITIONS = {"0x5", "0xf", "0x85"}
SECTOR_BYTES = 512


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    kind: Kind
    ok: bool
    text: str

    def bounded(self) -> "Outcome":
        """Returns the same with a text that a verdict can hold: one line, and not too long."""
        line = " ".join(clean(self.text).split())
        return replace(self, text=line.encode(errors="replace")[:TEXT_BYTES_MAX].decode(errors="ignore"))

    def with_reads_of(self, point: Served) -> "Outcome":
        """Returns the same; a bad outcome if the point could not be read. Refuses if the scratch file was full."""
        failed = point.failed_requests()
        if not failed:
            return self
        if shutil.disk_usage(point.directory).free < SCRATCH_BYTES_MIN:
            problem = f"{point.directory.parent} has no room left for what is written (set TMPDIR)"
            raise Refused(f"cannot check a point: {problem}", Exit.FULL)
        return replace(self, ok=False, text=f"{count(failed, 'request')} to the point failed; {self.text}")


@dataclass(frozen=True)
class Place:
    """A block device that may hold a file system: the whole disk, or a partition."""

    device: str
    partition: int | None
    type: str
    usage: str
    uuid: str
    expected: bool

    @property
    def name(self) -> str:
        return f"partition {self.partition}: " if self.partition else ""


def check_integrity(replica: Replica) -> Outcome:
    """Checks everything that is stored of the volume: checksums, encryption, chain."""
    report = replica.verify()
    if report["sound"]:
        return Outcome("integrity", True, f"{count(report['segments'], 'segment')} sound")
    return Outcome("integrity", False, f"{count(len(report['findings']), 'finding')}: {report['findings'][0][1]}")


def check_command(
    point: Served, command: str, limit: float, variables: dict[str, str] | None = None, binds: tuple[Bind, ...] = ()
) -> Outcome:
    """Runs a command of the user's. Exit status 0 within the limit in seconds is good."""
    binds = binds if point.box is None else (point.server_socket(), *binds)
    shell = ["/bin/sh", "-c", command]
    ended = point.run(shell, *binds, limit=limit, variables=point.variables | (variables or {}))
    how = f"not done within {limit:g} s" if ended.code is None else f"exit status {ended.code}"
    said = ended.tail(TAIL_LINES)
    return Outcome("command", ended.ok, f"{how}: {said}" if said else how).with_reads_of(point)


def check_file_systems(
    point: Served, *, fsck: bool, command: str | None, limit: float, scan: Callable[[Path, tuple[Bind, ...]], Outcome] | None
) -> list[Outcome]:
    """Mounts and checks every file system of the disk. Then scans it and runs the command, if asked, with them mounted.

    A scan gets the directory with the files, as it sees it, and what shows it to a box.
    """
    with block_device(point) as disk:
        whole = disk.loop()
        places = list(places_of(point, disk, whole))
        found = [place for place in places if place.usage == "filesystem"]
        held = [place for place in places if place.usage in ("raid", "crypto")]
        if not found and held:
            what = ", ".join(f"{place.name}{place.type}" for place in held)
            raise Refused(f"cannot mount what {what} holds; check it with --command", Exit.UNSUPPORTED)
        texts, good = [], True
        for place in places:
            ok, text = examine(point, disk, place, fsck=fsck)
            good = good and ok
            texts.append(f"{place.name}{text}")
        if not found:
            good, texts = False, texts or ["no file system was found"]
        files = Outcome("file-system", good, "; ".join(texts)).with_reads_of(point)
        if not (command or scan) or not files.ok:
            return [files]
        with mounted_all(point, disk, found) as root:
            seen = root if point.box is None else MOUNT
            variables = {"HRL_MOUNT": str(seen), "HRL_DEVICE": whole}
            parts = [f"p{place.partition}" if place.partition else "" for place in found]
            mounts = tuple(Bind(root / part, MOUNT / part, "--bind", owners=True) for part in parts)
            outcomes = [files]
            # The scan comes first: a command may write to the mount.
            if scan:
                outcomes.append(scan(seen, mounts))
            if command:
                outcomes.append(check_command(point, command, limit, variables, (node(whole), *mounts)))
            return outcomes


def places_of(point: Served, disk: Disk, whole: str) -> Iterator[Place]:
    """Yields the partitions of the disk; the whole disk if it has none."""
    known = probe(point, whole)
    table = partitions(point, whole) if known.get("PTTYPE") and not known.get("TYPE") else []
    if not table:
        yield place(whole, None, known, expected=True)
    for number, start, sectors, kind in table:
        if kind not in EXTENDED_PARTITIONS:
            device = disk.loop(start * SECTOR_BYTES, length_bytes=sectors * SECTOR_BYTES)
            yield place(device, number, probe(point, device), expected=kind in PARTITIONS_WITH_FILES)


def place(device: str, partition: int | None, known: dict[str, str], *, expected: bool) -> Place:
    """Returns what blkid said, with names."""
    return Place(device, partition, known.get("TYPE", ""), known.get("USAGE", ""), known.get("UUID", ""), expected)


def probe(point: Served, device: str) -> dict[str, str]:
    """Returns what blkid finds on a device; empty if that is nothing."""
    said = point.read(["blkid", "-p", "-o", "export"], device)
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def partitions(point: Served, device: str) -> list[tuple[int, int, int, str]]:
    """Returns number, first sector, sectors and type of each partition."""
    said = point.read(["partx", "-g", "-r", "-o", "NR,START,SECTORS,TYPE"], device)
    rows = [line.split() for line in said.splitlines()]
    return [(int(row[0]), int(row[1]), int(row[2]), row[3].lower()) for row in rows if len(row) == 4]


def examine(point: Served, disk: Disk, place: Place, *, fsck: bool) -> tuple[bool, str]:
    """Returns whether a place is as it should be, and what it is."""
    if place.usage != "filesystem":
        return not place.expected or bool(place.type), place.type or "no file system was found"
    if place.type not in KINDS:
        raise Refused(f"cannot mount {place.type} of a point: expected one of {', '.join(KINDS)}", Exit.UNSUPPORTED)
    # The kernel takes two btrfs with one identity for two disks of one file system.
    if place.type == "btrfs" and Path("/sys/fs/btrfs", place.uuid).exists():
        problem = f"a btrfs with the identity {place.uuid} is mounted here; check the point on another machine"
        raise Refused(f"cannot mount a point: {problem}", Exit.UNSUPPORTED)
    checker = CHECKERS.get(place.type) if fsck else None
    if checker:
        need(f"checking {place.type}", checker[0])
    with disk.mounted(place.device, point.directory / "look", KINDS[place.type], options_of(point, place)) as failure:
        if failure and "unknown filesystem type" in failure:
            raise Refused(f"the kernel cannot mount {place.type} here", Exit.UNSUPPORTED)
    if not checker:
        return not failure, failure or f"{place.type} mounted"
    checked = point.run([*checker, place.device], node(place.device))
    said = f"{checker[0]} ended with {checked.code}: {checked.tail(TAIL_LINES)}"
    if failure:
        return False, failure if checked.ok else f"{failure}; {said}"
    return checked.ok, f"{place.type} mounted and checked" if checked.ok else f"{place.type}: {said}"


@contextlib.contextmanager
def mounted_all(point: Served, disk: Disk, places: list[Place]) -> Iterator[Path]:
    """Mounts the one file system, or each partition's at `pNUMBER` below."""
    root = point.directory / "mount"
    with contextlib.ExitStack() as stack:
        for place in places:
            where = root / f"p{place.partition}" if place.partition else root
            options = options_of(point, place)
            failure = stack.enter_context(disk.mounted(place.device, where, KINDS[place.type], options))
            if failure:
                raise Refused(f"cannot mount a second time: {failure}", Exit.IO)
        yield root


def options_of(point: Served, place: Place) -> str:
    """Returns mount options that give nothing on a copy any rights here. Without a box no link of a guest is followed."""
    links = ",nosymfollow" if point.box is None else ""
    return f"nosuid,nodev{links}{MOUNT_OPTIONS.get(place.type, '')}"
