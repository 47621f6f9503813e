"""What a writer pays: 4 KiB random writes over NBD to servers with and without tracking, at depths 1, 16 and 32 and
with a flush after every 16 writes.

Each system's loss is taken against its own server without tracking, in the same round. Ours is measured twice,
writing to the disk before it answers and through the page cache, because nbd-server and nbdkit do the latter.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from peers import qemu
from peers.load import fill, write_for
from peers.machine import clear, cold, durable
from peers.question import Metric, Question, Ratio
from peers.results import Round
from peers.servers import Agent, Server, nbd_server, nbdkit, ours, qemu_nbd
from peers.stage import Setting

LOADS = {"depth 1": (1, 0), "depth 16": (16, 0), "depth 32": (32, 0), "depth 1, flush": (1, 16)}

Serve = Callable[[Path, Path], AbstractContextManager[Agent | Server]]


def raw(home: Path, size: int) -> Path:
    """A disk of zeroes without holes, so that no run pays for allocation and the first copy of ours is short."""
    disk = home / "disk.img"
    fill(disk, size, noise=0.0)
    durable(disk)
    return disk


def direct(serve: Serve) -> Serve:
    """Without the disk in the page cache, from which direct writes would have to remove it."""

    def served(disk: Path, home: Path) -> AbstractContextManager[Agent | Server]:
        cold(disk)
        return serve(disk, home)

    return served


def qcow2(disk: Path, home: Path, bitmap: str | None) -> AbstractContextManager[Server]:
    """qemu-nbd on a qcow2 file made of the disk."""
    image = home / "disk.qcow2"
    qemu.to_qcow2(disk, image, bitmap=bitmap)
    cold(image)
    return qemu_nbd(image, home, "qcow2")


SERVERS: dict[str, Serve] = {
    "direct: hrl off": direct(lambda disk, home: ours(disk, home, None)),
    "direct: hrl tracking": direct(lambda disk, home: ours(disk, home, "extents-only")),
    "direct: hrl on": direct(lambda disk, home: ours(disk, home, "data")),
    "direct: qemu-nbd raw": direct(qemu_nbd),
    "direct: qemu-nbd qcow2": direct(lambda disk, home: qcow2(disk, home, None)),
    "direct: qemu-nbd qcow2 + bitmap": direct(lambda disk, home: qcow2(disk, home, "64k")),
    "cached: hrl off": lambda disk, home: ours(disk, home, None, direct=False),
    "cached: hrl on": lambda disk, home: ours(disk, home, "data", direct=False),
    "cached: nbdkit file": nbdkit,
    "cached: qemu-nbd raw": lambda disk, home: qemu_nbd(disk, home, cached=True),
    "cached: nbd-server": nbd_server,
    "cached: nbd-server + datalog": lambda disk, home: nbd_server(disk, home, log=home / "datalog"),
}


def measure(setting: Setting, case: str, round: Round) -> None:
    """One round."""
    depth, sync_every = LOADS[case]
    home = setting.scratch / "writer"
    for name, serve in round.in_turn(SERVERS):
        clear(home)
        home.mkdir(parents=True)
        with serve(raw(home, setting.disk_bytes), home) as server:
            written = write_for(setting.seconds, server.uri, setting.disk_bytes, depth=depth, sync_every=sync_every)
            if isinstance(server, Agent) and server.content is not None and server.ask("stats")["mode"] != "ordered":
                print(f"{case}, {name}: the journal could not follow, and the volume fell out of order", file=sys.stderr)
        round.record(name, iops=written.iops, p99_us=written.p99_us)
    clear(home)


QUESTION = Question(
    "writer",
    "What a writer pays",
    tuple(LOADS),
    (
        Metric("iops", "writes a second", "1/s"),
        Metric("p99_us", "p99", "µs"),
    ),
    measure,
    ratios=(
        Ratio("direct: hrl tracking", "direct: hrl off", "iops"),
        Ratio("direct: hrl on", "direct: hrl off", "iops"),
        Ratio("cached: hrl on", "cached: hrl off", "iops"),
        Ratio("direct: qemu-nbd qcow2 + bitmap", "direct: qemu-nbd qcow2", "iops"),
        Ratio("cached: nbd-server + datalog", "cached: nbd-server", "iops"),
        Ratio("direct: hrl on", "direct: hrl off", "p99_us"),
        Ratio("cached: hrl on", "cached: hrl off", "p99_us"),
        Ratio("direct: hrl on", "direct: qemu-nbd raw", "iops"),
        Ratio("cached: hrl on", "cached: nbdkit file", "iops"),
        Ratio("cached: hrl on", "cached: qemu-nbd raw", "iops"),
        Ratio("cached: hrl off", "cached: nbdkit file", "iops"),
        Ratio("cached: hrl on", "cached: nbd-server + datalog", "iops"),
    ),
    ratio_title="ratios within a round",
    plots=("iops",),
    plot_ratios=True,
)
