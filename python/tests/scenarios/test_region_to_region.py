"""From region to region: a source ships to a cache in its own region, which is mirrored to another one; the first is lost.

Region A has the source, a gateway that acknowledges what its cache has, and Azure Blob Storage. Region B has an S3 store
with a mirror of that. All of region A dies while replication is under way; what B lists must be right and usable alone.
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from azurite import Azurite
from conftest import Agent, hrl
from failing_over import PROMPT, Served, call, call_json, content, until, write
from seaweed import SeaweedFs

VOLUME = "orders"
MIB = 1 << 20
# Points that region B has for certain, and those that are on their way when region A is lost.
POINTS_FIRST = 4
POINTS_LATER_MAX = 12


class Source:
    """Writes and marks; remembers what the disk held at each point."""

    def __init__(self, agent: Agent, directory: Path) -> None:
        self.agent = agent
        self.directory = directory
        self.held: dict[str, str] = {}

    def mark(self, number: int) -> None:
        """Writes, and marks a point of what is there then."""
        write(self.agent.uri, number % 7 * MIB + number * 4096, os.urandom(200_000 + number * 4096), self.directory)
        self.held[f"point {number}"] = digest_of(content(self.agent.uri, self.directory))
        # In a process of its own: threads share the standard output that `call` takes.
        hrl("point", self.agent.state, "--label", f"point {number}")

    def begin(self, first: int) -> None:
        """Goes on until its agent dies."""

        def run() -> None:
            for number in range(first, first + POINTS_LATER_MAX):
                try:
                    self.mark(number)
                except AssertionError:
                    return

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spawn(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_region_is_lost_and_another_goes_on_at_any_of_its_points(
    start: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promises 3, 5 and 7: what region B offers is what the source held, whatever was on its way."""
    home, a, b = tmp_path / "home", tmp_path / "a", tmp_path / "b"
    for directory in (home, a, b):
        directory.mkdir()
    key = tmp_path / "key"
    call("key", key)
    keyed = ("--key-file", key)
    with ExitStack() as stack:
        near, far = stack.enter_context(Azurite(a)), stack.enter_context(SeaweedFs(b))
        for name, value in (near.environment | far.environment).items():
            monkeypatch.setenv(name, value)
        cache, vault = near.url("cache"), far.url("site")
        call("enroll", a / "pki", "--host", "127.0.0.1")
        call("enroll", a / "pki", "--client", "source", "--volume", VOLUME, "--to", a / "identity")
        gateway = spawn(
            "gateway", "--vault", cache, "--pki", a / "pki", "--cache", a / "disk-cache", "--acknowledge", "gateway",
            "--listen", "127.0.0.1:0",
        )  # fmt: skip
        stack.callback(killed, gateway)
        assert gateway.stdout is not None
        url = f"gateway://{gateway.stdout.readline().strip()}?identity={a / 'identity'}"
        agent = start("--volume", VOLUME, directory=home, vault=url, key_file=key, policy=PROMPT)
        until("the first copy", lambda: call_json("status", agent.state, "--json")["mode"] == "ordered")
        source = Source(agent, tmp_path)
        for number in range(POINTS_FIRST):
            source.mark(number)
        until("the points in the cache", lambda: len(points(cache, keyed)) == POINTS_FIRST)
        mirror = spawn("mirror", cache, vault, "--follow", "--interval", "0.2", "--json")
        stack.callback(killed, mirror)
        until("the points in the other region", lambda: len(points(vault, keyed)) >= POINTS_FIRST)
        source.begin(POINTS_FIRST)
        until("later points in the other region", lambda: len(points(vault, keyed)) >= POINTS_FIRST + 2)
        # Region A is lost with everything in it, in the middle of that.
        agent.process.kill()
        gateway.kill()
        near.kill()
        mirror.kill()
        source.join()

        offered = points(vault, keyed)
        labels = [point["label"] for point in offered]
        assert len(labels) >= POINTS_FIRST + 2
        assert labels == [f"point {number}" for number in range(len(labels))], "none is missing in between"
        for label in labels:
            call("restore", vault, VOLUME, "--at", label, "--to", tmp_path / "restored", "--overwrite", *keyed)
            assert digest_of((tmp_path / "restored").read_bytes()) == source.held[label], label
        assert call("verify", vault, VOLUME, *keyed)

        options = ["failover", "start", vault, VOLUME, "--disk", b / "disk.img", *keyed]
        for label in (labels[0], labels[len(labels) // 2], labels[-1]):
            over = Served(*options, "--at", label, "--overwrite", state=b / "state")
            stack.callback(over.kill)
            assert digest_of(content(over.uri, tmp_path)) == source.held[label], label
            write(over.uri, 0, b"given up", tmp_path)
            call("failover", "cancel", vault, VOLUME, "--state", over.state, *keyed)
        over = Served(*options, "--at", labels[-1], "--commit", "--overwrite", state=b / "state")
        stack.callback(over.kill)
        write(over.uri, 9 * MIB, b"goes on in region B" * 216, tmp_path)
        expected = content(over.uri, tmp_path)
        call("point", over.state, "--label", "in region B")
        over.wait_replicated()
        life = stage(vault, keyed)
        assert (life["stage"], life["epoch"]) == ("committed", 2)
        assert [point["label"] for point in points(vault, keyed)] == [*labels, "in region B"]
        call("restore", vault, VOLUME, "--at", "in region B", "--to", tmp_path / "restored", "--overwrite", *keyed)
        assert (tmp_path / "restored").read_bytes() == expected


def points(vault: str, keyed: tuple[object, ...]) -> list[dict[str, Any]]:
    """What the catalog of a vault offers; nothing where there is no vault yet."""
    try:
        found: list[dict[str, Any]] = call_json("points", vault, "--volume", VOLUME, "--json", *keyed)
    except AssertionError:
        return []
    return found


def stage(vault: str, keyed: tuple[object, ...]) -> dict[str, Any]:
    found: dict[str, Any] = call_json("failover", "status", vault, VOLUME, "--json", *keyed)[VOLUME]
    return found
