"""Checks of recovery points that the agent makes by its policy."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Agent, hrl, hrl_json

from hrl.cli.exits import Refused
from hrl.cli.scheduled_checks import arguments_of, key_arguments


def test_a_table_becomes_the_options_of_verify() -> None:
    table = {"every": "1d", "mount": True, "fsck": False, "boot": False, "command": "true"}
    assert arguments_of(table) == ["--due", "--every", "1d", "--mount", "--no-fsck", "--command", "true"]
    for bad in ({}, {"every": 5}, {"every": "1d", "mount": "yes"}, {"every": "1d", "speed": "x"}):
        with pytest.raises(Refused):
            arguments_of(bad)
    given = ["protect", "disk", "--key-env", "K", "--vault", "v", "--key-file=a"]
    assert key_arguments(given) == ["--key-env", "K", "--key-file=a"]


def test_the_agent_checks_its_points_and_reports_a_bad_one(start: Callable[..., Agent], tmp_path: Path) -> None:
    key = tmp_path / "key"
    hrl("key", key)
    table = '[verify]\nevery = "1d"\ncommand = "echo no boot sector; false"\n'
    agent = start(key_file=key, policy=table)
    hrl("point", agent.state)
    end = time.monotonic() + 40
    while not any(point["verdicts"] for point in hrl_json("points", agent.vault, "--key-file", key)):
        assert time.monotonic() < end, "no point was checked"
        time.sleep(0.5)
    time.sleep(1)
    assert "check-failed: " in agent.stop()
