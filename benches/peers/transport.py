"""Bringing the changes to another store that has the state before: seconds until they are durable there, and bytes
sent.

Changes are 26,214 random writes of 4 KiB on 1 GiB. Ours goes through a gateway, in TLS over loopback; `btrfs send |
btrfs receive` through a pipe; QEMU's incremental backup and `qemu-img convert` of everything over NBD on loopback to
qemu-nbd; rsync compares both sides by checksums of blocks. Afterwards the other side is read and compared.
"""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from peers import btrfs, qemu
from peers.machine import (
    MIB,
    PROGRAMS,
    Argument,
    BenchError,
    clear,
    cold,
    durable,
    end,
    hrl,
    run,
    same,
    start,
    start_telling,
    stored_bytes,
    timed,
)
from peers.question import Metric, Question, Ratio
from peers.results import Round
from peers.stage import Setting, Stage

OURS, SEND, BITMAP, CONVERT, RSYNC = (
    "hrl mirror",
    "btrfs send to btrfs receive",
    "QEMU bitmap over NBD",
    "qemu-img convert over NBD",
    "rsync",
)

Transport = Callable[[Stage, Path], tuple[float, int]]


def prepare(setting: Setting, case: str) -> None:
    """Makes the disks."""
    stage = Stage(setting)
    stage.ours(), stage.qemu(), stage.btrfs()


def measure(setting: Setting, case: str, round: Round) -> None:
    """One round."""
    stage = Stage(setting)
    home = setting.scratch / "transport"
    for name, transport in round.in_turn(CONTENDERS):
        clear(home)
        home.mkdir(parents=True)
        seconds, size = transport(stage, home)
        round.record(name, seconds=seconds, bytes=size)
    clear(home)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def by_mirror(stage: Stage, home: Path) -> tuple[float, int]:
    """`hrl mirror` through `hrl gateway` to a mirror that has everything up to the point before."""
    source, remote, pki = stage.ours(), home / "vault", home / "pki"
    hrl("mirror", source / "vault-before", remote)
    before = stored_bytes(remote)
    hrl("enroll", pki, "--host", "localhost")
    hrl("enroll", pki, "--client", "mirror", "--volume", "disk", "--to", home / "identity")
    port = free_port()
    listen = f"127.0.0.1:{port}"
    gateway, _ = start_telling(PROGRAMS / "hrl", "gateway", "--vault", remote, "--pki", pki, "--listen", listen)
    try:
        cold(source / "vault")

        def work() -> None:
            hrl("mirror", source / "vault", f"gateway://localhost:{port}?identity={home / 'identity'}")
            durable(remote)

        seconds = timed(work)
    finally:
        end(gateway)
    hrl("restore", remote, "disk", "--at", "after", "--to", home / "restored")
    same(home / "restored", source / "disk.img", OURS)
    return seconds, stored_bytes(remote) - before


def by_send(stage: Stage, home: Path) -> tuple[float, int]:
    """A pipe between both; the stream is counted from the file that the same snapshots gave."""
    source = stage.btrfs()
    run("cp", "--sparse=always", "--reflink=never", source / "remote.img", home / "remote.img")
    cold(home / "remote.img")
    with btrfs.mounted(source / "source.img", home) as local, btrfs.mounted(home / "remote.img", home) as remote:

        def work() -> None:
            pipe = f"btrfs send -q -p {local}/before {local}/after | btrfs receive -q {remote}"
            run("bash", "-o", "pipefail", "-c", pipe)
            run("sync", "-f", remote)

        seconds = timed(work)
        same(remote / "after" / "disk.img", local / "after" / "disk.img", SEND)
    return seconds, (source / "increment.stream").stat().st_size


def remote_disk(stage: Stage, home: Path) -> tuple[Path, int, "subprocess.Popen[bytes]"]:
    """The disk before, served by qemu-nbd on loopback."""
    remote, port, ready = home / "remote.img", free_port(), home / "pid"
    shutil.copy(stage.base, remote)
    cold(remote)
    how: list[Argument] = ["--persistent", "--cache=none", "--aio=io_uring", "--discard=unmap", "--pid-file", ready]
    return remote, port, start("qemu-nbd", *how, "-b", "127.0.0.1", "-p", str(port), "-f", "raw", remote, ready=ready)


def by_bitmap(stage: Stage, home: Path) -> tuple[float, int]:
    """QEMU's backup job of what the bitmap marks, onto an NBD export."""
    source = stage.qemu()
    cold(source / "disk.qcow2")
    remote, port, server = remote_disk(stage, home)
    address = {"type": "inet", "host": "127.0.0.1", "port": str(port)}
    copied = 0

    def work() -> None:
        nonlocal copied
        copied = qemu.backup(source / "disk.qcow2", {"driver": "nbd", "server": address}, home, bitmap="64k")
        durable(remote)

    try:
        seconds = timed(work)
    finally:
        end(server)
    same(remote, source / "disk.img", BITMAP)
    return seconds, copied


def by_convert(stage: Stage, home: Path) -> tuple[float, int]:
    """`qemu-img convert` of the whole disk onto an NBD export."""
    source = stage.qemu()
    cold(source / "disk.qcow2")
    remote, port, server = remote_disk(stage, home)

    def work() -> None:
        how = ["-n", "-S", "0", "-T", "none", "-m", "16", "-W", "-f", "qcow2", "-O", "raw"]
        run("qemu-img", "convert", *how, source / "disk.qcow2", f"nbd://127.0.0.1:{port}")
        durable(remote)

    try:
        seconds = timed(work)
    finally:
        end(server)
    same(remote, source / "disk.img", CONVERT)
    return seconds, stage.setting.disk_bytes


def by_rsync(stage: Stage, home: Path) -> tuple[float, int]:
    """rsync between two processes, by its algorithm of differences, in place."""
    source, remote = stage.ours() / "disk.img", home / "disk.img"
    shutil.copy(stage.base, remote)
    cold(source, remote)
    told = ""

    def work() -> None:
        nonlocal told
        how = ["--inplace", "--no-whole-file", "--ignore-times", "--stats", "--block-size=4096"]
        told = run("rsync", *how, source, remote)
        durable(remote)

    seconds = timed(work)
    same(remote, source, RSYNC)
    counts = re.findall(r"Total bytes (?:sent|received): ([\d,]+)", told)
    if len(counts) != 2:
        raise BenchError(f"rsync did not say what it sent: {told}")
    return seconds, sum(int(count.replace(",", "")) for count in counts)


CONTENDERS: dict[str, Transport] = {
    OURS: by_mirror,
    SEND: by_send,
    BITMAP: by_bitmap,
    CONVERT: by_convert,
    RSYNC: by_rsync,
}

QUESTION = Question(
    "transport",
    "Bringing the changes to another store",
    ("random",),
    (Metric("seconds", "time", "s", 2), Metric("bytes", "sent", "MiB", 1, MIB)),
    measure,
    prepare,
    ratios=tuple(Ratio(peer, OURS, metric) for metric in ("bytes", "seconds") for peer in (SEND, BITMAP, CONVERT, RSYNC)),
    ratio_title="times ours",
    plots=("bytes", "seconds"),
)
