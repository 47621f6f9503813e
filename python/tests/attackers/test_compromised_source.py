"""The compromised source: root on a protected machine, with its certificate and its key, that may write to the vault."""

import json
from pathlib import Path

from conftest import hrl

import hrl as package
from hrl.cli.exits import Exit

PLAN = """
name = "p"
[[group]]
name = "g"
[[group.before]]
command = "echo begun >>{directory}/log; test $HRL_TRY = 2"
"""


def test_an_edited_plan_runs_no_command(tmp_path: Path) -> None:
    """`hrl plan resume` on an edited record ran as root at the recovery site what the source had written there."""
    vault, file, owned = tmp_path / "vault", tmp_path / "plan.toml", tmp_path / "owned"
    package.Vault(str(vault), create=True)
    file.write_text(PLAN.format(directory=tmp_path))
    hrl("plan", "run", vault, file, "--run", "r", code=Exit.PLAN_FAILED)
    first = vault / "plans" / "r" / "000001"
    sound = first.read_bytes()
    record = json.loads(sound)
    record["text"] = record["text"].replace("test $HRL_TRY = 2", f"touch {owned}")
    first.write_text(json.dumps(record))
    assert "--plan" in hrl("plan", "resume", vault, "r", code=Exit.DENIED)
    told = hrl("plan", "resume", vault, "r", "--plan", file, code=Exit.INVALID_INPUT)
    assert "differs from the record at line 6" in told
    assert not owned.exists()
    # Nor does the run become one of another kind.
    record = json.loads(sound) | {"planned": True}
    first.write_text(json.dumps(record))
    told = hrl("plan", "resume", vault, "r", "--plan", file, code=Exit.INVALID_INPUT)
    assert "the record of a planned run" in told
    first.write_bytes(sound)
    hrl("plan", "resume", vault, "r", "--plan", file)
    assert (tmp_path / "log").read_text() == "begun\nbegun\n"
