"""Disks in use, attached by the command and by `hrl.Attachment`: on loop devices, as root."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import hrl, hrl_json

import hrl as engine
from hrl import Attachment, HrlError, Vault

HRL = [sys.executable, "-P", "-m", "hrl"]
BLOCK = 4096
BYTES = 4 << 20


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[Path]]:
    """Two loop devices. Without them, or without the rights for programs in the kernel, the test is skipped."""
    if os.geteuid() != 0 or not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.skip("needs root and BTF")
    with ExitStack() as stack:
        yield [stack.enter_context(loop(tmp_path / name)) for name in ("a.img", "b.img")]


@contextmanager
def loop(file: Path) -> Iterator[Path]:
    file.touch()
    os.truncate(file, BYTES)
    made = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr}")
    try:
        yield Path(made.stdout.strip())
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def write(disk: Path, text: bytes) -> None:
    """Writes through the page cache, as file systems do, and syncs."""
    with disk.open("r+b") as file:
        file.seek(BLOCK)
        file.write(text.ljust(BLOCK, b"."))
        file.flush()
        os.fsync(file.fileno())


def until_marked(attachment: Attachment, label: str) -> engine.RecoveryPoint:
    """Makes a point, once the first copy is over and the machine lets a cut be clean."""
    end = time.monotonic() + 60
    while True:
        try:
            return attachment.mark(label)
        except (engine.NotOrderedError, engine.UnavailableError):
            assert time.monotonic() < end


def test_a_disk_in_use_is_attached_and_comes_back(disks: list[Path], tmp_path: Path) -> None:
    disk, state = disks[0], tmp_path / "state"
    vault = Vault(tmp_path / "vault", state=state)
    policy = {"crash_point_interval": "0s", "freeze_limit": "0s", "cut_limit": "20s"}
    try:
        with Attachment(disk, vault=vault, state=state, volume="disk", policy=policy) as attachment:
            write(disk, b"first")
            first = until_marked(attachment, "first")
            write(disk, b"second")
            second = until_marked(attachment, "second")
            cuts = attachment.cuts()
            assert (cuts.cuts, cuts.last_point_time_ns, cuts.pinned) == (2, second.time_ns, True)
            assert attachment.wait_replicated() >= second.sequence
            assert "points only" in hrl("timeline", tmp_path / "vault")
        for point, text in ((first, b"first"), (second, b"second")):
            view = vault.replica("disk").view(point)
            assert bytes(view.read(BLOCK, BLOCK)).startswith(text)
    finally:
        Attachment.detach(state)


def test_several_disks_are_one_cut(disks: list[Path], tmp_path: Path) -> None:
    state, names = tmp_path / "states", [disk.name for disk in disks]
    vault = Vault(tmp_path / "vault", state=state)
    try:
        attachments = Attachment.together("shop", disks, vault=vault, state=state, policy={"crash_point_interval": "0s"})
        assert [one.volume_name for one in attachments] == names
        for disk in disks:
            write(disk, b"both")
        point = until_marked(attachments[1], "both")
        assert point.kind == "group-crash"
        assert [one.cuts().cuts for one in attachments] == [1, 1]
        for one in attachments:
            one.wait_replicated()
        (listed,) = vault.group_points().points
        assert (listed.group, listed.label, len(listed.marks)) == ("shop", "both", 2)
        for one in attachments:
            one.stop()
        for mark in listed.marks:
            view = vault.replica(mark.volume).view(mark.point)
            assert bytes(view.read(BLOCK, BLOCK)).startswith(b"both")
        with pytest.raises(HrlError, match="another disk"):
            Attachment.together("shop", [disks[0], disks[0]], vault=vault, state=tmp_path / "other")
    finally:
        for name in names:
            Attachment.detach(state / name)


@contextmanager
def attached(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Runs `hrl attach` until the end of the block, and expects it to end well."""
    agent = subprocess.Popen([*HRL, "attach", *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    try:
        yield agent
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0, agent.stderr and agent.stderr.read()
    finally:
        agent.kill()
        agent.wait()
        assert agent.stderr
        agent.stderr.close()


def test_the_command_attaches_disks_makes_points_and_takes_its_programs_away(disks: list[Path], tmp_path: Path) -> None:
    state, vault, policy = tmp_path / "state", tmp_path / "vault", tmp_path / "policy.toml"
    policy.write_text('crash_point_interval = "1h"\nfreeze_limit = "0s"\n')
    names = [disk.name for disk in disks]
    common = ["--vault", vault, "--state", state]
    try:
        with attached(*disks, *common, "--policy", policy, "--group", "shop"):
            for name in names:
                hrl("status", state / name, "--wait", "running")
            write(disks[0], b"by command")
            marked: dict[str, Any] = point_of(state / names[0])
            found = hrl_json("status", state / names[1])
            assert (found["volume"], found["cuts"] >= 1, found["pinned"]) == (names[1], True, True)
        points = hrl_json("group", "points", vault)
        assert any(mark["point"] == marked["id"] for point in points for mark in point["marks"])
        image = tmp_path / "restored"
        hrl("restore", vault, names[0], "--at", marked["id"], "--to", image)
        assert image.read_bytes()[BLOCK : BLOCK + 10] == b"by command"
        # One disk of them, once: the marks of both go on.
        one = hrl_json("attach", disks[0], "--vault", vault, "--state", state / names[0], "--once")
        assert one["kind"] == "crash"
    finally:
        hrl("attach", *disks, "--state", state, "--detach")
    assert "two disks have the name" in refused("attach", disks[0], disks[0], *common)
    assert "--volume names one disk" in refused("attach", *disks, *common, "--volume", "x")
    assert "crash_point_interval" in refused("attach", disks[0], *common, "--every", "1s")


def refused(*arguments: object) -> str:
    """Returns what a command says that is refused."""
    ran = subprocess.run([*HRL, *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode != 0
    return ran.stderr


def point_of(state: Path) -> Any:
    """Makes a point by the command, once the first copy is over."""
    for _ in range(60):
        ran = subprocess.run([*HRL, "point", str(state), "--json"], capture_output=True, text=True)
        if ran.returncode == 0:
            break
    return hrl_json("point", state)
