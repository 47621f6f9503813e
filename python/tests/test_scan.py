"""Scans of recovery points by YARA rules."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import hrl, hrl_json, need, run

import hrl as package
from hrl.cli.exits import Exit, Refused
from hrl.cli.scan import Scan

MIB = 1 << 20
POLICY = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "retention": "none"}
NOTE = "your files are encrypted\n"
RULES = 'rule Ransom { strings: $a = "your files are encrypted" condition: $a }\n'


@pytest.fixture
def mounts() -> None:
    """Skips where nothing can be mounted."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting needs root and /dev/fuse")
    need("yara", "bwrap", "nbdfuse", "losetup", "mkfs.ext4")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Rules that only their owner may read."""
    path = tmp_path / "rules.yar"
    path.write_text(RULES)
    path.chmod(0o600)
    return path


def fill(directory: Path, files: dict[str, str], build: Callable[[Path], None] = lambda _: None) -> Path:
    """Makes an ext4 with these files, and with what else is built among them."""
    root, disk = directory / "files", directory / "disk.img"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    build(root)
    disk.touch()
    os.truncate(disk, 16 * MIB)
    run("mkfs.ext4", "-q", "-F", "-b", 4096, "-O", "^metadata_csum", "-d", root, disk)
    return disk


def protect(disk: Path, after: Callable[[package.Protection], object] = lambda _: None) -> Path:
    """Makes a vault with the points `before` and `after` of the disk."""
    path = disk.parent / "vault"
    vault = package.Vault(path, create=True)
    with package.Protection(disk, vault=vault, state=disk.parent / "state", volume="v", policy=POLICY) as protection:
        protection.wait_ordered()
        protection.mark("before")
        after(protection)
        protection.mark("after")
        protection.wait_replicated()
    return path


def verdicts(vault: Path) -> dict[str, list[tuple[str, bool, str]]]:
    points = package.Vault(vault).replica("v").points()
    return {point.label: [(one.kind, one.ok, one.text) for one in point.verdicts] for point in points}


def test_a_scan_finds_what_rules_describe_and_newest_good_goes_before_it(tmp_path: Path, mounts: None, rules: Path) -> None:
    disk = fill(tmp_path, {"home/letter.txt": "dear reader\n".ljust(4096)})
    place = disk.read_bytes().index(b"dear reader")
    vault = protect(disk, lambda protection: protection.write(place, NOTE.ljust(512).encode()))
    told = hrl_json("verify", vault, "v", "--at", "before", "--scan", rules)
    assert [(row["kind"], row["ok"]) for row in told["checks"]] == [("file-system", True), ("scan", True)]
    hrl("verify", vault, "v", "--scan", rules, "--command", "true", code=Exit.CHECK_FAILED)
    kept = verdicts(vault)
    assert ("scan", True, "no rule of rules.yar matches") in kept["before"]
    assert ("scan", False, "Ransom /home/letter.txt") in kept["after"] and len(kept["after"]) == 3
    hrl("restore", vault, "v", "--at", "newest-good", "--to", tmp_path / "restored")
    restored = (tmp_path / "restored").read_bytes()
    assert restored[place:].startswith(b"dear reader") and NOTE.encode() not in restored
    # A verdict of each kind is due again, or not.
    assert "nothing is due" in hrl("verify", vault, "v", "--scan", rules, "--due")


def test_rules_that_are_none_give_no_verdict(tmp_path: Path, mounts: None, rules: Path) -> None:
    vault = protect(fill(tmp_path, {"note": NOTE}))
    rules.write_text("rule {\n")
    assert "rules.yar(1): error: syntax error" in hrl("verify", vault, "v", "--scan", rules, code=Exit.INVALID_INPUT)
    absent = tmp_path / "absent"
    assert "expected a file with YARA rules" in hrl("verify", vault, "v", "--scan", absent, code=Exit.NOT_FOUND)
    assert verdicts(vault)["after"] == []


def test_without_a_scanner_the_error_says_what_to_install(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrl.cli.scan.PROGRAM", "yara-that-is-not-there")
    with pytest.raises(Refused, match="cannot scan a point: the program yara-that-is-not-there is not installed") as told:
        Scan(rules)
    assert told.value.code == Exit.UNSUPPORTED


def test_a_scan_runs_in_the_box(tmp_path: Path, mounts: None, rules: Path) -> None:
    """No link of the guest leads the scanner to a file of this machine, and no pipe or device holds it up."""
    secret = tmp_path / "secret"
    secret.write_text(NOTE)

    def build(root: Path) -> None:
        (root / "link").symlink_to(secret)
        (root / "up").symlink_to("/", target_is_directory=True)
        os.mkfifo(root / "pipe")
        os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        private = root / "private"
        private.write_text("of a user\n")
        private.chmod(0o600)
        os.chown(private, 70000, 70000)

    vault = protect(fill(tmp_path, {}, build))
    for options in ([], ["--unsandboxed"]):
        hrl("verify", vault, "v", "--scan", rules, "--limit", "60s", *options)
    rules.write_text('rule Private { strings: $a = "of a user" condition: $a }\n')
    hrl("verify", vault, "v", "--scan", rules, code=Exit.CHECK_FAILED)
    assert ("scan", False, "Private /private") in verdicts(vault)["after"]
    # The scanner sees the rules and the mount, and nothing else of this machine.
    rules.write_text(f'include "{secret}"\n')
    assert "can't open include file" in hrl("verify", vault, "v", "--scan", rules, code=Exit.INVALID_INPUT)


@pytest.mark.parametrize("damage", ["clri a", "sif a block[5] 0x7ffffff0"])
def test_what_cannot_be_read_makes_no_point_good(tmp_path: Path, mounts: None, rules: Path, damage: str) -> None:
    """A file without an inode, or with blocks outside of the disk, hides neither itself nor what is beside it."""
    disk = fill(tmp_path, {"a": "first".ljust(9000), "b": "second"})
    run("debugfs", "-w", "-R", damage, disk)
    vault = protect(disk)
    told = hrl("verify", vault, "v", "--no-fsck", "--scan", rules, code=Exit.IO)
    assert "cannot scan all of a point: " in told and "/a" in told
    assert verdicts(vault)["after"] == []
    rules.write_text('rule Second { strings: $a = "second" condition: $a }\n')
    hrl("verify", vault, "v", "--no-fsck", "--scan", rules, code=Exit.CHECK_FAILED)
    assert ("scan", False, "Second /b") in verdicts(vault)["after"]
