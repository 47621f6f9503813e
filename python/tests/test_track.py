"""`hrl track` and `hrl.Tracker` on a loop device. Needs root, loop devices and BPF."""

import binascii
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import hrl as command
from conftest import hrl_json

import hrl

BLOCK = 4096
DISK_BYTES = 8 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """Makes a loop device."""
    file = tmp_path / "disk"
    with file.open("wb") as new:
        new.truncate(DISK_BYTES)
    made = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip("no loop device")
    path = made.stdout.strip()
    try:
        yield path
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


@pytest.fixture
def state(disk: str, tmp_path: Path) -> Iterator[Path]:
    """Returns a state directory in which the disk is tracked, and stops it at the end."""
    state = tmp_path / "state"
    try:
        hrl.Tracker.start(disk, state=state)
    except hrl.HrlError as error:
        if error.kind in ("denied", "unsupported"):
            pytest.skip(str(error))
        raise
    try:
        yield state
    finally:
        for tracker in hrl.Tracker.all(state=state):
            tracker.stop()


def write(disk: str, block: int) -> None:
    """Writes a block past the page cache's delay."""
    file = os.open(disk, os.O_WRONLY)
    os.pwrite(file, b"x" * BLOCK, block * BLOCK)
    os.fsync(file)
    os.close(file)


def test_changes_between_checkpoints_are_exact(disk: str, state: Path) -> None:
    tracker = hrl.Tracker(disk, state=state)
    with pytest.raises(hrl.AlreadyExistsError):
        hrl.Tracker.start(disk, state=state)
    made = tracker.checkpoint("a")
    assert (made.name, made.everything, made.is_current, made.disk_bytes) == ("a", None, True, DISK_BYTES)
    write(disk, 3)
    now = tracker.changes("a")
    assert (now.since, now.until, now.exact, now.everything, now.total_bytes) == ("a", None, True, None, BLOCK)
    assert [tuple(extent) for extent in now] == [(3 * BLOCK, BLOCK)]
    tracker.checkpoint("b")
    write(disk, 5)
    tracker.checkpoint("c")
    assert [extent.offset for extent in tracker.changes("a", "c")] == [3 * BLOCK, 5 * BLOCK]
    tracker.forget("b")
    assert [extent.offset for extent in tracker.changes("a", "c")] == [3 * BLOCK, 5 * BLOCK]
    assert [one.name for one in tracker.checkpoints()] == ["a", "c"]
    with pytest.raises(hrl.NotFoundError):
        tracker.changes("b")
    assert tracker.status().lost is None
    tracker.stop()
    with pytest.raises(hrl.NotFoundError):
        hrl.Tracker(disk, state=state)


def test_the_command_serves_the_changes_as_a_dirty_bitmap(disk: str, state: Path, tmp_path: Path) -> None:
    here = ("--state", state)
    made = hrl_json("track", "checkpoint", disk, "a", *here)
    assert made["exact"]
    write(disk, 7)
    assert command("track", "changes", disk, "--from", "a", *here) == f"{7 * BLOCK} {BLOCK}\n"
    found = hrl_json("track", "changes", disk, "--from", "a", *here)
    assert found["extents"] == [{"offset": 7 * BLOCK, "length": BLOCK, "zero": False}]
    assert (found["exact"], found["bytes"], found["to"]) == (True, BLOCK, None)
    assert hrl_json("track", "status", *here)[0]["checkpoints"] == 1
    assert "a " in command("track", "checkpoints", disk, *here)

    socket = tmp_path / "nbd"
    serve = [sys.executable, "-P", "-m", "hrl", "track", "serve", disk, "--from", "a", "--nbd", f"unix:{socket}", "--json"]
    with subprocess.Popen([*serve, *map(str, here)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            uri = json.loads(server.stdout.readline())["uri"]
            shown = subprocess.run(
                ["nbdinfo", "--map=qemu:dirty-bitmap:changes", "--json", uri], capture_output=True, text=True, check=True
            )
        finally:
            server.terminate()
    dirty = [(one["offset"], one["length"]) for one in json.loads(shown.stdout) if one["type"] == 1]
    assert dirty == [(7 * BLOCK, BLOCK)]

    assert "not tracked any more" in command("track", "stop", disk, *here)
    command("track", "changes", disk, "--from", "a", *here, code=3)


def test_a_checkpoint_of_another_boot_is_refused(disk: str, state: Path) -> None:
    command("track", "checkpoint", disk, "a", "--state", state)
    record = next(state.glob("*/tracked"))
    text = record.read_text().rpartition("end ")[0]
    lines = ["boot another" if line.startswith("boot ") else line for line in text.splitlines()]
    changed = "\n".join(lines) + "\n"
    record.write_text(f"{changed}end {binascii.crc32(changed.encode()):08x}\n")
    assert "everything may have changed" in command("track", "changes", disk, "--from", "a", "--state", state, code=12)
    assert "not tracked any more" in command("track", "status", "--state", state, code=12)
