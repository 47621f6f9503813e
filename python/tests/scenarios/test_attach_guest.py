"""A virtual machine attaches the disk that it runs from, dies, and boots from the points of that."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import hrl, hrl_json, need, run
from guest import PARTITION_BYTES, Guest, new_disk
from machine import mounted

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
LIMIT_SECONDS = 240.0
POINTS = 4
# Each number is durable in the guest before it is acknowledged on the other disk.
WRITER = """
n=0
while :; do
    n=$((n + 1))
    echo "begun $n $(date +%s.%N)" >> /kit/log
    echo "$n" >> /root/numbers
    sync /root/numbers
    echo "done $n $(date +%s.%N)" >> /kit/log
done
"""


def program() -> Path:
    """The example of the crate, which is built if it is not there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    command = ["cargo", "build", "-q", "-p", "hrl-attach", "--example", "attach_disk"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target / "debug" / "examples" / "attach_disk"


def kit(directory: Path) -> Path:
    """A second disk with the program, and with room for its vault and state directory."""
    files, image = directory / "kit", directory / "kit.img"
    files.mkdir()
    run("cp", program(), files)
    (files / "writer").write_text(WRITER)
    image.touch()
    os.truncate(image, 1024 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", files, image)
    return image


@contextmanager
def loop(image: Path, offset: int = 0) -> Iterator[str]:
    """A loop device of what begins at an offset."""
    device = run("losetup", "-f", "--show", "-o", offset, image).strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


def numbers_in(image: Path) -> int:
    """The last number in a restored disk."""
    command = ["debugfs", "-R", "cat /root/numbers", f"{image}?offset={PARTITION_BYTES}"]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert lines == [str(number) for number in range(1, len(lines) + 1)], "a number is missing before another one"
    return len(lines)


# Emulation takes a minute and a half: `make test-long`, with two kernels.
@pytest.mark.skipif("HRL_LONG" not in os.environ, reason="takes long (HRL_LONG=1)")
def test_a_guest_attaches_its_root_disk_is_killed_and_boots_from_a_point(tmp_path: Path) -> None:
    """Promise 14: what was acknowledged before the cut is in the point, and nothing that began after it."""
    need("debugfs", "e2fsck", "mkfs.ext4", "losetup", "cargo")
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk, second = new_disk(tmp_path / "disk.img"), kit(tmp_path)
    with Guest(tmp_path, disk, second).wait_up() as guest:
        guest.run("mkdir -p /kit && mount /dev/vdb /kit && mount -t bpf bpf /sys/fs/bpf")
        guest.run("setsid /kit/attach_disk /dev/vda /kit/vault /kit/state 5 > /kit/said 2>&1 < /dev/null &")
        guest.run("setsid sh /kit/writer > /dev/null 2>&1 < /dev/null &")
        end = time.monotonic() + LIMIT_SECONDS
        while f"points {POINTS}," not in (said := guest.run("cat /kit/said")):
            assert time.monotonic() < end, said
            time.sleep(1)
        guest.run("sync")
        guest.kill()
    with loop(second) as device, mounted(device, tmp_path / "mnt") as files:
        log = [line.split() for line in (files / "log").read_text().splitlines() if line.count(" ") == 2]
        points = hrl_json("points", files / "vault")
        assert len(points) >= POINTS - 1, points
        for number, point in enumerate(points):
            image = tmp_path / f"point{number}.img"
            hrl("restore", files / "vault", "disk", "--at", point["id"], "--to", image)
            # Replays the journal, as after a power failure.
            with loop(image, PARTITION_BYTES) as partition:
                check = subprocess.run(["e2fsck", "-f", "-p", partition], capture_output=True, text=True)
            assert check.returncode in (0, 1), check.stdout
            last = numbers_in(image)
            cut, later = (p["time_ns"] / 1e9 for p in (points[number], points[min(number + 1, len(points) - 1)]))
            acknowledged = [int(n) for what, n, at in log if what == "done" and float(at) < cut]
            begun = [int(n) for what, n, at in log if what == "begun" and float(at) > later > cut]
            assert not acknowledged or last >= acknowledged[-1], f"{point}: acknowledged was {acknowledged[-1]}, not {last}"
            assert not begun or last < begun[0], f"{point}: {begun[0]} had not begun, {last} is there"
    newest = tmp_path / f"point{len(points) - 1}.img"
    with Guest(tmp_path, newest, name="second").wait_up() as guest:
        assert guest.run("tail -n 1 /root/numbers").strip() == str(last)
