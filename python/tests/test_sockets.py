"""Sockets in directories whose paths are too long for a socket, or not UTF-8."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Agent, hrl, hrl_json

from hrl.cli.control import ControlServer, ask
from hrl.cli.exits import Refused
from hrl.cli.sockets import PATH_BYTES_MAX, address_of, fits, runtime_directory, socket_in


def deep(directory: Path) -> Path:
    """A directory with a path too long for a socket."""
    found = directory
    while len(str(found)) <= PATH_BYTES_MAX:
        found = found / ("d" * 40)
    found.mkdir(parents=True)
    return found


def test_a_short_path_is_kept_and_a_long_one_is_linked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert address_of("tcp:h:1", tmp_path) == "tcp:h:1"
    assert address_of(None, Path("state")) == "unix:state/nbd.sock"
    for directory in (deep(tmp_path), Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))):
        directory.mkdir(exist_ok=True)
        found = socket_in(directory, "nbd.sock")
        assert fits(found) and found.parent == runtime_directory()
        assert socket_in(directory, "nbd.sock") == found, "the name comes from the path"
        assert (directory / "nbd.sock").readlink() == found
        assert str(found) in capsys.readouterr().err
        (directory / "nbd.sock").unlink()


def test_a_runtime_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Refused, match="this user alone"):
        runtime_directory()


def test_a_control_socket_is_reached_however_long_its_path_is(tmp_path: Path) -> None:
    state = deep(tmp_path)
    server = ControlServer(state, {"echo": lambda request: request["text"]})
    try:
        assert ask(state, "echo", text="here") == "here"
    finally:
        server.close()
    assert not (state / "control.sock").exists()


def test_an_agent_with_a_long_state_directory_prints_an_address_that_works(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = start(directory=deep(tmp_path))
    assert len(agent.uri.partition("socket=")[2]) <= PATH_BYTES_MAX
    agent.write(0, b"1" * 4096)
    assert hrl_json("status", agent.state)["running"]
    assert hrl_json("point", agent.state)["kind"] == "crash"
    agent.stop()


def test_a_point_is_checked_in_a_long_temporary_directory(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start()
    while hrl_json("status", agent.state)["mode"] != "ordered":
        pass
    hrl("point", agent.state)
    agent.stop()
    command = [
        sys.executable,
        "-P",
        "-m",
        "hrl",
        "verify",
        str(agent.vault),
        "--command",
        'nbdinfo "$HRL_NBD_URI"',
        "--json",
    ]
    environment = os.environ | {"TMPDIR": str(deep(tmp_path / "tmp"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)["ok"], done.stdout + done.stderr
