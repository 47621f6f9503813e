"""A virtual machine at home, protected into Azure through a gateway: it is lost, and starts in the cloud."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from azurite import Azurite
from conftest import Agent, hrl, hrl_json
from guest import Guest, new_disk

VOLUME = "vm"
REPLICATED_SECONDS_MAX = 120.0


@contextmanager
def gateway(directory: Path, vault: str) -> Iterator[str]:
    """A process server with a cache before the vault; the URL by which the enrolled agent reaches it."""
    pki, identity = directory / "pki", directory / "identity"
    hrl("enroll", pki, "--host", "127.0.0.1")
    hrl("enroll", pki, "--client", "home", "--volume", VOLUME, "--to", identity)
    options = ["--pki", pki, "--cache", directory / "cache", "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-P", "-m", "hrl", "gateway", "--vault", vault, *map(str, options)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"gateway://{server.stdout.readline().strip()}?identity={identity}"
    finally:
        server.terminate()
        server.communicate(timeout=60)


def wait_replicated(agent: Agent) -> None:
    """Waits until the volume is in order and everything of it is in the vault."""
    end = time.monotonic() + REPLICATED_SECONDS_MAX
    while True:
        status = hrl_json("status", agent.state)
        if status["mode"] == "ordered" and status["backlog_bytes"] == 0:
            return
        assert time.monotonic() < end, status
        time.sleep(0.2)


def test_a_vm_is_lost_at_home_and_starts_in_the_cloud(
    start: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for directory in ("home", "edge", "azure"):
        (tmp_path / directory).mkdir()
    new_disk(home / "disk.img")
    key = tmp_path / "key"
    hrl("key", key)
    with Azurite(tmp_path / "azure") as azure:
        for name, value in azure.environment.items():
            monkeypatch.setenv(name, value)
        vault = azure.url("site")
        with gateway(tmp_path / "edge", vault) as edge:
            quiesce = f"qemu-ga:{home / 'guest.agent'}"
            agent = start("--volume", VOLUME, "--quiesce", quiesce, directory=home, vault=edge, key_file=key)
            with Guest(home, agent.uri) as guest:
                # It boots, and writes, while its disk is copied.
                guest.wait_up()
                wait_replicated(agent)
                before = os.urandom(3 << 20)
                guest.write("/root/before", before)
                hrl("point", agent.state, "--app", "--label", "before")
                guest.write("/root/after", b"written at home after the point")
                guest.run("sync")
                hrl("point", agent.state, "--label", "after")
                wait_replicated(agent)
                guest.kill()
            agent.kill()
        points = hrl_json("points", vault, "--key-file", key)
        assert [(point["label"], point["kind"]) for point in points] == [("before", "app"), ("after", "crash")]
        sealed = [blob.read_bytes() for blob in (tmp_path / "azure").rglob("*") if blob.is_file()]
        assert not any(before[:4096] in blob for blob in sealed)
        told = hrl_json("verify", vault, VOLUME, "--key-file", key, "--at", "before", "--boot", "--boot-args", "-accel tcg")
        assert [check["ok"] for check in told["checks"]] == [True], told
