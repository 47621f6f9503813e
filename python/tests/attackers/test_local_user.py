"""The local user: an account on the machine that is protected or that has the vault, without the rights of the owner."""

import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import LIMIT, Agent, hrl, hrl_json, need, run

from hrl.cli.exits import Exit

CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@pytest.fixture
def careless() -> Iterator[None]:
    """Runs the test as somebody whose files everybody may write."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> list[str]:
    """Everything in a directory, and itself, to which others than its owner have a right."""
    found = [directory, *directory.rglob("*")]
    return [
        f"{path} {path.lstat().st_mode & 0o777:o}"
        for path in found
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


def wait_for(path: Path) -> str:
    """What a file holds, once it holds something."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if path.exists() and path.read_text(errors="replace"):
            return path.read_text(errors="replace")
        time.sleep(0.05)
    raise AssertionError(f"{path} stays empty")


def test_nothing_that_is_made_is_open_to_others(start: Callable[..., Agent], tmp_path: Path, careless: None) -> None:
    """With umask 0 every file was open to everybody, and the socket gave the disk away."""
    agent = start("--events-file", str(tmp_path / "events"))
    agent.write(0, b"of the owner" * 100 + bytes(848))
    hrl("point", agent.state, "--label", "first")
    hrl("status", agent.state, "--wait", "ordered")
    socket = agent.state / "nbd.sock"
    assert stat.S_ISSOCK(socket.stat().st_mode) and open_to_others(agent.state) == []
    agent.stop()
    restored = tmp_path / "restored.img"
    hrl("restore", agent.vault, "disk.img", "--at", "newest", "--to", restored)
    hrl("mirror", agent.vault, tmp_path / "mirror")
    hrl("group", "create", tmp_path / "group", "--name", "g", "--pki", tmp_path, "--any-member")
    for made in (Path(agent.vault), agent.state, tmp_path / "mirror", tmp_path / "group"):
        assert open_to_others(made) == []
    for made in (restored, tmp_path / "events"):
        assert made.stat().st_mode & 0o777 == 0o600
    # What the operator shares on purpose is shared: the group of a directory with the setgid bit.
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2770)
    hrl("mirror", agent.vault, shared / "vault")
    assert {path.stat().st_mode & 0o777 for path in (shared / "vault").rglob("*") if path.is_file()} == {0o660}


def test_another_user_does_not_reach_the_disk(start: Callable[..., Agent], tmp_path: Path, careless: None) -> None:
    need("setpriv", "/usr/bin/python3")
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith(("pytest-", "popen-", "test_")):
            path.chmod(0o755)
    public = tmp_path / "public"
    public.mkdir(mode=0o777)
    start("--nbd", f"unix:{public}/nbd.sock")
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", CONNECT]
    done = subprocess.run([*become, public / "nbd.sock"], capture_output=True, text=True, timeout=LIMIT)
    assert "PermissionError" in done.stderr, done.stderr
    run("/usr/bin/python3", "-c", CONNECT, public / "nbd.sock")


def test_what_an_earlier_version_left_open_goes_on_and_is_told(start: Callable[..., Agent], tmp_path: Path) -> None:
    """No rights of what exists are changed; `hrl health` says that they are too many."""
    agent = start()
    agent.write(0, bytes([1]) * 4096)
    hrl("point", agent.state)
    agent.stop()
    for made in (agent.state, Path(agent.vault)):
        for path in (made, *made.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    agent = start()
    hrl("point", agent.state)
    hrl("status", agent.state, "--wait", "ordered")
    assert "mode 755): chmod -R go= " in hrl("health", agent.state)
    agent.stop()
    assert "mode 755): chmod -R go= " in hrl("health", agent.vault)
    assert Path(agent.vault).stat().st_mode & 0o777 == 0o755


def test_without_tls_the_network_is_no_client(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start()
    agent.write(0, bytes([1]) * 4096)
    hrl("point", agent.state, "--label", "first")
    agent.stop()
    serve = ["serve", agent.vault, "disk.img", "--at", "newest", "--nbd", "tcp:0.0.0.0:0"]
    told = hrl(*serve, code=Exit.INVALID_INPUT)
    assert "0.0.0.0, which other machines may reach" in told and "--insecure" in told
    disk = tmp_path / "disk.img"
    protect = ["protect", disk, "--vault", agent.vault, "--state", agent.state, "--nbd", "tcp:[::]:0"]
    assert "--insecure" in hrl(*protect, code=Exit.INVALID_INPUT)
    command = [sys.executable, "-P", "-m", "hrl", *map(str, serve), "--insecure"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline().startswith("nbd://0.0.0.0:")
        server.terminate()


def test_no_program_that_the_agent_starts_has_the_key(
    start: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event command, a script of an application and a check had the key in their environment, and in `/proc`."""
    key, password = secrets.token_hex(32), secrets.token_hex(16)
    monkeypatch.setenv("VAULT_KEY", key)
    monkeypatch.setenv("MAIL_PASSWORD", password)
    seen = {name: tmp_path / f"env-{name}" for name in ("event", "script", "check")}
    agent = start(
        *("--key-env", "VAULT_KEY"),
        *("--events-command", f"env >>{seen['event']}; ls -l /proc/self/fd >>{seen['event']}"),
        *("--events-mail", "nobody@localhost", "--smtp", "localhost:9", "--mail-from", "hrl@localhost"),
        *("--smtp-user", "u", "--smtp-password-env", "MAIL_PASSWORD"),
        *("--quiesce", f"script:?pre=env >>{seen['script']}; ls -l /proc/self/fd >>{seen['script']}"),
        policy=f'[verify]\nevery = "1h"\nunsandboxed = true\ncommand = "env >{seen["check"]}; ls -l /proc/self/fd >&2"\n',
    )
    agent.write(0, bytes([1]) * 4096)
    hrl("point", agent.state, "--app", "--label", "first")
    for name in ("script", "check"):
        text = wait_for(seen[name])
        assert key not in text and password not in text, name
    # The check, in a process of its own, opened the vault: it has the key in another way.
    end = time.monotonic() + LIMIT
    while not any(point["verdicts"] for point in hrl_json("points", agent.vault, "--key-env", "VAULT_KEY")):
        assert time.monotonic() < end, "no verdict"
        time.sleep(0.2)
    agent.stop()
    if seen["event"].exists():
        text = seen["event"].read_text(errors="replace")
        assert key not in text and password not in text


def test_a_process_in_the_background_has_the_key_and_its_programs_do_not(
    start: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_KEY", secrets.token_hex(32))
    agent = start("--key-env", "VAULT_KEY")
    agent.write(0, bytes([7]) * 4096)
    hrl("point", agent.state, "--label", "first")
    agent.stop()
    state = tmp_path / "test-state"
    common = ["--name", "drill", "--state", state, "--key-env", "VAULT_KEY"]
    told = hrl_json("failover", "test", agent.vault, "disk.img", *common, "--at", "first", "--detach")
    environment = Path(f"/proc/{told['pid']}/environ").read_bytes()
    assert b"VAULT_KEY" not in environment
    run("qemu-io", "-r", "-f", "raw", "-c", "read -P 7 0 4096", told["uri"])
    hrl("failover", "cleanup", agent.vault, "disk.img", *common)
