"""What a database pays: transactions of SQLite, each durable when it is done, on ext4 on a loop device on nbdfuse on
our server.

The same stack for all: without replication, with ours below the file system, and with litestream beside the database.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from peers.load import create_database, fill, transactions
from peers.machine import MIB, PROGRAMS, clear, durable, end, run, start
from peers.question import Metric, Question, Ratio
from peers.results import Round
from peers.servers import ours
from peers.stage import Setting

FILE_SYSTEM_BYTES = 256 * MIB

# What protects the volume, and whether litestream replicates the database.
CONTENDERS: dict[str, tuple[Literal["data"] | None, bool]] = {
    "no replication": (None, False),
    "hrl": ("data", False),
    "litestream": (None, True),
}


def measure(setting: Setting, case: str, round: Round) -> None:
    """One round."""
    home = setting.scratch / "writer"
    for name, (content, replicate) in round.in_turn(CONTENDERS):
        clear(home)
        home.mkdir(parents=True)
        disk = home / "disk.img"
        fill(disk, FILE_SYSTEM_BYTES, noise=0.0)
        durable(disk)
        with ours(disk, home, content) as agent, file_system(agent.uri, home) as place:
            create_database(place / "db")
            with litestream(place / "db", home / "litestream") if replicate else nullcontext():
                done = transactions(place / "db", setting.seconds)
        round.record(name, transactions=done.per_second, p50_us=done.p50_us, p99_us=done.p99_us)
    clear(home)


@contextmanager
def file_system(uri: str, home: Path) -> Iterator[Path]:
    """A new ext4 on an NBD export, by nbdfuse and a loop device."""
    fuse, place = home / "fuse", home / "mount"
    fuse.mkdir()
    place.mkdir()
    nbdfuse = start("nbdfuse", fuse, uri, ready=fuse / "nbd")
    try:
        device = run("losetup", "--find", "--show", "--direct-io=on", fuse / "nbd").strip()
        try:
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
            run("mount", device, place)
            try:
                yield place
            finally:
                run("umount", place)
        finally:
            run("losetup", "--detach", device)
    finally:
        run("fusermount3", "-u", fuse)
        end(nbdfuse)


@contextmanager
def litestream(database: Path, replica: Path) -> Iterator[None]:
    """litestream replicating a database into a directory of the host's file system, with its own defaults."""
    replica.mkdir(parents=True, exist_ok=True)
    process = start(PROGRAMS / "litestream", "replicate", database, f"file://{replica}", ready=replica / "ltx")
    try:
        yield
    finally:
        end(process)


QUESTION = Question(
    "database",
    "What a database pays",
    ("SQLite",),
    (
        Metric("transactions", "transactions a second", "1/s"),
        Metric("p50_us", "p50", "µs"),
        Metric("p99_us", "p99", "µs"),
    ),
    measure,
    ratios=(Ratio("hrl", "no replication", "transactions"), Ratio("litestream", "no replication", "transactions")),
    ratio_title="throughput kept",
    plots=("transactions",),
)
