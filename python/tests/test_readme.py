"""The README's words about the package: its exit codes, its commands and its Python snippet."""

import os
import re
import runpy
from pathlib import Path

import pytest

from hrl.cli.base import EXIT_CODES, NOT_RUNNING, app

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_exit_codes_are_those_of_the_command() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", README, re.MULTILINE)
    told = {re.sub("[^a-z]", "-", meaning.strip().lower()): int(code) for code, meaning in rows}
    assert told.pop("done") == 0
    assert told.pop("the-agent-is-not-running") == NOT_RUNNING
    told["io"] = told.pop("i-o-error")
    assert told == EXIT_CODES


def test_every_command_is_listed() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    section = README.split("## Commands")[1].split("\n## ")[0]
    assert set(re.findall(r"`hrl ([a-z]+)", section)) == names


def test_the_python_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("disk.img").touch()
    os.truncate("disk.img", 4 << 20)
    Path("snippet.py").write_text(README.split("```python\n")[1].split("```")[0])
    runpy.run_path("snippet.py")
    assert "crash" in capsys.readouterr().out
