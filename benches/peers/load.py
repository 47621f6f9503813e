"""Writers: fio, and transactions of SQLite."""

import json
import random
import sqlite3
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from peers.machine import MIB, Argument, BenchError, run

BLOCK = 4096
ROWS = 20_000
ROW_BYTES = 1_024
ROWS_A_TRANSACTION = 10


@dataclass(frozen=True)
class Written:
    """What fio did: writes a second, the 99th percentile of their latency, bytes written."""

    iops: float
    p99_us: float
    bytes: int


def options(target: Argument, size: int, depth: int, compressible: bool) -> list[str]:
    """fio's options for 4 KiB writes at random to an NBD URI or a file of `size` bytes; half of each block is zeroes."""
    where = (
        ["--ioengine=nbd", f"--uri={target}"] if "://" in str(target) else ["--ioengine=io_uring", f"--filename={target}"]
    )
    data = f"--buffer_compress_percentage={50 if compressible else 0}"
    return [
        "fio",
        "--name=w",
        "--rw=randwrite",
        "--bs=4k",
        f"--iodepth={depth}",
        f"--size={size}",
        "--refill_buffers",
        data,
        *where,
    ]


def result(output: str) -> Written:
    """fio's figures. Before its JSON it may print a line about the connection."""
    job = json.loads(output[output.index("{") :])["jobs"][0]["write"]
    return Written(job["iops"], job["clat_ns"]["percentile"]["99.000000"] / 1000, job["io_bytes"])


def write_for(seconds: float, target: Argument, size: int, *, depth: int, sync_every: int = 0) -> Written:
    """Random writes for some time, after a second that does not count; a flush after every `sync_every` of them."""
    timing = ["--time_based", f"--runtime={seconds}", "--ramp_time=1", "--randrepeat=0", f"--fsync={sync_every}"]
    return result(run(*options(target, size, depth, True), *timing, "--output-format=json"))


def write_blocks(
    count: int, target: Argument, size: int, *, seed: int, sequential: bool = False, compressible: bool = True
) -> int:
    """A number of 4 KiB writes, the same offsets for the same seed, and a flush; gives the bytes."""
    order = ["--norandommap", "--randrepeat=1", f"--randseed={seed}", f"--number_ios={count}", "--end_fsync=1"]
    # Later options count.
    return result(
        run(
            *options(target, size, 32, compressible),
            *order,
            *(["--rw=write"] if sequential else []),
            "--io_size=1T",
            "--output-format=json",
        )
    ).bytes


def write_until_killed(target: Argument, size: int) -> "subprocess.Popen[bytes]":
    """Random writes in the background, without an end."""
    command = [*options(target, size, 32, True), "--time_based", "--runtime=600", "--randrepeat=0"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@dataclass(frozen=True)
class Transactions:
    """What SQLite did: transactions a second, percentiles of their latency, bytes of rows written."""

    per_second: float
    p50_us: float
    p99_us: float
    bytes: int


def create_database(path: Path) -> None:
    """A database of 20 MiB in WAL mode."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, content BLOB NOT NULL)")
        choose = random.Random(1)
        database.executemany("INSERT INTO item VALUES (?, ?)", ((row, content(choose)) for row in range(ROWS)))
    database.close()


def content(choose: random.Random) -> bytes:
    """A row that compresses 2 : 1."""
    return choose.randbytes(ROW_BYTES // 2) + bytes(ROW_BYTES // 2)


def transactions(path: Path, seconds: float, *, per_second_max: int | None = None) -> Transactions:
    """Transactions of ten random rows each; each is durable when it is done (`synchronous=FULL`)."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous=FULL")
    choose = random.Random(2)
    latencies: list[float] = []
    began = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        if per_second_max is not None and (ahead := began + len(latencies) / per_second_max - now) > 0:
            time.sleep(ahead)
        rows = [(content(choose), choose.randrange(ROWS)) for _ in range(ROWS_A_TRANSACTION)]
        begun = time.perf_counter()
        database.execute("BEGIN IMMEDIATE")
        database.executemany("UPDATE item SET content = ? WHERE id = ?", rows)
        database.execute("COMMIT")
        latencies.append(time.perf_counter() - begun)
    elapsed = time.monotonic() - began
    database.close()
    if len(latencies) < 100:
        raise BenchError(f"{len(latencies)} transactions in {seconds} s are too few for percentiles")
    return Transactions(
        len(latencies) / elapsed,
        statistics.median(latencies) * 1e6,
        statistics.quantiles(latencies, n=100)[98] * 1e6,
        len(latencies) * ROWS_A_TRANSACTION * ROW_BYTES,
    )


def fill(path: Path, size: int, *, noise: float = 0.5) -> None:
    """A disk without holes, of blocks of which the share `noise` is random and the rest zeroes."""
    choose = random.Random(3)
    head = int(BLOCK * noise)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            bytes_of = choose.randbytes(head * (MIB // BLOCK))
            file.write(b"".join(bytes_of[at * head : (at + 1) * head] + bytes(BLOCK - head) for at in range(MIB // BLOCK)))
