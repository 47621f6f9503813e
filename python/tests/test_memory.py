"""What commands remember of a vault, and what they are asked to expect: a vault that went back is noticed."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import hrl

import hrl as package
from hrl import health
from hrl.cli.memory import Memory, expected_of, identity_of, prune

DIVERGED = 21
PARTLY = 22
SECOND = 1_000_000_000


def marked(vault: Path, state: Path, *labels: str, volume: str = "db") -> None:
    """Protects a small disk for so long that it has points with these labels."""
    opened = package.Vault(vault, create=True)
    with package.Protection(package.MemoryDevice(1 << 20), vault=opened, state=state, volume=volume) as agent:
        agent.wait_ordered()
        for label in labels:
            agent.mark(label)
        agent.wait_replicated()


@pytest.fixture
def gone_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vault that a reader has seen with two points, and that has one now."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    vault = tmp_path / "vault"
    marked(vault, tmp_path / "state", "early")
    shutil.copytree(vault, tmp_path / "old")
    marked(vault, tmp_path / "state", "late")
    hrl("points", vault)
    shutil.rmtree(vault)
    shutil.copytree(tmp_path / "old", vault)
    return vault


def remembered() -> list[Path]:
    return sorted(Path(os.environ["XDG_STATE_HOME"]).glob("hrl/seen/*/*"))


def both(*arguments: object) -> tuple[int, str]:
    """Runs a command; its exit code, and all that it printed."""
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_every_reading_command_notices_a_vault_that_went_back(gone_back: Path, tmp_path: Path) -> None:
    out, nbd = tmp_path / "out", f"unix:{tmp_path}/n.sock"
    seen = json.loads(remembered()[0].read_text())
    for command in (
        ["restore", gone_back, "db", "--to", out],
        ["serve", gone_back, "db", "--nbd", nbd],
        ["points", gone_back],
        ["timeline", gone_back],
        ["changes", gone_back, "db", "--from", "0"],
        ["verify", gone_back],
        ["verify", gone_back, "db"],
        ["verify", gone_back, "--command", "true"],
        ["failover", "start", gone_back, "db", "--state", tmp_path / "f", "--disk", out],
        ["failover", "test", gone_back, "db", "--state", tmp_path / "f", "--name", "t"],
    ):
        code, told = both(*command)
        assert code == DIVERGED, f"{command}: {code}: {told}"
        for part in ("db in", str(gone_back), f"version {seen['number']}", "went back", "--accept-rollback"):
            assert part in told, f"{part}: {told}"
    assert not out.exists() and not (tmp_path / "f").exists()
    code, told = both("health", gone_back)
    assert code == 2 and "db: critical: " in told and f"version {seen['number']}" in told
    code, told = both("group", "points", gone_back)
    assert code == PARTLY and f"version {seen['number']}" in told
    hrl("report", gone_back, "--to", tmp_path / "page.html")
    assert f"version {seen['number']}" in (tmp_path / "page.html").read_text()
    found = json.loads(both("verify", gone_back, "--json")[1])
    assert not found["sound"] and list(found["went_back"]) == ["db"] and found["volumes"]["db"]["sound"]


def test_a_rollback_is_looked_at_without_memory_or_taken_for_good(gone_back: Path) -> None:
    before = remembered()[0].read_text()
    hrl("verify", gone_back, "--no-memory")
    hrl("points", gone_back, "--no-memory")
    assert remembered()[0].read_text() == before
    hrl("points", gone_back, code=DIVERGED)
    code, told = both("verify", gone_back, "--accept-rollback")
    assert code == 0 and "taken as it is" in told
    hrl("verify", gone_back)
    assert json.loads(remembered()[0].read_text())["number"] < json.loads(before)["number"]


def test_a_vault_with_lost_versions_under_a_newer_one_is_used_up_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    vault, out = tmp_path / "vault", tmp_path / "out"
    for label in ("early", "middle", "late"):
        marked(vault, tmp_path / "state", label)
        if label == "early":
            lost = len(list((vault / "volumes/db/catalog").iterdir())) + 1
    (vault / f"volumes/db/catalog/{lost:016x}").unlink()
    restore = ["restore", vault, "db", "--to", out]
    code, told = both(*restore)
    assert code == 5 and "--accept-rollback" in told and not out.exists(), told
    code, told = both("points", vault, "--volume", "db", "--accept-rollback")
    assert code == 0 and f"versions {lost} to" in told and "early" in told and "late" not in told
    hrl(*restore, "--at", "early")
    start = ["failover", "start", vault, "db", "--state", tmp_path / "f", "--disk", tmp_path / "disk", "--detach"]
    hrl(*start)
    hrl("failover", "commit", vault, "db", "--state", tmp_path / "f")
    hrl("failover", "detach", "--state", tmp_path / "f")
    assert "early" in hrl("points", vault)


def test_volumes_that_are_gone_are_critical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    vault = tmp_path / "vault"
    for name in ("db", "web"):
        marked(vault, tmp_path / name, "p", volume=name)
    hrl("health", vault)
    shutil.rmtree(vault / "volumes/web")
    code, told = both("health", vault)
    assert code == 2 and "critical: the vault has lost 1 volume: web" in told and "db: ok" in told
    assert both("health", vault, "web")[0] == 2, "asked for by its name"
    assert both("health", vault, "db")[0] == 0, "the one that is asked for is there"
    shutil.rmtree(vault / "volumes/db")
    code, told = both("health", vault)
    assert code == 2 and "the vault has lost 2 volumes: db, web" in told
    assert both("health", vault, "--no-memory") == (1, "warning: there is no volume in the vault\n")
    shutil.rmtree(vault)
    code, told = both("health", vault)
    assert code == 2 and "lost 2 volumes" in told and "is its file system mounted?" in told
    package.Vault(vault, create=True)
    assert both("health", vault, "--accept-rollback")[0] == 1
    assert both("health", vault)[0] == 1
    assert remembered() == []


def test_a_volume_that_was_shredded_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    key = tmp_path / "key"
    hrl("key", key)
    vault = package.Vault(tmp_path / "vault", key_file=key, create=True)
    with package.Protection(package.MemoryDevice(1 << 20), vault=vault, state=tmp_path / "s", volume="db") as agent:
        agent.wait_ordered()
        agent.wait_replicated()
    hrl("points", tmp_path / "vault", "--key-file", key)
    assert len(remembered()) == 1
    hrl("shred", tmp_path / "vault", "db", "--yes", "--data", "--key-file", key)
    assert remembered() == [] and both("health", tmp_path / "vault", "--key-file", key)[0] == 1


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        ("v1", 0), ("v9999", DIVERGED), ("here", 0), ("label:here", 0), ("label:there", DIVERGED), ("there", DIVERGED),
        ("sequence:1", 0), ("999999", DIVERGED), ("1d ago", 0), ("2099-01-01", DIVERGED), ("2099-01-01T00:00:00Z", DIVERGED),
        ("newest", 2), ("point:zz", 2),
    ],
)  # fmt: skip
def test_what_is_expected_must_be_there(tmp_path: Path, expected: str, code: int) -> None:
    vault = tmp_path / "vault"
    marked(vault, tmp_path / "state", "here")
    option = ("--expect-at-least", expected)
    for command in (["verify", vault, "db"], ["restore", vault, "db", "--to", tmp_path / "out"]):
        found, told = both(*command, *option)
        assert found == code, f"{command}: {told}"
    assert (tmp_path / "out").exists() == (code == 0), "nothing is restored of an old copy"
    assert both("health", vault, *option)[0] == {0: 0, DIVERGED: 2, 2: 3}[code]


def test_an_expected_point_is_named_as_points_shows_it(tmp_path: Path) -> None:
    marked(tmp_path / "vault", tmp_path / "state", "here")
    replica = package.Vault(tmp_path / "vault").replica("db")
    version, point = replica.version(), replica.points()[-1]
    hrl("verify", tmp_path / "vault", "--expect-at-least", point.id[:8])
    for expected in (version.text, f"v{version.number}", point, point.sequence, point.id):
        replica.check_at_least(expected)
        package.Vault(tmp_path / "vault").replica("db", at_least=expected)
    with pytest.raises(package.DivergedError, match="catalog version 9999"):
        package.Vault(tmp_path / "vault").replica("db", at_least="v9999")
    assert (version.sequence, version.time_ns) == (point.sequence, point.time_ns)


def test_memory_that_cannot_be_used_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marked(tmp_path / "vault", tmp_path / "state", "here")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    code, told = both("points", tmp_path / "vault")
    assert code == 0 and "cannot remember what was seen of db" in told
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    hrl("points", tmp_path / "vault")
    (file,) = remembered()
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    for damage in ("", "[]", "{}", "\0" * 100, '{"vault": 1}'):
        file.write_text(damage)
        code, told = both("points", tmp_path / "vault")
        assert code == 0 and "nothing is compared" in told, damage
        assert json.loads(file.read_text())["volume"] == "db", "it is made anew"


def test_a_vault_is_one_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert identity_of("vault") == identity_of(f"{tmp_path}/vault/") == identity_of(f"file://{tmp_path}/vault")
    assert identity_of("s3://user:secret@Host/b/") == identity_of("s3://host/b?secret=x") == "s3://host/b"
    assert identity_of("s3://host/b") != identity_of("s3://host/c")
    assert Memory("s3://host/b").names() == []


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrl.cli.memory.FILES_MAX", 2)
    for at in range(4):
        (tmp_path / str(at)).mkdir()
        (tmp_path / str(at) / "x.json").touch()
        os.utime(tmp_path / str(at), (at, at))
    prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_what_an_expectation_is_read_as() -> None:
    assert expected_of("v12") == "v12" and expected_of("sequence:7") == "sequence:7" and expected_of("7") == "7"
    assert expected_of("01a1b2") == "point:01a1b2" and expected_of("nightly") == "nightly"
    assert expected_of("2026-11-21T09:30:00Z") == expected_of("time:2026-11-21T09:30:00Z") == "2026-11-21T09:30:00Z"


def test_a_frozen_copy_grows_old(tmp_path: Path) -> None:
    vault = package.Vault(tmp_path / "vault", create=True)
    policy = {"heartbeat_interval": "50ms", "crash_point_interval": "0"}
    disk = package.MemoryDevice(1 << 20)
    with package.Protection(disk, vault=vault, state=tmp_path / "s", volume="db", policy=policy) as agent:
        agent.wait_ordered()
        agent.mark("here")
        agent.wait_replicated()
        first = vault.replica("db").version()
        newest = vault.replica("db")
        while newest.version().number < first.number + 2:
            newest.refresh()
        stats = agent.stats()
        assert stats.catalog_version > first.number and stats.catalog_time_ns is not None
    version = newest.version()
    assert version.time_ns is not None and first.time_ns is not None and version.time_ns > first.time_ns
    now = version.time_ns + 4 * SECOND
    for interval, level in ((0, "note"), (1, "warn"), (2, "note")):
        (notice,) = health.of_version(version, health.Limits(now, heartbeat_interval=interval))
        assert notice.level == level and f"version, {version.number}, is 4.0 s old" in notice.text
    assert both("health", tmp_path / "vault", "--heartbeat", "1ms")[0] == 1
    assert both("health", tmp_path / "vault", "--heartbeat", "0")[0] == 0


def test_markers_that_are_ignored_are_in_the_health(tmp_path: Path) -> None:
    marked(tmp_path / "vault", tmp_path / "state", "here")
    (tmp_path / "vault/volumes/db/keys").mkdir(exist_ok=True)
    (tmp_path / "vault/volumes/db/keys/shredded").touch()
    assert "shredded: it is ignored" in package.Vault(tmp_path / "vault").replica("db").notes()[0]
    code, told = both("health", tmp_path / "vault", "--json")
    texts = [reason["text"] for reason in json.loads(told)["volumes"][0]["reasons"]]
    assert code == 0 and any("shredded: it is ignored" in text for text in texts)


def test_one_bad_volume_hides_no_group_points(tmp_path: Path) -> None:
    vault = package.Vault(tmp_path / "vault", create=True)
    for name in ("db", "web"):
        marked(tmp_path / "vault", tmp_path / name, "p", volume=name)
    (tmp_path / "vault/volumes/web/volume").write_bytes(b"x")
    found = vault.group_points()
    assert found.points == [] and [volume for volume, _ in found.unread] == ["web"]
    code, told = both("group", "points", tmp_path / "vault")
    assert code == 22 and "web cannot be read" in told
