"""The command `hrl`: an agent in a process of its own, and everything that is done with its vault."""

import json
import os
import random
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DISK_BYTES, Agent, hrl, hrl_json, need, run

from hrl.cli.app import root
from hrl.cli.commands import SECTIONS
from hrl.cli.control import ControlServer
from hrl.cli.exits import Exit, Refused
from hrl.cli.protect import Wait, wait_for
from hrl.cli.times import Duration
from hrl.errors import BY_KIND

Start = Callable[..., Agent]
MIB = 1 << 20


def wait_ordered(agent: Agent) -> dict[str, Any]:
    """Waits for the end of the initial replication or resync; the status then."""
    for _ in range(600):
        status: dict[str, Any] = hrl_json("status", agent.state)
        if status["mode"] == "ordered":
            return status
        time.sleep(0.05)
    raise AssertionError("it never became ordered")


def wait_clean(agent: Agent) -> None:
    """Waits until the dirty map has few marks left: regions rest for a second or two before they are cleaned."""
    for _ in range(600):
        if hrl_json("status", agent.state)["marked_regions"] <= 1:
            return
        time.sleep(0.05)
    raise AssertionError("the regions stayed marked")


def noise(seed: int, length: int) -> bytes:
    """Bytes that no compression makes small."""
    return random.Random(seed).randbytes(length)


def test_an_agent_whose_vault_is_unmounted_serves_and_ships_later(start: Start, tmp_path: Path) -> None:
    agent = start()
    wait_ordered(agent)
    agent.write(0, noise(1, 65536))
    agent.stop()
    (tmp_path / "vault").rename(tmp_path / "unmounted")
    (tmp_path / "vault").mkdir()
    agent = start()
    assert agent.uri.startswith("nbd+unix:"), "it serves"
    status = wait_ordered(agent)
    assert status["vault_away"] and status["replicated_sequence"] == 0
    agent.write(MIB, noise(2, 65536))
    hrl("point", agent.state, "--label", "away")
    assert "away since the start" in hrl("status", agent.state)
    assert not list((tmp_path / "vault").iterdir()), "no vault is made at a mount point"
    (tmp_path / "vault").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "vault")
    for _ in range(600):
        status = hrl_json("status", agent.state)
        if not status["vault_away"] and status["replicated_sequence"] == status["last_sequence"]:
            break
        time.sleep(0.05)
    told = agent.stop()
    assert "vault-unavailable" in told and "is its file system mounted?" in told and "vault-available" in told
    for at in ("away", "newest"):
        hrl("restore", agent.vault, agent.disk.name, "--at", at, "--to", tmp_path / at)
        assert (tmp_path / at).read_bytes() == agent.disk.read_bytes()


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_a_disk_is_protected_and_restored_at_each_point(start: Start, tmp_path: Path, cache: str) -> None:
    agent = start("--cache", cache)
    wait_ordered(agent)
    states: dict[str, bytes] = {}
    for label in ("one", "two", "three"):
        agent.write(MIB, noise(len(states), 65536))
        point = hrl_json("point", agent.state, "--label", label)
        assert point["label"] == label and point["kind"] == "crash"
        states[point["id"]] = agent.disk.read_bytes()
    agent.stop()
    listed = hrl_json("points", agent.vault)
    assert [point["id"] for point in listed] == list(states)
    assert {point["volume"] for point in listed} == {"disk.img"}
    lines = hrl("points", agent.vault).splitlines()
    assert lines[0].startswith("disk.img: 3 points, catalog version ") and max(map(len, lines)) <= 80
    assert all(point.startswith(line.split()[0]) for point, line in zip(states, lines[2:], strict=True))
    for point, content in states.items():
        image = tmp_path / "image"
        report = hrl_json("restore", agent.vault, "disk.img", "--at", point, "--to", image, "--overwrite")
        assert report["volume_bytes"] == DISK_BYTES
        assert image.read_bytes() == content
    by_time = tmp_path / "by-time"
    hrl("restore", agent.vault, "disk.img", "--at", listed[1]["time"], "--to", by_time)
    assert by_time.read_bytes() == states[listed[1]["id"]]
    assert all(entry["first"] <= entry["last"] for entry in hrl_json("timeline", agent.vault))
    changes = hrl_json("changes", agent.vault, "disk.img", "--from", listed[0]["id"], "--to", listed[1]["id"])
    assert [(e["offset"], e["length"]) for e in changes["extents"]] == [(MIB, 65536)]
    sparse = tmp_path / "sparse"
    hrl("changes", agent.vault, "disk.img", "--from", listed[0]["id"], "--to", listed[1]["id"], "--to-file", sparse)
    assert sparse.read_bytes()[MIB : MIB + 65536] == noise(1, 65536)
    assert hrl_json("verify", agent.vault)["sound"]


def test_after_a_kill_only_dirty_regions_are_read(start: Start) -> None:
    """Promises 4 and 5: the next session reads a part of the disk, and the points of before stay as they were."""
    agent = start()
    wait_ordered(agent)
    wait_clean(agent)
    agent.write(3 * MIB, noise(1, 65536))
    kept = hrl_json("point", agent.state, "--label", "before")
    before = agent.disk.read_bytes()
    agent.write(3 * MIB, noise(2, 65536))
    agent.kill()
    hrl("status", agent.state, code=Exit.NOT_RUNNING)
    again = start()
    status = wait_ordered(again)
    assert 0 < status["resync_bytes_read"] <= 4 * MIB
    hrl_json("point", again.state, "--label", "after")
    events = again.stop()
    assert events
    for label, content in (("before", before), ("after", agent.disk.read_bytes())):
        image = agent.disk.with_suffix(f".{label}")
        hrl("restore", agent.vault, "disk.img", "--at", f"label:{label}", "--to", image)
        assert image.read_bytes() == content, label
    assert kept["id"] in {point["id"] for point in hrl_json("points", agent.vault)}
    assert any(entry["unordered"] for entry in hrl_json("timeline", agent.vault)), "the gap is shown"


def test_a_point_is_served_without_a_restore(start: Start, tmp_path: Path) -> None:
    need("nbdcopy", "nbdinfo")
    agent = start()
    wait_ordered(agent)
    first = hrl_json("point", agent.state)
    agent.write(5 * MIB, noise(3, 65536))
    second = hrl_json("point", agent.state)
    agent.stop()
    address = f"unix:{tmp_path / 'serve.sock'}"
    command = [sys.executable, "-P", "-m", "hrl", "serve", str(agent.vault), "disk.img", "--at", second["id"]]
    command += ["--nbd", address, "--writable", "--changes-from", first["id"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            uri = server.stdout.readline().strip()
            copy = tmp_path / "copy"
            assert uri.startswith("nbd+unix:///disk.img?")
            for name in ("disk.img", "replica", ""):
                copy.unlink(missing_ok=True)
                run("nbdcopy", uri.replace("disk.img", name, 1), copy)
                assert copy.read_bytes() == agent.disk.read_bytes(), name
            for context in ("hrl:changes", "qemu:dirty-bitmap:changes"):
                extents = json.loads(run("nbdinfo", "--json", f"--map={context}", uri))
                dirty = [(e["offset"], e["length"]) for e in extents if e["type"] & 1]
                assert dirty == [(5 * MIB, 65536)], context
            run("qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "read -P 9 0 64k", uri)
        finally:
            server.terminate()
    assert server.returncode == 0
    assert hrl_json("verify", agent.vault)["sound"], "a scratch write never reaches the vault"
    image = tmp_path / "image"
    hrl("restore", agent.vault, "disk.img", "--at", second["id"], "--to", image)
    assert image.read_bytes() == agent.disk.read_bytes()


def test_an_encrypted_vault_needs_its_key(start: Start, tmp_path: Path) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    hrl("key", key)
    hrl("key", other)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    hrl("key", key, code=Exit.ALREADY_EXISTS)
    agent = start(key_file=key)
    wait_ordered(agent)
    agent.write(0, noise(4, 4096))
    hrl("point", agent.state)
    agent.stop()
    assert len(hrl_json("points", agent.vault, "--key-file", key)) == 1
    hrl("points", agent.vault, code=Exit.WRONG_KEY)
    hrl("points", agent.vault, "--key-file", other, code=Exit.WRONG_KEY)


def test_damage_is_found_and_named(start: Start) -> None:
    """Promise 11."""
    agent = start()
    wait_ordered(agent)
    agent.write(0, noise(5, 65536))
    hrl("point", agent.state)
    agent.stop()
    segment = max((Path(agent.vault) / "volumes/disk.img/segments").rglob("*.hrl"), key=lambda path: path.stat().st_size)
    summary = hrl_json("inspect", segment, "--records")
    assert summary["records"] == len(summary["records_list"]) > 0
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.chmod(0o644)
    segment.write_bytes(content)
    told = hrl("inspect", segment, code=Exit.CORRUPT)
    assert segment.name in told
    hrl("verify", agent.vault, code=Exit.CORRUPT)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["points", "{absent}"], "not-found"),
        (["points", "ftp://host/x"], "invalid-input"),
        (["inspect", "{absent}"], "not-found"),
        (["inspect", "{junk}"], "corrupt"),
        (["status", "{absent}"], "not-found"),
        (["points"], "invalid-input"),
        (["frobnicate"], "invalid-input"),
        (["protect", "{absent}", "--vault", "{vault}", "--state", "{state}"], "not-found"),
        (["protect", "{junk}", "--vault", "{vault}", "--state", "{state}", "--policy", "{junk}"], "invalid-input"),
    ],
)
def test_a_failure_is_one_line_with_its_exit_code(arguments: list[str], kind: str, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("no journal = [\n" * 400)
    paths = {name: str(tmp_path / name) for name in ("absent", "junk", "vault", "state")}
    told = hrl(*[argument.format(**paths) for argument in arguments], code=Exit.of_kind(kind))
    assert len(told.strip().splitlines()) == 1, told
    assert told.startswith("hrl: ") and "Traceback" not in told


def test_each_exit_code_has_one_meaning() -> None:
    assert len({int(code) for code in Exit}) == len({code.meaning for code in Exit}) == len(list(Exit))
    assert {Exit.of_kind(kind) for kind in BY_KIND} <= set(Exit) - {Exit.FAILED}


def test_the_control_socket_takes_only_what_it_knows(start: Start) -> None:
    agent = start()
    path = agent.state / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def ask(line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(30)
            peer.connect(str(path))
            peer.sendall(line)
            answer: dict[str, Any] = json.loads(peer.makefile().readline())
            return answer

    for line in (b"\n", b"{\n", b"[]\n", b'{"command": 5}\n', b'{"command": "format"}\n', b"\xff\xfe\n"):
        assert ask(line)["kind"] == "invalid-input", line
    assert ask(b'{"command": "status"}\n')["result"]["volume"] == "disk.img"
    assert "result" in ask(b'{"command": "stop"}\n')
    assert agent.process.wait(60) == 0
    assert not path.exists()
    hrl("point", agent.state, code=Exit.NOT_RUNNING)


def test_a_wait_for_an_agent_ends_when_it_answers_or_at_its_limit(start: Start, tmp_path: Path) -> None:
    for absent in (tmp_path / "absent", tmp_path):
        told = hrl("status", absent, "--wait", "running", "--limit", "50ms", code=Exit.NOT_RUNNING)
        assert f"no agent is running with {absent} (waited 50ms)" in told
    agent = start()
    assert "ordered" in hrl("status", agent.state, "--wait", "ordered")
    agent.kill()
    assert "expected one of running, ordered" in hrl("status", tmp_path, "--wait", "long", code=Exit.INVALID_INPUT)


def test_a_wait_for_order_reports_how_much_is_left(tmp_path: Path) -> None:
    found = {"volume": "disk.img", "mode": "resync", "resync_bytes_left": 3 * MIB}
    server = ControlServer(tmp_path, {"status": lambda _: found})
    try:
        wait_for(Wait.RUNNING, tmp_path, Duration("0s"))
        with pytest.raises(Refused, match=r"disk.img is in mode resync, .* left to read \(waited 10ms\)") as raised:
            wait_for(Wait.ORDERED, tmp_path, Duration("10ms"))
        assert raised.value.code == Exit.TIMED_OUT
        found["mode"] = "ordered"
        wait_for(Wait.ORDERED, tmp_path, Duration("0s"))
    finally:
        server.close()


def test_a_socket_left_by_a_dead_agent_is_replaced(start: Start) -> None:
    start().kill()
    agent = start()
    assert hrl_json("status", agent.state)["running"]


def test_a_reader_that_leaves_is_no_failure(start: Start) -> None:
    agent = start()
    wait_ordered(agent)
    hrl("point", agent.state)
    agent.stop()
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", "-m", "hrl", "points", str(agent.vault), "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_explains_itself() -> None:
    page = hrl("--help")
    for section, commands in SECTIONS.items():
        assert f"{section}:" in page
        for name in commands:
            assert f"  {name}" in page
    for name, command in root().commands.items():
        assert command.name == name and command.help
    told = hrl("status", "--help")
    assert "Usage: hrl status" in told and "<bool>" not in told
