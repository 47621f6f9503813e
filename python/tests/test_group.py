"""Consistency groups by their command: create, join, points, a member that is away, restore of all at one cut."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Agent, hrl, hrl_json

import hrl as package


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[str]:
    """A running coordinator of the group `orders`, and its address."""
    hrl("enroll", tmp_path / "pki", "--host", "localhost")
    for name in ("one", "two"):
        hrl("enroll", tmp_path / "pki", "--client", name, "--volume", "disk.img", "--to", tmp_path / f"id-{name}")
    hrl(
        "group", "create", tmp_path / "group", "--name", "orders", "--pki", tmp_path / "pki", "--interval", 0, "--any-member"
    )
    path = tmp_path / "group" / "group.toml"
    path.write_text(path.read_text().replace("0.0.0.0:20004", "127.0.0.1:0"))
    command = [sys.executable, "-P", "-m", "hrl", "group", "run", str(tmp_path / "group")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip().replace("127.0.0.1", "localhost")
    process.terminate()
    assert process.wait(30) == 0


def test_a_group_of_one_agent_lives_as_its_command_says(
    start: Callable[..., Agent], coordinator: str, tmp_path: Path
) -> None:
    create = ["group", "create", tmp_path / "group", "--name", "x", "--pki", tmp_path]
    assert "--member VOLUME" in hrl(*create, code=2)
    assert "there is a group" in hrl(*create, "--any-member", code=4)
    agent = start()
    state, group = agent.state, tmp_path / "group"
    assert "no members" in hrl("group", "point", group, code=8)
    assert "in no group" in hrl("group", "status", state, code=3)
    join = ["group", "join", state, "--name", "orders", "--coordinator", coordinator]
    hrl(*join, "--identity", tmp_path / "id-one")
    assert "leave that first" in hrl(*join, "--identity", tmp_path / "id-one", code=4)
    agent.write(0, b"in the cut" + bytes(502))
    made = hrl_json("group", "point", group, "--label", "nightly")
    assert made["complete"] and [mark["volume"] for mark in made["marks"]] == ["disk.img"]
    agent.write(0, b"after it.." + bytes(502))
    assert hrl_json("group", "status", state)["points"] == 1
    assert hrl_json("group", "status", group)["members"][0]["volume"] == "disk.img"
    assert "writers held" in hrl("group", "status", group)

    # The agent joins again by itself after it was killed; without it there is no point.
    agent.kill()
    assert "not connected: disk.img" in hrl("group", "point", group, code=8)
    again = start()
    deadline = 100
    while not hrl_json("group", "status", again.state)["connected"]:
        deadline -= 1
        assert deadline
    hrl("group", "point", group, "--label", "after the crash")
    hrl("group", "leave", again.state)
    assert "no members" in hrl("group", "point", group, code=8)
    assert "expected one of" in hrl("group", "remove", group, "disk.img", code=3)
    again.stop()

    listed = hrl_json("group", "points", again.vault)
    assert [point["label"] for point in listed] == ["nightly", "after the crash"]
    assert listed[0]["id"] == made["id"] and listed[0]["held_seconds"] is None
    assert "orders" in hrl("group", "points", again.vault, "--name", "orders")
    assert hrl_json("group", "points", again.vault, "--name", "other") == []
    hrl("restore", again.vault, "disk.img", "--at", made["id"], "--to", tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes()[:10] == b"in the cut"


def test_the_same_from_python(tmp_path: Path) -> None:
    package.create_authority(tmp_path / "pki", ["localhost"])
    vault = package.Vault(str(tmp_path / "vault"), create=True)
    volumes = ["web", "database"]
    with package.GroupCoordinator(
        "shop", state=tmp_path / "group", pki=tmp_path / "pki", listen="127.0.0.1:0"
    ) as coordinator:
        port = coordinator.address.rpartition(":")[2]
        protections = []
        for name in volumes:
            package.enroll_client(tmp_path / "pki", name, volumes=[name], bundle=tmp_path / name)
            disk = package.MemoryDevice(1 << 20)
            protection = package.Protection(disk, vault=vault, state=tmp_path / f"state-{name}", volume=name)
            protection.wait_ordered()
            member = protection.join_group("shop", [f"localhost:{port}"], identity=tmp_path / name)
            member.wait_connected()
            protections.append((protection, member))
        point = coordinator.point("both")
        assert point.complete and {mark.volume for mark in point.marks} == set(volumes)
        assert coordinator.status()["points"] == 1
        protections[0][1].close()
        with pytest.raises(package.UnavailableError, match="web"):
            coordinator.point()
        coordinator.remove("web")
        assert coordinator.point().members == 1
        with pytest.raises(package.NotFoundError):
            coordinator.remove("web")
        for protection, member in protections:
            member.close()
            protection.stop()
    assert vault.group_points().points[0].id == point.id
    assert vault.replica("web").points()[0].group == point.id
