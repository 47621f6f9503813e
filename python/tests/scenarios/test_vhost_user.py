"""A virtual machine writes to a disk by vhost-user-blk while its server is killed and started again."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import run
from guest import Guest, new_disk

ROOT = Path(__file__).parents[3]
DISK_BYTES = 64 << 20
BLOCK = 4096
KILLS = 4
# A number in each block of the disk, and then in the log.
WRITER = """
n=0
while :; do
    n=$((n + 1))
    printf '%-4096s' "$n" | dd of=/dev/vdb bs=4096 seek=$n count=1 iflag=fullblock oflag=direct 2>/dev/null || exit
    echo "$n" >> /run/log
done
"""


@contextmanager
def served(socket: Path, disk: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of a file, which is killed at the end."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "debug" / "examples" / "vhost_serve"
    with subprocess.Popen([program, socket, disk, str(DISK_BYTES)], stdin=subprocess.PIPE) as server:
        try:
            yield server
        finally:
            server.kill()


def written(guest: Guest) -> int:
    """The last number that the guest knows to be written."""
    return int(guest.run("tail -n 1 /run/log 2>/dev/null || true").strip() or 0)


def wait_for(guest: Guest, number: int) -> None:
    """Waits until the guest has written a number."""
    end = time.monotonic() + 60
    while written(guest) < number:
        assert time.monotonic() < end, "the guest goes on once there is a server"
        time.sleep(0.1)


# Emulation takes a minute: `make test-long`.
@pytest.mark.skipif("HRL_LONG" not in os.environ, reason="takes long (HRL_LONG=1)")
def test_a_guest_loses_nothing_while_its_server_is_killed(tmp_path: Path) -> None:
    """What the guest heard of is on the disk, and requests that were under way are answered by the next server."""
    run("cargo", "build", "-q", "--manifest-path", ROOT / "Cargo.toml", "-p", "hrl-vhost-user", "--example", "vhost_serve")
    socket, disk = tmp_path / "s", tmp_path / "disk.img"
    with ExitStack() as stack:
        server = stack.enter_context(served(socket, disk))
        while not socket.exists():
            time.sleep(0.05)
        guest = stack.enter_context(Guest(tmp_path, new_disk(tmp_path / "root.img"), vhost_user=socket))
        guest.wait_up()
        assert int(guest.run("blockdev --getsize64 /dev/vdb")) == DISK_BYTES
        guest.write("/run/writer", WRITER.encode())
        guest.run("setsid sh /run/writer > /run/said 2>&1 < /dev/null &")
        for _ in range(KILLS):
            wait_for(guest, written(guest) + 20)
            server.kill()
            server.wait()
            time.sleep(0.5)
            stalled = written(guest)
            server = stack.enter_context(served(socket, disk))
            wait_for(guest, stalled + 5)
        last = written(guest)
    with open(disk, "rb") as found:
        for number in range(1, last + 1):
            found.seek(number * BLOCK)
            assert found.read(BLOCK).split() == [str(number).encode()], f"block {number} of {last}"
