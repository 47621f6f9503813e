"""After `kill -9` of the server in the middle of random writes: how much is read of the disk, how much is sent, and
how long it takes until the replica is the same as the disk again.

Ours reads the regions that its dirty map marks, which are none before the writes begin. QEMU writes a bitmap when it
ends; after a kill it is inconsistent and refused, and the next backup is a full one. Both results are compared with
the disk.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from peers import qemu
from peers.load import write_until_killed
from peers.machine import MIB, BenchError, clear, hrl, run, same, stored_bytes, timed
from peers.question import Metric, Question, Ratio
from peers.results import Round
from peers.servers import Agent, qemu_nbd
from peers.stage import Setting, Stage

# Bytes at the beginning of the disk that are written to; 0 is all of it.
CASES = {"64 MiB hot": 64 * MIB, "whole disk": 0}
OURS, BITMAP = "hrl", "QEMU bitmap"

Crash = Callable[[Setting, Path, int], dict[str, float]]


def prepare(setting: Setting, case: str) -> None:
    """Makes the disk."""
    _ = Stage(setting).base


def measure(setting: Setting, case: str, round: Round) -> None:
    """One round."""
    home = setting.scratch / "crash"
    hot = CASES[case] or setting.disk_bytes
    for name, crash in round.in_turn(CONTENDERS):
        clear(home)
        home.mkdir(parents=True)
        round.record(name, **crash(setting, home, hot))
    clear(home)


def crash_ours(setting: Setting, home: Path, hot: int) -> dict[str, float]:
    """Killed, started again, and in order again with everything in the vault."""
    disk = home / "disk.img"
    shutil.copy(Stage(setting).base, disk)
    agent = Agent(disk, home, "data")
    agent.ask("settled")
    writer = write_until_killed(agent.uri, hot)
    time.sleep(setting.seconds)
    agent.kill()
    writer.wait()
    before = stored_bytes(home / "vault")
    began = time.monotonic()
    agent = Agent(disk, home, "data")
    seconds = time.monotonic() - began
    read = agent.ask("stats")["resync_bytes_read"]
    agent.stop()
    sent = stored_bytes(home / "vault") - before
    hrl("restore", home / "vault", "disk", "--to", home / "restored")
    same(home / "restored", disk, OURS)
    return {"read": read, "sent": sent, "seconds": seconds}


def crash_bitmap(setting: Setting, home: Path, hot: int) -> dict[str, float]:
    """Killed; then the backup that the bitmap allows."""
    image, full, target = home / "disk.qcow2", home / "full.qcow2", home / "backup.qcow2"
    qemu.to_qcow2(Stage(setting).base, full)
    qemu.to_qcow2(Stage(setting).base, image, bitmap="64k")
    with qemu_nbd(image, home, "qcow2") as server:
        writer = write_until_killed(server.uri, hot)
        time.sleep(setting.seconds)
        server.kill()
        writer.wait()
    copied = 0

    def work() -> None:
        nonlocal copied
        if qemu.usable_bitmap(image, "64k"):
            raise BenchError("the bitmap survived the kill: this benchmark has to take an incremental backup then")
        run("qemu-img", "bitmap", "--remove", image, "64k")
        run("qemu-img", "create", "-q", "-f", "qcow2", target, str(setting.disk_bytes))
        copied = qemu.backup(image, qemu.file_target(target), home, bitmap=None)

    seconds = timed(work)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", target, image)
    return {"read": copied, "sent": copied, "seconds": seconds}


CONTENDERS: dict[str, Crash] = {OURS: crash_ours, BITMAP: crash_bitmap}

QUESTION = Question(
    "crash",
    "After kill -9",
    tuple(CASES),
    (
        Metric("read", "read", "MiB", 0, MIB),
        Metric("sent", "sent", "MiB", 0, MIB),
        Metric("seconds", "time", "s", 2),
    ),
    measure,
    prepare,
    ratios=tuple(Ratio(BITMAP, OURS, metric) for metric in ("read", "sent", "seconds")),
    ratio_title="times ours",
    plots=("read", "seconds"),
)
