"""What is stored for each byte that was written.

Bytes of files after a first full copy are counted, nothing is timed. Ours and nbd-server's journal keep every write,
so that any moment can be had back; QEMU's backup and btrfs's stream, taken once at the end, keep the last state
alone, as ours does when retention has folded everything between two states (`folded`).

`SQLite` counts the bytes of the rows that were updated, at 200 transactions a second; ours replicates the file system
below the database, litestream the pages of the database.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from peers import btrfs, qemu
from peers.database import FILE_SYSTEM_BYTES, file_system, litestream
from peers.load import BLOCK, create_database, fill, transactions, write_blocks
from peers.machine import MIB, PROGRAMS, BenchError, clear, durable, hrl, run, same, stored_bytes
from peers.question import Metric, Question
from peers.results import Round
from peers.servers import nbd_server, ours, qemu_nbd
from peers.stage import Setting

RANDOM, NOISE, SEQUENTIAL, SQLITE = "random, 2 : 1", "random, does not compress", "sequential, 2 : 1", "SQLite"
TRANSACTIONS_A_SECOND = 200
ALL_COMPRESSED = {"compression_cpu_percent_max": "100"}
AS_IT_IS = {"compression": "none"}
FOLDED = "hrl, folded to the states before and after"
KEEP = "1s all; grace 1s"
LITESTREAM_SETTLES_SECONDS = 3

# Of the setting's disk, and how often each of its blocks is written on average.
DISK_SHARE = 4
OVERWRITES = 2

Store = Callable[["Load", Path], dict[str, float]]


class Load:
    """The writes of a case: onto a full disk, twice as many bytes as it has, at random or from one end to the other."""

    def __init__(self, setting: Setting, case: str) -> None:
        self.case = case
        self.seconds = setting.seconds
        self.size = setting.disk_bytes // DISK_SHARE
        self.noise = 1.0 if case == NOISE else 0.5

    def disk(self, home: Path) -> Path:
        """The disk before."""
        path = home / "disk.img"
        fill(path, self.size, noise=self.noise)
        return path

    def write(self, target: Path | str) -> int:
        """Writes; gives the bytes."""
        return write_blocks(
            self.size // BLOCK * OVERWRITES,
            target,
            self.size,
            seed=11,
            sequential=self.case == SEQUENTIAL,
            compressible=self.case != NOISE,
        )


def measure(setting: Setting, case: str, round: Round) -> None:
    """One round."""
    home = setting.scratch / "storage"
    load = Load(setting, case)
    for _, store in round.in_turn(DATABASES if case == SQLITE else DISKS):
        clear(home)
        home.mkdir(parents=True)
        for kept, ratio in store(load, home).items():
            round.record(kept, ratio=ratio)
    clear(home)


def ours_with(name: str, policy: dict[str, str], *, folded: bool = False) -> Store:
    """Our vault, with a policy."""

    def store(load: Load, home: Path) -> dict[str, float]:
        disk = load.disk(home)
        with ours(disk, home, "data", policy=policy) as agent:
            agent.ask("mark before")
            agent.ask("replicated")
            empty = stored_bytes(agent.vault)
            written = load.write(agent.uri)
            agent.ask("mark after")
            agent.ask("replicated")
        found = {name: (stored_bytes(home / "vault") - empty) / written}
        if folded:
            # What is older than a second and not pinned is folded, and what was folded is deleted a second later.
            hrl("pin", home / "vault", "disk", "before", "--forever")
            for _ in range(2):
                time.sleep(1.5)
                hrl("compact", home / "vault", "--all", "--keep", KEEP)
            found[FOLDED] = (stored_bytes(home / "vault") - empty) / written
        hrl("restore", home / "vault", "disk", "--at", "after", "--to", home / "restored")
        same(home / "restored", disk, name)
        return found

    return store


def datalog(load: Load, home: Path) -> dict[str, float]:
    """nbd-server's journal with data, played again onto the disk as it was."""
    disk, before, log = load.disk(home), home / "before.img", home / "datalog"
    shutil.copy(disk, before)
    with nbd_server(disk, home, log=log) as server:
        written = load.write(server.uri)
    run("nbd-trplay", "-i", before, "-l", log)
    same(before, disk, "nbd-server's journal")
    return {"nbd-server datalog": log.stat().st_size / written}


def bitmap(load: Load, home: Path) -> dict[str, float]:
    """QEMU's incremental backup at the end."""
    image, full, found = home / "disk.qcow2", home / "full.qcow2", home / "increment.qcow2"
    disk = load.disk(home)
    qemu.to_qcow2(disk, full)
    qemu.to_qcow2(disk, image, bitmap="64k")
    with qemu_nbd(image, home, "qcow2") as server:
        written = load.write(server.uri)
    qemu.increment(full, found)
    qemu.backup(image, qemu.file_target(found), home, bitmap="64k")
    durable(found)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", found, image)
    return {"QEMU bitmap, at the end": stored_bytes(found) / written}


def send(compressed: bool) -> Store:
    """A stream of btrfs at the end, of a file system that compresses or one that does not."""
    name = "btrfs send, zstd:1, at the end" if compressed else "btrfs send, at the end"

    def store(load: Load, home: Path) -> dict[str, float]:
        image, stream = home / "source.img", home / "stream"
        btrfs.make(image, 6 * load.size + 512 * MIB)
        with btrfs.mounted(image, home, *(["compress-force=zstd:1"] if compressed else [])) as place:
            run("btrfs", "subvolume", "create", place / "live")
            shutil.copy(load.disk(home), place / "live" / "disk.img")
            btrfs.snapshot(place, "before")
            written = load.write(place / "live" / "disk.img")
            btrfs.snapshot(place, "after")
            how = ["--proto", "2", "--compressed-data"] if compressed else []
            run("btrfs", "send", "-q", *how, "-p", place / "before", "-f", stream, place / "after")
            (place / "received").mkdir()
            run("btrfs", "receive", "-q", "-f", stream, place / "received")
            same(place / "received" / "after" / "disk.img", place / "after" / "disk.img", name)
        return {name: stream.stat().st_size / written}

    return store


def database_ours(name: str, policy: dict[str, str]) -> Store:
    """Our vault under a file system with a database."""

    def store(load: Load, home: Path) -> dict[str, float]:
        disk = home / "disk.img"
        fill(disk, FILE_SYSTEM_BYTES, noise=0.0)
        with ours(disk, home, "data", policy=policy) as agent:
            with file_system(agent.uri, home) as place:
                create_database(place / "db")
                run("sync", "-f", place)
                agent.ask("replicated")
                empty = stored_bytes(agent.vault)
                rows = transactions(place / "db", load.seconds, per_second_max=TRANSACTIONS_A_SECOND).bytes
                run("sync", "-f", place)
                agent.ask("replicated")
                stored = stored_bytes(agent.vault) - empty
            agent.ask("replicated")
        hrl("restore", home / "vault", "disk", "--to", home / "restored")
        same(home / "restored", disk, name)
        return {name: stored / rows}

    return store


def database_litestream(load: Load, home: Path) -> dict[str, float]:
    """litestream's replica, restored and compared row by row."""
    database, replica, restored = home / "db", home / "litestream", home / "restored"
    create_database(database)
    with litestream(database, replica):
        time.sleep(LITESTREAM_SETTLES_SECONDS)
        empty = stored_bytes(replica)
        rows = transactions(database, load.seconds, per_second_max=TRANSACTIONS_A_SECOND).bytes
        time.sleep(LITESTREAM_SETTLES_SECONDS)
    stored = stored_bytes(replica) - empty
    run(PROGRAMS / "litestream", "restore", "-o", restored, f"file://{replica}")
    if run("sqlite3", restored, ".dump") != run("sqlite3", database, ".dump"):
        raise BenchError("litestream: the restored database differs")
    return {"litestream": stored / rows}


DISKS: dict[str, Store] = {
    "hrl": ours_with("hrl, default policy", {}),
    "hrl, all": ours_with("hrl, no limit to compression", ALL_COMPRESSED, folded=True),
    "hrl, none": ours_with("hrl, no compression", AS_IT_IS),
    "datalog": datalog,
    "bitmap": bitmap,
    "send": send(False),
    "send, zstd": send(True),
}
DATABASES: dict[str, Store] = {
    "hrl": database_ours("hrl, default policy", {}),
    "hrl, none": database_ours("hrl, no compression", AS_IT_IS),
    "litestream": database_litestream,
}

QUESTION = Question(
    "storage",
    "Bytes stored for each byte written",
    (RANDOM, NOISE, SEQUENTIAL, SQLITE),
    (Metric("ratio", "stored / written", "bytes", 3),),
    measure,
    plots=("ratio",),
)
