"""The thief of a vault: it has a copy of all objects, and neither the key nor a machine that does."""

import shutil
from pathlib import Path

import pytest
from attackers_parts import SECRET, protect
from conftest import hrl

import hrl as package
from hrl.cli.exits import Exit


def test_a_stolen_vault_gives_names_sizes_and_times_alone(tmp_path: Path) -> None:
    """Promise 10: with all objects and any key but the right one, nothing of the content or the labels can be read."""
    key, other, third = tmp_path / "vault.key", tmp_path / "other.key", tmp_path / "third.key"
    for path in (key, other, third):
        hrl("key", path)
    vault = package.Vault(str(tmp_path / "vault"), key=package.Key.from_file(key), create=True)
    protect(vault, tmp_path)
    stolen = tmp_path / "stolen"
    shutil.copytree(tmp_path / "vault", stolen)
    objects = [path for path in stolen.rglob("*") if path.is_file()]
    assert len(objects) > 5
    for path in objects:
        content = path.read_bytes()
        for word in (SECRET[:24], b"second", package.Key.from_file(key).id.encode() + b"\n"):
            assert word not in content, f"{word!r} is in {path}"
    restored = tmp_path / "restored"
    for options in ([], ["--key-file", other]):
        for command in (
            ["points", stolen, "--volume", "disk"],
            ["restore", stolen, "disk", "--at", "newest", "--to", restored],
            ["serve", stolen, "disk", "--nbd", f"unix:{tmp_path}/s"],
            ["rotate-key", stolen, "--new-key-file", third, *([] if options else ["--key-file", other])],
            ["shred", stolen, "disk", "--yes"],
            ["verify", stolen, "disk", "--command", "true"],
        ):
            assert hrl(*command, *options, code=Exit.WRONG_KEY)
    assert not restored.exists()
    # What it does see.
    assert [path.name for path in (stolen / "volumes").iterdir()] == ["disk"]


def test_records_of_plans_are_no_way_in(tmp_path: Path) -> None:
    """Without the key the records of a run can be neither read nor written."""
    key = tmp_path / "vault.key"
    hrl("key", key)
    vault = package.Vault(str(tmp_path / "vault"), key=package.Key.from_file(key), create=True)
    protect(vault, tmp_path)
    plan = package.Plan('name = "p"\n[[group]]\nname = "g"\n[[group.before]]\ncommand = "echo word-of-the-plan"\n')

    class Host:
        def start(self, *_: object) -> package.VolumeStarted:
            raise AssertionError("the plan has no volume")

        commit = clean_up = start

    plan.run(vault, Host(), run="r", poll=0.01)
    records = tmp_path / "vault" / "plans" / "r"
    assert all(b"word-of-the-plan" not in path.read_bytes() for path in records.iterdir())
    with pytest.raises(package.WrongKeyError):
        package.plan_report(package.Vault(str(tmp_path / "vault")), "r")
    (records / "000001").write_bytes(b'{"kind":"run","plan":"p","text":"","mode":"real"}')
    with pytest.raises(package.WrongKeyError):
        package.resume_plan(vault, "r", Host())
