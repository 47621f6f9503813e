"""The manual page and the completions of the command."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from hrl.cli.app import root
from hrl.cli.manual import page


def commands_of(before: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Every command with its name, those of groups too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(f"{before}{name} ", command)
        else:
            yield before + name, command


def test_the_manual_page_lists_every_command_and_option() -> None:
    lines = page().splitlines()
    every = dict(commands_of("", root()))
    assert "group join" in every
    for name, command in every.items():
        assert any(line.startswith(rf".SS \fBhrl {name}\fR") for line in lines)
        for parameter in command.params:
            argument = parameter.param_type_name == "argument"
            for option in [parameter.metavar or parameter.name.upper()] if argument else parameter.opts:
                assert option.replace("-", r"\-") in page()


def test_the_manual_page_is_good_troff() -> None:
    if shutil.which("groff") is None:
        return
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=page(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""


def test_commands_are_completed() -> None:
    shell = {"_HRL_COMPLETE": "complete_bash", "COMP_WORDS": "hrl re", "COMP_CWORD": "1"}
    command = [sys.executable, "-P", "-c", "import sys; sys.argv[0] = 'hrl'; import hrl.cli; hrl.cli.main()"]
    done = subprocess.run(command, env=os.environ | shell, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.split()) == ["report", "reprotect", "restore", "resync"], done.stderr
