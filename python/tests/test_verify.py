"""Checks of recovery points: file systems, commands and boots, and what becomes of their verdicts."""

import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import hrl, hrl_json, need, run

import hrl as package
from hrl.cli.exits import Exit

MIB = 1 << 20
POLICY = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "retention": "none"}
UNSUPPORTED = Exit.UNSUPPORTED


@pytest.fixture
def mounts() -> None:
    """Skips where nothing can be mounted."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting needs root and /dev/fuse")
    need("nbdfuse", "losetup", "mkfs.ext4", "mkfs.xfs", "xfs_repair")


def stdout_failing(*arguments: object, code: int) -> str:
    """The standard output of a command that ends with a code."""
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def leftovers() -> list[str]:
    """Mounts and loop devices of these checks; other tests have theirs in directories of their own."""
    lines = Path("/proc/mounts").read_text().splitlines() + run("losetup", "-l", "-n", "-O", "BACK-FILE").splitlines()
    return [line for line in lines if f"{tempfile.gettempdir()}/hrl-verify-" in line]


def protect(directory: Path, disk: Path, damage: Callable[[package.Protection], object], volume: str = "v") -> list[str]:
    """Marks the point `good`, damages the disk, and marks `bad`; the identities of both."""
    vault = package.Vault(str(directory / "vault"), create=True)
    state = directory / f"state-{volume}"
    with package.Protection(disk, vault=vault, state=state, volume=volume, policy=POLICY) as protection:
        protection.wait_ordered()
        points = [protection.mark("good").id]
        damage(protection)
        points.append(protection.mark("bad").id)
        protection.wait_replicated()
    return points


def ext4(disk: Path, *, offset: int = 0, size: int = 16 * MIB) -> None:
    """An image with an ext4 that has one file."""
    files = disk.with_suffix(".files")
    files.mkdir()
    (files / "hello").write_text("world\n")
    disk.touch()
    os.truncate(disk, offset + size)
    run("mkfs.ext4", "-q", "-F", "-b", 4096, "-E", f"offset={offset}", "-d", files, disk, size // 4096)


def clear_block_bitmap(protection: package.Protection) -> None:
    """Damage that a mount does not notice: the first group's bitmap says that every block is free."""
    (block,) = struct.unpack("<I", protection.read(4096, 4))
    protection.write(block * 4096, bytes(4096))


def test_a_damaged_ext4_is_found_and_the_good_point_stays(tmp_path: Path, mounts: None) -> None:
    """Promise 5 for the last good point, and what `newest-good` is."""
    disk, vault = tmp_path / "disk.img", tmp_path / "vault"
    ext4(disk)
    good, bad = protect(tmp_path, disk, clear_block_bitmap)
    test = 'echo "$HRL_POINT"; blkid -p "$HRL_DEVICE" >/dev/null && test "$(cat "$HRL_MOUNT/hello")" = world'
    told = hrl_json("verify", vault, "v", "--at", "good", "--mount", "--command", f"{test} && rm $HRL_MOUNT/hello")
    assert [(row["kind"], row["ok"], row["point"]) for row in told["checks"]] == [
        ("file-system", True, good),
        ("command", True, good),
    ]
    assert told["checks"][0]["text"] == "ext4 mounted and checked" and good in told["checks"][1]["text"]
    hrl("verify", vault, "v", "--mount", "--no-fsck", "--no-record")
    assert package.Vault(str(vault)).replica("v").points()[-1].verdicts == []
    hrl("verify", vault, "v", "--mount", code=Exit.CHECK_FAILED)
    replica = package.Vault(str(vault)).replica("v")
    (verdict,) = replica.points()[-1].verdicts
    assert not verdict.ok and "e2fsck ended with 4" in verdict.text and verdict.point == bad
    assert "file-system failed" in hrl("points", vault)
    hrl("restore", vault, "v", "--at", "newest-good", "--to", tmp_path / "restored")
    restored = (tmp_path / "restored").read_bytes()
    with replica.view("good") as view:
        assert restored == view.read(0, view.size_bytes)
    # Later points make both ones that retention may drop, were it not for the verdict.
    with package.Protection(
        disk, vault=package.Vault(str(vault)), state=tmp_path / "state-v", volume="v", policy=POLICY
    ) as protection:
        protection.wait_ordered()
        for number in range(4):
            protection.write(8192 * 512 + number * 4096, b"later" * 100 + bytes(12))
            protection.mark(f"later {number}")
            protection.wait_replicated()
    hrl("compact", vault, "--keep", "0s all; grace 1s", "--all")
    left = [point["id"] for point in hrl_json("points", vault)]
    assert good in left and bad not in left
    assert leftovers() == []


def test_a_damaged_xfs_is_found(tmp_path: Path, mounts: None) -> None:
    disk, vault = tmp_path / "disk.img", tmp_path / "vault"
    disk.touch()
    os.truncate(disk, 320 * MIB)
    run("mkfs.xfs", "-q", disk)
    protect(tmp_path, disk, lambda protection: protection.write(512, b"\xa5" * 512))
    assert "xfs mounted and checked" in hrl("verify", vault, "v", "--at", "good", "--mount")
    told = stdout_failing("verify", vault, "--at", "bad", "--mount", code=Exit.CHECK_FAILED)
    assert "file-system failed" in told and "xfs_repair" in told
    assert leftovers() == []


def test_each_partition_is_checked(tmp_path: Path, mounts: None) -> None:
    disk, vault = tmp_path / "disk.img", tmp_path / "vault"
    ext4(disk, offset=MIB, size=8 * MIB)
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 8 * 2048)
    with open(disk, "r+b") as file:
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")
    protect(tmp_path, disk, lambda protection: protection.write(MIB, bytes(4096)))
    done = hrl("verify", vault, "v", "--at", "good", "--mount", "--command", "grep world $HRL_MOUNT/p1/hello")
    assert "partition 1: ext4 mounted and checked" in done and "command ok: exit status 0: world" in done
    assert "partition 1: no file system was found" in stdout_failing("verify", vault, "--mount", code=Exit.CHECK_FAILED)
    assert leftovers() == []


def test_a_signal_takes_everything_down(tmp_path: Path, mounts: None) -> None:
    disk, vault = tmp_path / "disk.img", tmp_path / "vault"
    ext4(disk)
    protect(tmp_path, disk, clear_block_bitmap)
    command = ["verify", vault, "v", "--at", "good", "--mount", "--command", "cd $HRL_MOUNT; touch ready; sleep 60"]
    process = subprocess.Popen([sys.executable, "-P", "-m", "hrl", *map(str, command)])
    end = time.monotonic() + 30
    while not list(Path(tempfile.gettempdir()).glob("hrl-verify-*/mount/ready")) and time.monotonic() < end:
        time.sleep(0.05)
    assert leftovers() != []
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert leftovers() == []
    point = package.Vault(str(vault)).replica("v").points()[0]
    assert point.verdicts == []


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """A vault with a volume that begins with READY, and then no longer."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"READY\n")
    os.truncate(disk, MIB)
    protect(tmp_path, disk, lambda protection: protection.write(0, bytes(512)))
    return tmp_path / "vault"


def test_a_command_decides(vault: Path) -> None:
    need("qemu-io")
    reads = 'qemu-io -f raw -c "read -v 0 512" "$HRL_NBD_URI" | grep -q READY'
    hrl("verify", vault, "v", "--at", "good", "--command", reads)
    told = stdout_failing(
        "verify", vault, "v", "--command", f"{reads} || {{ yes é | head -9999; exit 3; }}", code=Exit.CHECK_FAILED
    )
    assert "command failed: exit status 3" in told
    slow = stdout_failing("verify", vault, "v", "--command", "sleep 60 & sleep 60", "--limit", "1s", code=Exit.CHECK_FAILED)
    assert "not done within 1 s" in slow
    good, bad = package.Vault(str(vault)).replica("v").points()
    assert [v.ok for v in good.verdicts] == [True] and [v.text for v in bad.verdicts] == ["not done within 1 s"]
    long = "head -c 5000 /dev/zero | tr '\\0' x"
    hrl("verify", vault, "v", "--command", f"{long}; printf 'é%.0s' $(seq 900)")


def test_impossible_requests_are_refused(vault: Path) -> None:
    assert "--mount" in hrl("verify", vault, "v", "--at", "good", code=2)
    hrl("verify", vault, "v", "--command", "true", "--limit", "soon", code=2)
    between = package.Vault(str(vault)).replica("v").points()[0].sequence + 1
    hrl("verify", vault, "v", "--at", between, "--command", "true", code=Exit.NOT_FOUND)
    hrl("verify", vault, "v", "--boot", "--qemu", "no-such-qemu", code=UNSUPPORTED)
    hrl("verify", vault, "v", "--boot", "--boot-pattern", "(", code=2)
    assert all(point.verdicts == [] for point in package.Vault(str(vault)).replica("v").points())


@pytest.mark.parametrize("stride", [97, 1 << 15])
def test_a_point_that_cannot_be_read_is_bad(tmp_path: Path, stride: int) -> None:
    """Promise 11: neither what cannot be opened nor what fails in the middle is good, whatever the command makes of it."""
    need("qemu-io")
    disk, vault = tmp_path / "disk.img", tmp_path / "vault"
    disk.touch()
    os.truncate(disk, MIB)
    protect(tmp_path, disk, lambda protection: protection.write(0, os.urandom(1 << 16)))
    newest = max(vault.rglob("*.hrl"), key=lambda path: path.name)
    damaged = bytearray(newest.read_bytes())
    for place in range(stride, len(damaged), stride):
        damaged[place] ^= 0xFF
    newest.chmod(0o644)
    newest.write_bytes(damaged)
    reads = 'qemu-io -f raw -c "read 0 1M" "$HRL_NBD_URI"; true'
    stdout_failing("verify", vault, "v", "--command", reads, code=Exit.CHECK_FAILED)
    (verdict,) = package.Vault(str(vault)).replica("v").points()[-1].verdicts
    assert not verdict.ok and verdict.kind == "command"
    assert ("expected" if stride == 97 else "1 request to the point failed") in verdict.text


def fake_qemu(directory: Path, body: str) -> Path:
    """A program with the arguments of QEMU that knows its disk and its console."""
    program = directory / "fake-qemu"
    program.write_text(
        f"""#!/bin/bash
for argument; do case "$argument" in
  file:*) console=${{argument#file:}};;
  file=nbd+unix*) disk=${{argument#file=}}; disk=${{disk%%,*}};;
esac; done
{body}
"""
    )
    program.chmod(0o755)
    return program


def test_a_boot_is_seen_on_the_console(vault: Path, tmp_path: Path) -> None:
    need("qemu-io")
    qemu = fake_qemu(
        tmp_path,
        'if qemu-io -f raw -c "read -v 0 512" "$disk" | grep -q READY\n'
        'then printf "host login: " > $console; exec sleep 60; fi\n'
        'echo "Kernel panic - not syncing: no root" > $console; exec sleep 60',
    )
    good = hrl_json("verify", vault, "v", "--at", "good", "--boot", "--qemu", qemu)
    assert good["checks"][0]["kind"] == "application" and "login" in good["checks"][0]["text"]
    told = stdout_failing("verify", vault, "v", "--boot", "--qemu", qemu, code=Exit.CHECK_FAILED)
    assert "Kernel panic" in told
    fake_qemu(tmp_path, "echo starting > $console; exec sleep 60")
    told = stdout_failing("verify", vault, "v", "--boot", "--qemu", qemu, "--limit", "1s", code=Exit.CHECK_FAILED)
    assert "not up within 1 s; the console ends with: starting" in told
    fake_qemu(tmp_path, "echo -n up > $console")
    hrl("verify", vault, "v", "--boot", "--qemu", qemu, "--boot-pattern", "^up$")
    fake_qemu(tmp_path, "echo no such machine >&2; exit 1")
    assert "no such machine" in hrl("verify", vault, "v", "--boot", "--qemu", qemu, code=UNSUPPORTED)


def test_due_checks_are_made(vault: Path) -> None:
    first = hrl_json("verify", vault, "--due")
    assert [(row["kind"], row["ok"]) for row in first["checks"]] == [("integrity", True)]
    assert "nothing is due" in hrl("verify", vault, "--due", "--every", "1h")
    assert "command ok" in hrl("verify", vault, "--due", "--command", "true")
    time.sleep(1.1)
    assert "integrity ok" in hrl("verify", vault, "--due", "--every", "1s")


def test_newest_good_is_never_a_bad_one(vault: Path) -> None:
    replica = package.Vault(str(vault)).replica("v")
    good, bad = [point.id for point in replica.points()]

    def chosen() -> str:
        told = hrl_json("verify", vault, "v", "--at", "newest-good", "--command", "true", "--no-record")
        return str(told["checks"][0]["point"])

    assert chosen() == bad
    replica.record_verdict("bad", "command", False)
    assert chosen() == good
    replica.record_verdict("bad", "command", True)
    replica.record_verdict("good", "command", True)
    assert chosen() == bad
    replica.record_verdict("bad", "integrity", False)
    assert chosen() == good
    replica.record_verdict("good", "integrity", False)
    assert "newest-good" in hrl("restore", vault, "v", "--at", "newest-good", "--to", vault / "x", code=Exit.NOT_FOUND)
