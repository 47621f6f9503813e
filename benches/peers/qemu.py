"""QEMU's own replication: qcow2 files with persistent dirty bitmaps, and its backup job, asked for over QMP."""

import json
import socket
from pathlib import Path
from typing import Any

from peers.machine import BenchError, clear, end, run, start

BITMAPS = {"64k": 65_536, "4k": 4_096}


def to_qcow2(raw: Path, image: Path, *, bitmap: str | None = None) -> None:
    """A qcow2 file of a raw disk, every cluster allocated, with a persistent bitmap if asked."""
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-S", "0", raw, image)
    if bitmap:
        run("qemu-img", "bitmap", "--add", "-g", str(BITMAPS[bitmap]), image, bitmap)


def usable_bitmap(image: Path, bitmap: str) -> bool:
    """Whether a bitmap may be used: one that was in use when its server died is inconsistent."""
    information = json.loads(run("qemu-img", "info", "-f", "qcow2", "--output=json", image))
    for each in information["format-specific"]["data"].get("bitmaps", []):
        if each["name"] == bitmap:
            return "in-use" not in each["flags"]
    raise BenchError(f"{image} has no bitmap {bitmap}")


class Monitor:
    """QMP on a UNIX socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r")
        self._next()
        self.ask("qmp_capabilities")

    def _next(self) -> dict[str, Any]:
        line = self.lines.readline()
        if not line:
            raise BenchError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, command: str, **arguments: object) -> Any:
        """The answer to a command."""
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while "event" in (message := self._next()):
            pass
        if "error" in message:
            raise BenchError(f"{command}: {message['error']['desc']}")
        return message["return"]

    def job_done(self, job: str) -> int:
        """Waits until a block job has ended; the bytes that it went through."""
        while True:
            message = self._next()
            if message.get("event") == "BLOCK_JOB_COMPLETED" and message["data"]["device"] == job:
                data = message["data"]
                if "error" in data:
                    raise BenchError(f"{job}: {data['error']}")
                return int(data["offset"])


def backup(image: Path, target: dict[str, object], home: Path, *, bitmap: str | None) -> int:
    """A backup of a qcow2 disk onto a block node: what a bitmap marks, or without one everything; gives the bytes
    copied.

    The bitmap stays as it is, so that the next round finds the same.
    """
    path = home / "qmp.sock"
    disk = {"driver": "file", "node-name": "file", "filename": str(image), "cache": {"direct": True}, "aio": "io_uring"}
    clear(path)
    process = start(
        "qemu-storage-daemon",
        *("--chardev", f"socket,id=monitor,path={path},server=on,wait=off"),
        *("--monitor", "chardev=monitor"),
        ready=path,
    )
    try:
        monitor = Monitor(path)
        monitor.ask("blockdev-add", **disk)
        monitor.ask("blockdev-add", driver="qcow2", file="file", **{"node-name": "disk"})
        monitor.ask("blockdev-add", **target, **{"node-name": "target"})
        sync = {"sync": "bitmap", "bitmap": bitmap, "bitmap-mode": "never"} if bitmap else {"sync": "full"}
        monitor.ask("blockdev-backup", device="disk", target="target", **{"job-id": "backup"}, **sync)
        copied = monitor.job_done("backup")
        monitor.ask("blockdev-del", **{"node-name": "target"})
        return copied
    finally:
        end(process)


def file_target(path: Path, *, format: str = "qcow2") -> dict[str, object]:
    """A backup's target in a file, which is written directly."""
    inner = {"driver": "file", "filename": str(path), "cache": {"direct": True}, "aio": "io_uring"}
    alone = {"backing": None} if format == "qcow2" else {}
    return {"driver": format, "file": inner, **alone}


def increment(full: Path, path: Path) -> None:
    """An empty qcow2 file over a full backup, as the target of an incremental one."""
    clear(path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", full, "-F", "qcow2", path)


def copy_bitmap(image: Path, home: Path, bitmap: str, to: Path) -> int:
    """Reads what a bitmap marks over NBD, as backup programs do, into a sparse file; gives the bytes."""
    sock = home / "bitmap.sock"
    command = ["qemu-nbd", "--persistent", "--read-only", "--cache=none", "--aio=io_uring", "-f", "qcow2", "-B", bitmap]
    process = start(*command, "-k", sock, image, ready=sock)
    try:
        # Debian has libnbd's module for its own interpreter only.
        return int(
            run("/usr/bin/python3", Path(__file__).with_name("bitmap_reader.py"), f"nbd+unix:///?socket={sock}", bitmap, to)
        )
    finally:
        end(process)
