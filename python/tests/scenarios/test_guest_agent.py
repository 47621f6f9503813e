"""Application-consistent points of a running virtual machine by its real guest agent, and the boot of such a point."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from conftest import Agent, hrl, hrl_json, need, run
from guest import PARTITION_BYTES, Guest, new_disk

MIB = 1 << 20


def features(image: Path) -> str:
    """What the superblock of the guest's file system says it needs."""
    told = run("dumpe2fs", "-h", f"{image}?offset={PARTITION_BYTES}")
    return next(line for line in told.splitlines() if line.startswith("Filesystem features"))


def content(image: Path, file: str) -> bytes:
    """A file of the guest's file system, read from the blocks alone: no journal is replayed."""
    command = ["debugfs", "-R", f"cat {file}", f"{image}?offset={PARTITION_BYTES}"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_a_point_by_the_guest_agent_is_whole_without_a_replay_and_boots(start: Callable[..., Agent], tmp_path: Path) -> None:
    """Promises 3 and 7: what was written before the freeze is in the point, and nothing of what came after."""
    need("dumpe2fs", "debugfs", "e2fsck")
    new_disk(tmp_path / "disk.img")
    agent = start("--quiesce", f"qemu-ga:{tmp_path / 'guest.agent'}")
    with Guest(tmp_path, agent.uri).wait_up() as guest:
        # In the guest's memory alone: its file system gives such a file no blocks for half a minute.
        whole = bytes(range(256)) * 4096
        guest.write("/root/whole", whole)
        hrl("point", agent.state, "--label", "crash")
        asked = hrl_json("point", agent.state, "--app", "--label", "app")
        assert (asked["kind"], asked["label"]) == ("app", "app")
        assert not guest.frozen()
        guest.write("/root/later", b"after the point")
        guest.run("sync")
        assert guest.read("/root/whole") == whole
        guest.kill()
    agent.stop()
    app, crash = tmp_path / "app.img", tmp_path / "crash.img"
    for label, image in (("app", app), ("crash", crash)):
        hrl("restore", agent.vault, "disk.img", "--at", label, "--to", image)
    # The same looks at the crash-consistent point say that they can tell: it has to be replayed, and lacks the file.
    assert "needs_recovery" in features(crash) and content(crash, "/root/whole") != whole
    assert "needs_recovery" not in features(app)
    run("e2fsck", "-f", "-n", f"{app}?offset={PARTITION_BYTES}")
    assert content(app, "/root/whole") == whole
    assert content(app, "/root/later") == b""
    # And it boots, from the vault, with QEMU as it is.
    told = hrl_json("verify", agent.vault, "disk.img", "--at", "app", "--boot", "--boot-args", "-accel tcg", "--limit", "2m")
    (check,) = told["checks"]
    assert check["ok"] and check["kind"] == "application" and check["text"].startswith("up after"), check
    assert "application ok" in hrl("points", agent.vault)
