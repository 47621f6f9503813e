"""Vaults with a volume that cannot be read: it harms itself alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LIMIT, hrl

import hrl as package
from hrl.cli.exits import Exit

GOOD = "db"
BAD = "web"


def add(vault: package.Vault, directory: Path, name: str) -> None:
    """Adds a volume with a point."""
    with package.Protection(package.MemoryDevice(1 << 20), vault=vault, state=directory / name, volume=name) as protection:
        protection.wait_ordered()
        protection.write(0, b"1" * 4096)
        protection.mark("here")
        protection.wait_replicated()


def damage_record(vault: Path) -> None:
    record = vault / "volumes" / BAD / "volume"
    record.chmod(0o600)
    record.write_bytes(b"nothing that was written")


def damage_catalog(vault: Path) -> None:
    for version in (vault / "volumes" / BAD / "catalog").iterdir():
        version.chmod(0o600)
        version.write_bytes(version.read_bytes()[:40])


def with_foreign_key(vault: Path) -> None:
    """The bad volume is encrypted with a key that nobody gives."""


@pytest.fixture(params=[damage_record, damage_catalog, with_foreign_key])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A vault in which one of two volumes cannot be read."""
    harm: Callable[[Path], None] = request.param
    path = tmp_path / "vault"
    add(package.Vault(path, create=True), tmp_path, GOOD)
    if harm is with_foreign_key:
        hrl("key", tmp_path / "key")
        add(package.Vault(path, key=package.Key.from_file(tmp_path / "key")), tmp_path, BAD)
    else:
        add(package.Vault(path), tmp_path, BAD)
    harm(path)
    return path


def ends(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments", [["points"], ["timeline"], ["failover", "status"], ["churn"], ["compact", "--dry-run"]]
)
def test_commands_on_all_volumes_do_those_that_can_be_read(vault: Path, arguments: list[str]) -> None:
    for more in ([], ["--json"]):
        command = [*arguments, *more]
        place = command.index("status") + 1 if "status" in command else 1
        code, printed, told = ends(*command[:place], vault, *command[place:])
        assert code == Exit.PARTLY and GOOD in printed, told
        assert f"{BAD} cannot be read: " in told and f"1 of 2 volumes cannot be read: {BAD}" in told
        if more:
            json.loads(printed)


def test_what_is_asked_for_by_name_has_its_own_error(vault: Path) -> None:
    code, _, told = ends("points", vault, "--volume", BAD)
    assert code in (Exit.CORRUPT, Exit.WRONG_KEY) and len(told.splitlines()) == 1
    assert ends("points", vault, "--volume", GOOD)[0] == 0
    assert ends("restore", vault, GOOD, "--to", vault.parent / "image")[0] == 0


def test_health_and_report_show_it_beside_the_others(vault: Path, tmp_path: Path) -> None:
    code, printed, _ = ends("health", vault)
    assert code == 2 and f"{GOOD}: ok" in printed and f"{BAD}: critical: cannot be read" in printed
    code, _, told = ends("report", vault, "--to", tmp_path / "page.html")
    assert code == Exit.PARTLY and BAD in told
    page = (tmp_path / "page.html").read_text()
    assert "This volume cannot be read" in page and GOOD in page


def test_verify_reads_the_others_and_is_not_sound(vault: Path) -> None:
    code, printed, told = ends("verify", vault, "--json")
    found = json.loads(printed)
    assert code in (Exit.CORRUPT, Exit.PARTLY) and not found["sound"], told
    assert (code == Exit.PARTLY) == ("encrypted" in told or "key" in told)
    assert found["volumes"][GOOD]["sound"] and list(found["failures"]) == [BAD]
    code, printed, _ = ends("verify", vault, "--command", "true", "--json", "--no-record")
    assert code != 0 and json.loads(printed)["checks"][0]["volume"] == GOOD


def test_a_mirror_copies_the_others(tmp_path: Path) -> None:
    source = tmp_path / "vault"
    add(package.Vault(source, create=True), tmp_path, GOOD)
    add(package.Vault(source), tmp_path, BAD)
    damage_record(source)
    code, printed, told = ends("mirror", source, tmp_path / "other")
    assert code in (0, Exit.PARTLY) and f"{GOOD}: version" in printed, told
    assert ends("points", tmp_path / "other", "--volume", GOOD)[0] == 0


def test_a_vault_of_which_nothing_can_be_read_has_the_error_itself(tmp_path: Path) -> None:
    hrl("key", tmp_path / "key")
    add(package.Vault(tmp_path / "vault", key=package.Key.from_file(tmp_path / "key"), create=True), tmp_path, GOOD)
    code, _, told = ends("points", tmp_path / "vault")
    assert code == Exit.WRONG_KEY and "--key-file" in told
    assert ends("health", tmp_path / "vault")[0] == 3


def test_an_emptied_vault_is_a_warning_and_a_shrunk_one_critical(tmp_path: Path) -> None:
    from hrl.health import of_volumes, worst

    package.Vault(tmp_path / "vault", create=True)
    code, printed, _ = ends("health", tmp_path / "vault", "--json")
    assert code == 1 and json.loads(printed)["reasons"][0]["state"] == "warning"
    assert worst(of_volumes(["a"])) == "good" and worst(of_volumes([])) == "warn"
    assert worst(of_volumes(["a"], seen=["a"])) == "good" and worst(of_volumes(["a"], seen=["a", "b"])) == "bad"
    assert worst(of_volumes([], seen=["a"])) == "bad"
