"""Coming back: the time until the whole disk lies durably in a raw file, and the time until the first 4 KiB of it are
read.

Every source is dropped from the page cache first, and every restored disk is compared with the one that was
replicated. The state is the one after 26,214 random writes: for ours a point in the vault, for QEMU a full backup and
an incremental one over it, for btrfs two streams. `cp` copies a raw file that somebody has kept up to date, so it is
the floor, not a way to get an earlier state. A state is served at once by ours, from the vault, and by qemu-nbd, from
the backups; the others have to restore it first.
"""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from hrl import NbdServer, Vault

from peers import btrfs
from peers.machine import MIB, PROGRAMS, clear, cold, durable, end, hrl, run, same, start_telling, timed
from peers.question import Metric, Question, Ratio
from peers.results import Round
from peers.servers import qemu_nbd
from peers.stage import Setting, Stage

WHOLE, NOISE, FIRST = "whole disk, compresses 2 : 1", "whole disk, does not compress", "first 4 KiB"
OURS, LIBRARY, COPY, CONVERT, RECEIVE, CHAIN = (
    "hrl restore, hrl serve",
    "hrl, library call",
    "cp",
    "qemu-img convert",
    "btrfs receive",
    "qemu-nbd on the backups",
)

Restore = Callable[[Stage, Path], float]


def stage_of(setting: Setting, case: str) -> Stage:
    """The disks of a case."""
    return Stage(setting, compressible=case != NOISE)


def prepare(setting: Setting, case: str) -> None:
    """Makes the disks."""
    stage = stage_of(setting, case)
    stage.ours(), stage.qemu(), stage.btrfs()


def measure(setting: Setting, case: str, round: Round) -> None:
    """One round."""
    stage = stage_of(setting, case)
    home = setting.scratch / "restore"
    for name, restore in round.in_turn(FIRST_READS if case == FIRST else RESTORES):
        clear(home)
        home.mkdir(parents=True)
        round.record(name, seconds=restore(stage, home))
    clear(home)


def by_command(vault: Path, found: Path) -> None:
    """`hrl restore`, as a command."""
    hrl("restore", vault, "disk", "--at", "after", "--to", found)


def by_library(vault: Path, found: Path) -> None:
    """The same without the start of a process."""
    Vault(vault).replica("disk").restore("after", found)


def restore_ours(restore: Callable[[Path, Path], None]) -> Restore:
    """Ours, from a vault."""

    def measured(stage: Stage, home: Path) -> float:
        source, found = stage.ours(), home / "disk.img"
        cold(source / "vault")

        def work() -> None:
            restore(source / "vault", found)
            durable(found)

        seconds = timed(work)
        same(found, source / "disk.img", OURS)
        return seconds

    return measured


def restore_copy(stage: Stage, home: Path) -> float:
    """`cp`."""
    source, found = stage.ours() / "disk.img", home / "disk.img"
    cold(source)

    def work() -> None:
        run("cp", "--reflink=never", source, found)
        durable(found)

    return timed(work)


def restore_convert(stage: Stage, home: Path) -> float:
    """`qemu-img convert` of the incremental backup and the full one below it."""
    source, found = stage.qemu(), home / "disk.img"
    cold(source / "full.qcow2", source / "increment.qcow2")
    how = ["-T", "none", "-t", "none", "-m", "16", "-W"]

    def work() -> None:
        run("qemu-img", "convert", *how, "-f", "qcow2", "-O", "raw", source / "increment.qcow2", found)
        durable(found)

    seconds = timed(work)
    same(found, source / "disk.img", CONVERT)
    return seconds


def restore_receive(stage: Stage, home: Path) -> float:
    """`btrfs receive` of both streams into a new file system."""
    source, image = stage.btrfs(), home / "restored.img"
    cold(source / "full.stream", source / "increment.stream")
    btrfs.make(image, 3 * stage.setting.disk_bytes + 512 * MIB)
    with btrfs.mounted(image, home) as place:

        def work() -> None:
            for stream in ("full", "increment"):
                run("btrfs", "receive", "-q", "-f", source / f"{stream}.stream", place)
            run("sync", "-f", place)

        seconds = timed(work)
        with btrfs.mounted(source / "source.img", home) as original:
            same(place / "after" / "disk.img", original / "after" / "disk.img", RECEIVE)
    return seconds


def read_first(uri: str, offset: int) -> None:
    """The first read of a client."""
    run("qemu-io", "-r", "-f", "raw", "-c", f"read {offset} 4096", uri)


def first_by_library(stage: Stage, home: Path) -> float:
    """A server in this process, opened from the vault on, until a client has read."""
    source, socket = stage.ours(), home / "nbd.sock"
    cold(source / "vault")

    def work() -> None:
        replica = stack.enter_context(Vault(source / "vault").replica("disk"))
        server = stack.enter_context(NbdServer.replica(f"unix:{socket}", replica, "after"))
        read_first(server.uri, stage.setting.disk_bytes // 2)

    with ExitStack() as stack:
        return timed(work)


def first_ours(stage: Stage, home: Path) -> float:
    """`hrl serve`, as a command, until a client has read."""
    source, socket = stage.ours(), home / "nbd.sock"
    cold(source / "vault")
    process: subprocess.Popen[bytes] | None = None

    def work() -> None:
        nonlocal process
        where = ("--at", "after", "--nbd", f"unix:{socket}")
        process, uri = start_telling(PROGRAMS / "hrl", "serve", source / "vault", "disk", *where)
        read_first(uri, stage.setting.disk_bytes // 2)

    try:
        return timed(work)
    finally:
        if process:
            end(process)


def first_chain(stage: Stage, home: Path) -> float:
    """qemu-nbd on the incremental backup and the full one below it."""
    source = stage.qemu()
    cold(source / "full.qcow2", source / "increment.qcow2")

    def work() -> None:
        server = stack.enter_context(qemu_nbd(source / "increment.qcow2", home, "qcow2", read_only=True))
        read_first(server.uri, stage.setting.disk_bytes // 2)

    with ExitStack() as stack:
        return timed(work)


RESTORES: dict[str, Restore] = {
    OURS: restore_ours(by_command),
    LIBRARY: restore_ours(by_library),
    COPY: restore_copy,
    CONVERT: restore_convert,
    RECEIVE: restore_receive,
}
FIRST_READS: dict[str, Restore] = {
    OURS: first_ours,
    LIBRARY: first_by_library,
    CHAIN: first_chain,
}

QUESTION = Question(
    "restore",
    "Coming back",
    (WHOLE, NOISE, FIRST),
    (Metric("seconds", "time", "s", 2),),
    measure,
    prepare,
    ratios=(
        Ratio(LIBRARY, COPY, "seconds"),
        Ratio(LIBRARY, CONVERT, "seconds"),
        Ratio(LIBRARY, RECEIVE, "seconds"),
        Ratio(LIBRARY, CHAIN, "seconds"),
    ),
    ratio_title="time of ours / theirs",
    plots=("seconds",),
)
