"""What several questions start from: a disk of which the content before and after 26,214 random writes of 4 KiB is
kept, in each contender's own form. It is made once and only read afterwards; making it is no part of any measurement.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from peers import btrfs, qemu
from peers.load import fill, write_blocks
from peers.machine import MIB, clear, durable, run
from peers.servers import ours, qemu_nbd

SEED = 7


@dataclass(frozen=True)
class Setting:
    """Where scratch files are, and how large things are."""

    scratch: Path
    disk_bytes: int
    changes: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.disk_bytes // MIB} MiB, {self.changes} changes, {self.seconds:g} s"


class Stage:
    """Disks before and after; `compressible` says whether their content compresses 2 : 1 or not at all."""

    def __init__(self, setting: Setting, *, compressible: bool = True) -> None:
        self.setting = setting
        self.compressible = compressible
        self.home = (
            setting.scratch / f"stage-{setting.disk_bytes // MIB}-{setting.changes}-{'text' if compressible else 'noise'}"
        )
        self.home.mkdir(parents=True, exist_ok=True)

    def _write(self, target: Path | str) -> None:
        write_blocks(self.setting.changes, target, self.setting.disk_bytes, seed=SEED, compressible=self.compressible)

    @property
    def base(self) -> Path:
        """The disk before."""
        path = self.home / "base.img"
        if not path.exists():
            partial = path.with_suffix(".partial")
            fill(partial, self.setting.disk_bytes, noise=0.5 if self.compressible else 1.0)
            partial.rename(path)
        return path

    def ours(self) -> Path:
        """Our vault `vault`, with the points `before` and `after`; `vault-before`, as it was then; the disk,
        `disk.img`.
        """
        home = self.home / "ours"
        if not (home / "ready").exists():
            clear(home)
            home.mkdir()
            shutil.copy(self.base, home / "disk.img")
            with ours(home / "disk.img", home, "data") as agent:
                agent.ask("mark before")
                agent.ask("replicated")
                shutil.copytree(home / "vault", home / "vault-before")
                self._write(agent.uri)
                agent.ask("mark after")
                agent.ask("replicated")
            durable(home)
            (home / "ready").touch()
        return home

    def qemu(self) -> Path:
        """`disk.qcow2` with a bitmap of the changes in blocks of 64 KiB and one of 4 KiB; `full.qcow2`, as it was
        before; `increment.qcow2`, the backup of the changes over it; the content after, `disk.img`.
        """
        home = self.home / "qemu"
        if not (home / "ready").exists():
            clear(home)
            home.mkdir()
            qemu.to_qcow2(self.base, home / "full.qcow2")
            qemu.to_qcow2(self.base, home / "disk.qcow2", bitmap="64k")
            run("qemu-img", "bitmap", "--add", "-g", "4096", home / "disk.qcow2", "4k")
            with qemu_nbd(home / "disk.qcow2", home, "qcow2") as server:
                self._write(server.uri)
            run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", home / "disk.qcow2", home / "disk.img")
            qemu.increment(home / "full.qcow2", home / "increment.qcow2")
            qemu.backup(home / "disk.qcow2", qemu.file_target(home / "increment.qcow2"), home, bitmap="64k")
            durable(home)
            (home / "ready").touch()
        return home

    def btrfs(self) -> Path:
        """`source.img` with the snapshots `before` and `after` of a subvolume with `disk.img`; `remote.img`, which
        received the first; the streams of both, `full.stream` and `increment.stream`.
        """
        home = self.home / "btrfs"
        if not (home / "ready").exists():
            clear(home)
            home.mkdir()
            size = 3 * self.setting.disk_bytes + 512 * MIB
            btrfs.make(home / "source.img", size)
            btrfs.make(home / "remote.img", size)
            with btrfs.mounted(home / "source.img", home) as place, btrfs.mounted(home / "remote.img", home) as remote:
                run("btrfs", "subvolume", "create", place / "live")
                shutil.copy(self.base, place / "live" / "disk.img")
                btrfs.snapshot(place, "before")
                self._write(place / "live" / "disk.img")
                btrfs.snapshot(place, "after")
                run("btrfs", "send", "-q", "-f", home / "full.stream", place / "before")
                run("btrfs", "send", "-q", "-p", place / "before", "-f", home / "increment.stream", place / "after")
                run("btrfs", "receive", "-q", "-f", home / "full.stream", remote)
                run("sync", "-f", remote)
            durable(home)
            (home / "ready").touch()
        return home
