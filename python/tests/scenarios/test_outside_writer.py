"""QEMU mirrors a running disk onto a protected volume: points are the disk's states, and none lands in the copy."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import LIMIT, Agent, hrl, hrl_json, need, run

from hrl.cli.exits import Exit

MIB = 1 << 20
DISK_BYTES = 64 * MIB
# What the disk had before it was mirrored.
BEFORE = 0xAA
BLOCK = 4096
# The writer goes around in so many blocks: one write after the other, each with the next number.
BLOCKS = 64


class Daemon:
    """A storage daemon of QEMU that serves a disk, and mirrors it elsewhere."""

    def __init__(self, directory: Path, disk: Path, target: str) -> None:
        self.monitor, self.front = directory / "qmp", directory / "front"
        server, _, path = target.partition("?socket=")
        export = server.rpartition("/")[2]
        nodes = (
            f"driver=file,filename={disk},node-name=file",
            "driver=raw,file=file,node-name=disk",
            f"driver=nbd,server.type=unix,server.path={path},export={export},node-name=target",
        )
        command = [
            *("qemu-storage-daemon", "--chardev", f"socket,path={self.monitor},server=on,wait=off,id=monitor"),
            *("--monitor", "chardev=monitor"),
            *(word for node in nodes for word in ("--blockdev", node)),
            *("--nbd-server", f"addr.type=unix,addr.path={self.front}"),
            *("--export", "type=nbd,id=front,node-name=disk,name=disk,writable=on"),
        ]
        self.process = subprocess.Popen(command)
        self._line = self._connected()
        self._lines = self._line.makefile("r")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def _connected(self) -> socket.socket:
        end = time.monotonic() + LIMIT
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.monitor))
                return line
            except OSError:
                line.close()
                assert self.process.poll() is None and time.monotonic() < end, "the daemon does not start"
                time.sleep(0.05)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Returns what a command answers."""
        self._line.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def is_synced(self) -> bool:
        """Reports whether the mirror says that it is in sync: every write is in the copy when it is answered."""
        (job,) = self.ask("query-block-jobs")
        return bool(job.get("actively-synced", job["len"] == job["offset"]))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._line.close()


@contextmanager
def writer(front: Path) -> Iterator[Callable[[], int]]:
    """Writes one number after the other into blocks in turn. Yields a function that returns the last one."""
    program = subprocess.Popen(
        ["qemu-io", "-f", "raw", f"nbd+unix:///disk?socket={front}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin and program.stdout
    ended, last = threading.Event(), 0

    def write() -> None:
        nonlocal last
        assert program.stdin and program.stdout
        while not ended.is_set():
            number = last + 1
            try:
                program.stdin.write(f"write -P {number % 251} {number % BLOCKS * BLOCK} {BLOCK}\n")
                program.stdin.flush()
                while "ops" not in (line := program.stdout.readline()):
                    if not line:
                        return
            except OSError:
                return
            last = number

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: last
    finally:
        ended.set()
        program.kill()
        thread.join()
        program.wait()


def refused(agent: Agent, cause: str) -> None:
    """No point can be taken, because of the copy."""
    assert cause in hrl("point", agent.state, code=Exit.NOT_ORDERED)


def state_of(content: bytes, written: int) -> int:
    """Returns after which number this was the disk."""
    found = [content[block * BLOCK] for block in range(BLOCKS)]
    assert all(content[b * BLOCK : (b + 1) * BLOCK] == bytes([found[b]]) * BLOCK for b in range(BLOCKS)), "a torn block"
    assert content[BLOCKS * BLOCK :] == bytes([BEFORE]) * (DISK_BYTES - BLOCKS * BLOCK), "the copy is not whole"
    for last in range(written + 1):
        newest = {number % BLOCKS: number % 251 for number in range(max(1, last - BLOCKS + 1), last + 1)}
        if found == [newest.get(block, BEFORE) for block in range(BLOCKS)]:
            return last
    pytest.fail(f"no state of the disk: {found}")


def test_no_point_lands_in_a_copy_and_those_of_the_mirror_are_states_of_the_disk(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    """Promise 7: nothing counts as in order before the mirror says so, nor after it is gone."""
    need("qemu-storage-daemon", "qemu-io")
    disk, target = tmp_path / "running.img", tmp_path / "disk.img"
    for image in (disk, target):
        run("truncate", "-s", DISK_BYTES, image)
    run("qemu-io", "-f", "raw", "-c", f"write -P {BEFORE} 0 {DISK_BYTES}", disk)
    policy = tmp_path / "points.toml"
    policy.write_text("segment_interval = '100ms'\ncrash_point_interval = '200ms'\n")
    agent = start("--unordered", "--policy", str(policy))
    hrl("status", agent.state, "--wait", "running")
    refused(agent, "initial-replication")
    daemon = Daemon(tmp_path, disk, agent.uri)
    points = []
    try:
        with writer(daemon.front) as written:
            mirror = {"job-id": "mirror", "device": "disk", "target": "target", "sync": "full", "granularity": 4096}
            daemon.ask("blockdev-mirror", **mirror, **{"copy-mode": "write-blocking", "speed": 24 * MIB})
            while not daemon.is_synced():
                refused(agent, "initial-replication")
            daemon.ask("block-job-set-speed", device="mirror", speed=0)
            hrl("in-sync", agent.state)
            hrl("status", agent.state, "--wait", "ordered")
            for _ in range(5):
                before = written()
                point = hrl_json("point", agent.state)
                points.append((point["id"], before, written() + 1))
                time.sleep(0.3)
            # The client that wrote goes away in the middle of it.
            daemon.kill()
        end = time.monotonic() + LIMIT
        while hrl_json("status", agent.state)["mode"] == "ordered":
            assert time.monotonic() < end, "the agent goes on as if the mirror were there"
        refused(agent, "outside-writer")
    finally:
        daemon.kill()
    agent.stop()
    listed = hrl_json("points", agent.vault)
    assert len(listed) > len(points), "no point by policy"
    for number, point in enumerate(listed):
        image = tmp_path / f"point{number}.img"
        hrl("restore", agent.vault, "disk.img", "--at", point["id"], "--to", image)
        state = state_of(image.read_bytes(), written() + 1)
        for _, before, after in (known for known in points if known[0] == point["id"]):
            assert before <= state <= after, point
        image.unlink()
    gaps = {entry["unordered"] for entry in hrl_json("timeline", agent.vault)}
    assert "outside-writer" in gaps, gaps
