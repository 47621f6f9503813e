"""What the tests share: a small disk, a vault, and an agent in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

DISK_BYTES = 16 << 20
QUICK = "segment_interval_ms = 100\ncrash_point_interval_ms = 0\n"
LIMIT = 60


def hrl(*arguments: object, code: int = 0) -> str:
    """Runs the command; its standard output. On an expected failure: its standard error."""
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == code, f"exit code {done.returncode}, {code} expected\n{done.stdout}{done.stderr}"
    return done.stderr if code else done.stdout


def hrl_json(*arguments: object) -> Any:
    """Runs the command with --json; the value it printed."""
    return json.loads(hrl(*arguments, "--json"))


class Agent:
    """`hrl protect` as a process."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        vault: Path | str | None = None,
        key_file: Path | None = None,
        policy: str = "",
        within: Sequence[str] = (),
    ) -> None:
        self.disk = directory / "disk.img"
        self.vault = vault or directory / "vault"
        self.state = directory / "state"
        self.key = ["--key-file", key_file] if key_file else []
        chosen = directory / "policy.toml"
        chosen.write_text(QUICK + policy)
        if not self.disk.exists():
            self.disk.touch()
            os.truncate(self.disk, DISK_BYTES)
        options = ["--vault", self.vault, "--state", self.state, "--policy", chosen, *self.key, *arguments]
        # `within` is a command that runs another one, such as nsenter.
        command = [*within, sys.executable, "-P", "-m", "hrl", "protect", self.disk, *options]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.uri = self.process.stdout.readline().strip()

    def write(self, offset: int, data: bytes) -> None:
        """Writes through the NBD export, flushed."""
        source = self.disk.with_suffix(".write")
        source.write_bytes(data)
        # qemu-io has no argument separator: paths with blanks would break it, and pytest's have none.
        request = f"write -s {source} {offset} {len(data)}"
        run("qemu-io", "-f", "raw", "-c", request, "-c", "flush", self.uri)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=LIMIT)

    def stop(self) -> str:
        """Ends it cleanly; the events that it told."""
        self.process.send_signal(signal.SIGTERM)
        _, events = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0, events
        return events


def run(*command: object) -> str:
    """Runs a program that must succeed; its standard output."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def need(*programs: str) -> None:
    """Skips the test where a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (make packages)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts scenarios first: the longest test should not begin when all others are done."""
    items.sort(key=lambda item: "scenarios" not in item.path.parts)


@pytest.fixture(autouse=True, scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps what commands remember of vaults away from the user's own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state-home"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents that do not outlive the test."""
    need("qemu-io")
    agents = []

    def make(*arguments: str, directory: Path = tmp_path, **options: Any) -> Agent:
        agents.append(Agent(directory, *arguments, **options))
        return agents[-1]

    yield make
    for agent in agents:
        if agent.process.poll() is None:
            agent.kill()
