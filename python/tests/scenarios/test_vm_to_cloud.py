"""A virtual machine at home, protected into Azure through a gateway: it is lost, goes on in the cloud, and comes home.

The guest is a real one, and its guest agent makes the application-consistent point. Everything is done by the command.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from azurite import Azurite
from conftest import Agent, hrl, hrl_json, need, run
from guest import PARTITION_BYTES, Guest, new_disk

VOLUME = "vm"
REPLICATED_SECONDS_MAX = 120.0
END_SECONDS_MAX = 30.0
BEFORE = os.urandom(3 << 20)
AFTER = b"written at home after the point\n"
LATE = b"written at home while the link was down\n"
CLOUD = os.urandom(2 << 20)


class Gateway:
    """A process server with a cache before the vault, which the agent at home is enrolled with."""

    def __init__(self, directory: Path, vault: str) -> None:
        self._pki, self._identity, self._cache = (directory / name for name in ("pki", "identity", "cache"))
        self._vault = vault
        hrl("enroll", self._pki, "--host", "127.0.0.1")
        hrl("enroll", self._pki, "--client", "home", "--volume", VOLUME, "--to", self._identity)
        self._listen = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Starts it, again where it was."""
        options = ["--pki", self._pki, "--cache", self._cache, "--listen", self._listen]
        command = [sys.executable, "-P", "-m", "hrl", "gateway", "--vault", self._vault, *map(str, options)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._listen = self._process.stdout.readline().strip()

    def stop(self) -> None:
        """Ends it, which empties its cache."""
        self._process.terminate()
        self._process.communicate(timeout=60)

    @property
    def url(self) -> str:
        """Where the agent at home finds the vault."""
        return f"gateway://{self._listen}?identity={self._identity}"


def wait_replicated(state: Path) -> None:
    """Waits until the volume is in order and everything of it is in the vault."""
    end = time.monotonic() + REPLICATED_SECONDS_MAX
    while True:
        status = hrl_json("status", state)
        if status["mode"] == "ordered" and status["backlog_bytes"] == 0:
            return
        assert time.monotonic() < end, status
        time.sleep(0.2)


class Sites:
    """Home, the cloud, and the gateway between them; `detached` processes do not outlive it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.home, self.cloud, edge, azure = (directory / name for name in ("home", "cloud", "edge", "azure"))
        for each in (self.home, self.cloud, edge, azure):
            each.mkdir()
        self.blobs = azure
        self.key = directory / "key"
        hrl("key", self.key)
        emulator = stack.enter_context(Azurite(azure))
        environment = pytest.MonkeyPatch()
        stack.callback(environment.undo)
        for name, value in emulator.environment.items():
            environment.setenv(name, value)
        self.vault = emulator.url("site")
        self.edge = Gateway(edge, self.vault)
        stack.callback(self.edge.stop)
        self._stack = stack

    def hrl(self, *command: object) -> str:
        """Runs a command of the cloud's or of home's, with the key."""
        return hrl(*command, "--key-file", self.key)

    def detached(self, *command: object) -> dict[str, Any]:
        """Runs one that serves the volume in the background; the line that it says."""
        ready: dict[str, Any] = json.loads(self.hrl(*command, "--detach", "--json"))
        self._stack.callback(end, ready["pid"])
        return ready


def end(pid: int) -> None:
    """Ends a process in the background, if it still runs, while what it needs is there."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGTERM)
        limit = time.monotonic() + END_SECONDS_MAX
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def test_a_vm_is_lost_at_home_goes_on_in_the_cloud_and_comes_home(start: Callable[..., Agent], tmp_path: Path) -> None:
    """Promises 4, 5, 9 and 10 over a whole life with a real guest."""
    need("debugfs", "e2fsck")
    with ExitStack() as stack:
        sites = Sites(tmp_path, stack)
        disk = new_disk(sites.home / "disk.img")
        lose_home(sites, start)
        assert_sealed(sites)
        drill(sites)
        over = sites.cloud / "state"
        options = ["--state", over, "--disk", sites.cloud / "disk.img", "--at", "newest-good"]
        went = sites.detached("failover", "start", sites.vault, VOLUME, *options)
        with Guest(sites.cloud, went["uri"], name="over") as guest:
            guest.wait_up()
            assert guest.read("/root/before") == BEFORE
            assert not guest.exists("/root/after") and not guest.exists("/root/late") and not guest.exists("/root/drill")
            hrl("failover", "commit", sites.vault, VOLUME, "--state", over)
            guest.write("/root/cloud", CLOUD)
            guest.shut_down()
        wait_replicated(over)
        back, moved = come_home(sites, disk)
        with Guest(sites.home, back["uri"], name="back") as guest:
            guest.wait_up()
            assert guest.read("/root/before") == BEFORE
            assert guest.read("/root/cloud") == CLOUD
            assert not guest.exists("/root/after") and not guest.exists("/root/late")
            guest.shut_down()
        # What differs is the guest's writes on both sides: less than a tenth of what its disk holds.
        assert len(CLOUD) < moved < disk.stat().st_blocks * 512 // 10, moved
        assert_branch_has_what_home_wrote(sites)


def lose_home(sites: Sites, start: Callable[..., Agent]) -> None:
    """Protects the guest while it runs, marks a point by its agent; then the link fails, and guest and agent are killed."""
    quiesce = f"qemu-ga:{sites.home / 'guest.agent'}"
    options = ["--volume", VOLUME, "--quiesce", quiesce]
    agent = start(*options, directory=sites.home, vault=sites.edge.url, key_file=sites.key)
    with Guest(sites.home, agent.uri) as guest:
        # It boots, and writes, while its disk is copied.
        guest.wait_up()
        wait_replicated(agent.state)
        guest.write("/root/before", BEFORE)
        hrl("point", agent.state, "--app", "--label", "before")
        guest.write("/root/after", AFTER)
        guest.run("sync")
        hrl("point", agent.state, "--label", "after")
        wait_replicated(agent.state)
        # The link fails, and what is written now stays in the spool.
        sites.edge.stop()
        guest.write("/root/late", LATE)
        guest.run("sync")
        hrl("point", agent.state, "--label", "late")
        guest.kill()
    agent.kill()
    sites.edge.start()
    points = json.loads(sites.hrl("points", sites.vault, "--json"))
    assert [(point["label"], point["kind"]) for point in points] == [("before", "app"), ("after", "crash")]


def assert_sealed(sites: Sites) -> None:
    """Nothing in the cloud's store can be read without the key."""
    blobs = [blob.read_bytes() for blob in sites.blobs.rglob("*") if blob.is_file()]
    assert sum(map(len, blobs)) > len(BEFORE)
    assert not any(BEFORE[:4096] in blob or AFTER in blob or b"Debian GNU/Linux" in blob for blob in blobs)


def drill(sites: Sites) -> None:
    """A test failover: it boots, may be written, and leaves nothing behind."""
    state = sites.cloud / "drill"
    names = ["--name", "drill", "--state", state]
    ready = sites.detached("failover", "test", sites.vault, VOLUME, *names)
    with Guest(sites.cloud, ready["uri"], name="drill") as guest:
        guest.wait_up()
        assert guest.read("/root/before") == BEFORE and not guest.exists("/root/after")
        guest.write("/root/drill", b"written in the test")
        guest.run("sync")
    tests = json.loads(sites.hrl("failover", "status", sites.vault, "--json"))[VOLUME]["tests"]
    assert [test["name"] for test in tests] == ["drill"]
    sites.hrl("failover", "cleanup", sites.vault, VOLUME, *names)
    assert json.loads(sites.hrl("failover", "status", sites.vault, "--json"))[VOLUME]["tests"] == []


def come_home(sites: Sites, disk: Path) -> tuple[dict[str, Any], int]:
    """Brings the old disk up to date, then takes the volume back to it; what is served there, and the bytes written."""
    there = ["--state", sites.home / "state", "--disk", disk]
    caught_up = json.loads(sites.hrl("reprotect", sites.edge.url, VOLUME, *there, "--json"))
    back = sites.detached("failback", sites.edge.url, VOLUME, *there)
    return back, caught_up["bytes_written"] + back["bytes_written"]


def assert_branch_has_what_home_wrote(sites: Sites) -> None:
    """What home wrote after the point is on the branch of its epoch, also what was in its spool when it died."""
    image, partition = sites.cloud / "branch.img", sites.cloud / "partition.img"
    sites.hrl("restore", sites.vault, f"{VOLUME}@1", "--to", image)
    run("dd", f"if={image}", f"of={partition}", f"bs={PARTITION_BYTES}", "skip=1", "conv=sparse")
    # The file system was cut off: its log is replayed first, after which nothing is left to repair.
    run("e2fsck", "-p", partition)
    run("e2fsck", "-f", "-n", partition)
    for name, expected in (("before", BEFORE), ("after", AFTER), ("late", LATE)):
        found = subprocess.run(["debugfs", "-R", f"cat /root/{name}", partition], capture_output=True, check=True).stdout
        assert found == expected, name
    found = subprocess.run(["debugfs", "-R", "stat /root/cloud", partition], capture_output=True, check=True).stdout
    assert b"Inode" not in found
