"""A change set: the bytes, and the time until they lie durably in a file, of 26,214 random writes of 4 KiB since a
point.

QEMU's bitmap is read in both of its usual ways: by QEMU's backup job at the default granularity of 64 KiB, and over
NBD, as backup programs read it, at 4 KiB. Each change set is laid over the disk as it was, and the result compared
with the disk as it is.
Ours is measured as a command, of which half is the start of Python, and as a call.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hrl import Vault

from peers import btrfs, qemu
from peers.machine import MIB, clear, cold, durable, hrl, run, same, timed
from peers.question import Metric, Question, Ratio
from peers.results import Round
from peers.stage import Setting, Stage

OURS, LIBRARY, JOB, OVER_NBD, SEND = (
    "hrl changes",
    "hrl, library call",
    "QEMU bitmap 64 KiB, backup job",
    "QEMU bitmap 4 KiB, over NBD",
    "btrfs send",
)

Extract = Callable[[Stage, Path], tuple[float, int]]


def prepare(setting: Setting, case: str) -> None:
    """Makes the disks."""
    stage = Stage(setting)
    stage.ours(), stage.qemu(), stage.btrfs()


def measure(setting: Setting, case: str, round: Round) -> None:
    """One round."""
    stage = Stage(setting)
    home = setting.scratch / "changes"
    for name, extract in round.in_turn(CONTENDERS):
        clear(home)
        home.mkdir(parents=True)
        seconds, size = extract(stage, home)
        round.record(name, seconds=seconds, bytes=size)
    clear(home)


def by_command(vault: Path, found: Path) -> None:
    """`hrl changes`, as a command."""
    hrl("changes", vault, "disk", "--from", "before", "--to", "after", "--to-file", found)


def by_library(vault: Path, found: Path) -> None:
    """The same without the start of a process."""
    replica = Vault(vault).replica("disk")
    replica.changes("before", "after").write_to_file(found)


def extract_ours(extract: Callable[[Path, Path], None]) -> Extract:
    """Ours, from a vault."""

    def measured(stage: Stage, home: Path) -> tuple[float, int]:
        source, found = stage.ours(), home / "changes"
        cold(source / "vault")

        def work() -> None:
            extract(source / "vault", found)
            durable(found)

        seconds = timed(work)
        with found.open("rb") as file:
            size = sum(length for _, length in data_of(file.fileno(), found.stat().st_size))
        same(laid_over(found, stage.base, home), source / "disk.img", OURS)
        return seconds, size

    return measured


def extract_by_job(stage: Stage, home: Path) -> tuple[float, int]:
    """QEMU's incremental backup into a qcow2 file over the full one."""
    source, found = stage.qemu(), home / "increment.qcow2"
    cold(source / "disk.qcow2")
    copied = 0

    def work() -> None:
        nonlocal copied
        qemu.increment(source / "full.qcow2", found)
        copied = qemu.backup(source / "disk.qcow2", qemu.file_target(found), home, bitmap="64k")
        durable(found)

    seconds = timed(work)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", found, source / "disk.qcow2")
    return seconds, copied


def extract_over_nbd(stage: Stage, home: Path) -> tuple[float, int]:
    """qemu-nbd and libnbd."""
    source, found = stage.qemu(), home / "changes"
    cold(source / "disk.qcow2")
    copied = 0

    def work() -> None:
        nonlocal copied
        copied = qemu.copy_bitmap(source / "disk.qcow2", home, "4k", found)

    seconds = timed(work)
    same(laid_over(found, stage.base, home), source / "disk.img", OVER_NBD)
    return seconds, copied


def extract_by_send(stage: Stage, home: Path) -> tuple[float, int]:
    """`btrfs send` of a snapshot with the earlier one as parent; received into the same file system to compare."""
    source, found = stage.btrfs() / "source.img", home / "stream"
    with btrfs.mounted(source, home) as place:

        def work() -> None:
            run("btrfs", "send", "-q", "-p", place / "before", "-f", found, place / "after")
            durable(found)

        seconds = timed(work)
        received = place / "received"
        received.mkdir(exist_ok=True)
        try:
            run("btrfs", "receive", "-q", "-f", found, received)
            same(received / "after" / "disk.img", place / "after" / "disk.img", SEND)
        finally:
            run("btrfs", "subvolume", "delete", received / "after")
    return seconds, found.stat().st_size


CONTENDERS: dict[str, Extract] = {
    OURS: extract_ours(by_command),
    LIBRARY: extract_ours(by_library),
    JOB: extract_by_job,
    OVER_NBD: extract_over_nbd,
    SEND: extract_by_send,
}


def laid_over(changes: Path, base: Path, home: Path) -> Path:
    """A copy of the base with the data of a sparse file in it."""
    path = home / "check.img"
    shutil.copy(base, path)
    with changes.open("rb") as source, path.open("r+b") as target:
        for offset, length in data_of(source.fileno(), changes.stat().st_size):
            while length:
                sent = os.copy_file_range(source.fileno(), target.fileno(), length, offset, offset)
                offset, length = offset + sent, length - sent
    return path


def data_of(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each stretch of a sparse file that is no hole."""
    end = 0
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, end - start


QUESTION = Question(
    "changes",
    "A change set",
    ("random",),
    (Metric("seconds", "time", "s", 2), Metric("bytes", "size", "MiB", 1, MIB)),
    measure,
    prepare,
    ratios=tuple(Ratio(peer, LIBRARY, metric) for metric in ("bytes", "seconds") for peer in (JOB, OVER_NBD, SEND)),
    ratio_title="times ours",
    plots=("bytes", "seconds"),
)
