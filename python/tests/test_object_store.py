"""A vault in an object store, by the command: what a user types, with credentials from the environment."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import DISK_BYTES, Agent, hrl_json
from conftest import hrl as command

import hrl

SERVERS = Path(os.environ.get("HRL_SERVERS", Path.home() / ".cache/hrl-servers"))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """URLs of prefixes in a bucket of a server that lives as long as the test."""
    server = SERVERS / "py/bin/moto_server"
    if not server.exists():
        pytest.skip(f"{server} not installed (make servers)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen([server, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/vaults", method="PUT"), timeout=10)
                break
            except OSError:
                time.sleep(0.05)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
        yield lambda prefix: f"s3://vaults/{prefix}?endpoint={address}&allow-http=true&region=us-east-1"
    finally:
        process.kill()
        process.wait()


def test_a_disk_goes_into_a_bucket_and_comes_back(
    start: Callable[..., Agent], bucket: Callable[[str], str], tmp_path: Path
) -> None:
    url = bucket("site/a")
    agent = start(vault=url)
    agent.write(1 << 20, b"\7" * 65536)
    command("point", agent.state, "--label", "seven")
    status = hrl_json("status", agent.state)
    assert status["backlog_bytes"] >= 0 and "eta_seconds" in status and "ship_bytes_per_second" in status
    agent.write(1 << 20, b"\x09" * 65536)
    agent.stop()
    assert [point["label"] for point in hrl_json("points", url)] == ["seven"]
    command("restore", url, "disk.img", "--at", "seven", "--to", tmp_path / "back.img")
    back = (tmp_path / "back.img").read_bytes()
    assert len(back) == DISK_BYTES and back[1 << 20 :][:65536] == b"\7" * 65536
    with hrl.Vault(url) as vault:
        assert [volume["name"] for volume in vault.volumes()] == ["disk.img"]


def test_what_cannot_be_reached_is_told_apart(bucket: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = bucket("nothing")
    assert "no vault" in command("points", url, code=3)
    assert "does not exist" in command("points", url.replace("vaults", "no-such-bucket"), code=3)
    assert "belong into a URL" in command("points", url + "&secret-access-key=hush", code=2)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "s3://vaults" in command("points", url, code=2)
