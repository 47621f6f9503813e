"""The hostile guest: it wrote the disk that is checked, and wants the files and the rights of the machine that checks it."""

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import hrl, hrl_json, need, run

import hrl as package
from hrl.cli.box import ENTRY, Box
from hrl.cli.exits import Exit

MIB = 1 << 20
POLICY = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "retention": "none"}
# Links that a check may follow, and where they lead when nothing keeps them in the disk.
LINKS = {
    "etc/fstab": "/etc/shadow",
    "etc/absolute": "SECRET",
    "etc/relative": "../" * 12 + "SECRET",
    "etc/process": "/proc/1/root/SECRET",
    "etc/here": "/proc/self/cwd/SECRET",
}


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps these checks apart from those of other tests, which look for what is left of theirs."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield


@pytest.fixture
def mounts() -> None:
    """Skips where nothing can be mounted."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting needs root and /dev/fuse")
    need("bwrap", "nbdfuse", "losetup", "mkfs.ext4")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the machine that no check has business with."""
    path = tmp_path / "secret"
    path.write_text("the password of the backup host\n")
    return path


def protect(directory: Path, build: Callable[[Path], None]) -> Path:
    """Makes a vault with one point of a disk that the guest filled."""
    disk = directory / "disk.img"
    build(disk)
    vault = package.Vault(str(directory / "vault"), create=True)
    with package.Protection(disk, vault=vault, state=directory / "state", volume="v", policy=POLICY) as protection:
        protection.wait_ordered()
        protection.mark("point")
        protection.wait_replicated()
    return directory / "vault"


def root_file_system(secret: Path) -> Callable[[Path], None]:
    """Returns what fills a disk with an ext4 of links, beside a file that only the guest's root may read."""

    def build(disk: Path) -> None:
        files = disk.with_suffix(".files")
        (files / "etc").mkdir(parents=True)
        for name, target in LINKS.items():
            (files / name).symlink_to(
                target.replace("SECRET", str(secret).lstrip("/") if ".." in target or "/proc" in target else str(secret))
            )
        private = files / "etc" / "private"
        private.write_text("of the guest\n")
        private.chmod(0o600)
        os.chown(private, 70000, 70000)
        disk.touch()
        os.truncate(disk, 16 * MIB)
        run("mkfs.ext4", "-q", "-F", "-d", files, disk)

    return build


def check(vault: Path, command: str, *options: object) -> tuple[bool, str]:
    """Runs a check with the file systems mounted: whether the point is good, and what the check said."""
    arguments = ["verify", vault, "v", "--mount", "--command", command, *options, "--no-record", "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hrl", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HRL_TEST_TOKEN": "of the operator"},
    )
    assert done.returncode in (0, Exit.CHECK_FAILED), done.stdout + done.stderr
    return done.returncode == 0, done.stdout


def open_to_all(directory: Path) -> None:
    """Lets every user come to a directory of a test."""
    for path in (directory, *directory.parents):
        if path.name.startswith(("pytest-", "popen-", "test_")):
            path.chmod(0o755)


def test_no_link_leads_out_of_the_disk(tmp_path: Path, mounts: None, secret: Path) -> None:
    """Each of these printed the file of the machine, and the check was good."""
    vault = protect(tmp_path, root_file_system(secret))
    for name in LINKS:
        good, said = check(vault, f'cat "$HRL_MOUNT"/{name}')
        assert not good and "No such file" in said, f"{name}: {said}"
        good, said = check(vault, f'cat "$HRL_MOUNT"/{name}', "--unsandboxed")
        assert not good and "password" not in said and "root:" not in said, f"{name}: {said}"
    good, said = check(vault, 'cat "$HRL_MOUNT"/etc/private; stat -c "owner %u" "$HRL_MOUNT"/etc/private')
    assert good and "of the guest / owner 70000" in said, said


def test_what_reads_the_disk_has_no_rights_here(tmp_path: Path, mounts: None, secret: Path) -> None:
    vault = protect(tmp_path, root_file_system(secret))
    for command, wanted in {
        f"cat {secret}": "No such file",
        "cat /etc/shadow": "No such file",
        "ls /root /home /var": "cannot access",
        "env | grep HRL_TEST_TOKEN": "exit status 1",
        "tr '\\0' '\\n' < /proc/1/environ | grep HRL_TEST_TOKEN": "exit status 1",
        "test $(ls -d /proc/[0-9]* | wc -l) -gt 9": "exit status 1",
        "echo x > /proc/sys/kernel/core_pattern": "exit status 2",
        "touch /usr/bin/owned": "Read-only",
        "mount -t tmpfs none /mnt": "exit status",
        "unshare --user true": "Operation not permitted",
        "ip link | grep -v 'lo:\\|loopback'": "exit status 1",
        'losetup --detach "$HRL_DEVICE"': "Operation not permitted",
        "cat /dev/kmsg": "No such file",
    }.items():
        good, said = check(vault, command)
        assert not good and wanted in said, f"{command}: {said}"
    good, said = check(vault, 'test -b "$HRL_DEVICE" && cat /proc/self/uid_map && grep Seccomp: /proc/self/status')
    assert good and "2000000000" in said and "Seccomp: 2" in said, said


def test_the_operator_shows_files_to_a_check(tmp_path: Path, mounts: None, secret: Path) -> None:
    vault = protect(tmp_path, root_file_system(secret))
    script = tmp_path / "check.sh"
    script.write_text("cat $1 && test -s $HRL_MOUNT/etc/private\n")
    script.chmod(0o755)
    good, said = check(vault, f"sh {script} {script}", "--show", script)
    assert good and "test -s" in said, said
    assert "not there" in hrl("verify", vault, "v", "--command", "true", "--show", tmp_path / "none", code=Exit.NOT_FOUND)


def test_a_kind_of_file_system_that_nobody_keeps_is_not_mounted(tmp_path: Path, mounts: None) -> None:
    """A guest chooses which driver of the kernel reads its disk; the old ones have faults that nobody mends."""

    def minix(disk: Path) -> None:
        disk.touch()
        os.truncate(disk, 4 * MIB)
        superblock = struct.pack("<HHHHHHIHHI", 64, 4096, 2, 2, 6, 0, 268966912, 0x138F, 1, 0)
        with open(disk, "r+b") as file:
            file.seek(1024)
            file.write(superblock)

    vault = protect(tmp_path, minix)
    assert "cannot mount minix" in hrl("verify", vault, "v", "--mount", code=Exit.UNSUPPORTED)


def test_a_guest_that_took_qemu_over_leads_no_check_astray(tmp_path: Path, secret: Path) -> None:
    """The console and the socket of the agent are where QEMU puts them: a link there is not followed."""
    need("bwrap")
    disk = tmp_path / "disk.img"

    def empty(disk: Path) -> None:
        disk.touch()
        os.truncate(disk, MIB)

    vault = protect(tmp_path, empty)
    assert disk.exists()
    program = tmp_path / "qemu"
    program.write_text(
        "#!/bin/sh\n"
        'for word; do case "$word" in\n'
        "file:*) console=${word#file:};; socket,path=*) agent=${word#socket,path=};;\n"
        "esac; done\n"
        f"ln -s {secret} $console; ln -s {tmp_path}/listening ${{agent%%,*}}; sleep 3\n"
    )
    program.chmod(0o755)
    told = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "hrl", "verify", str(vault), "v", "--boot", "--qemu", str(program)),
            *("--boot-pattern", "password", "--limit", "2s", "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == Exit.CHECK_FAILED, told.stdout + told.stderr
    assert "password" not in told.stdout and "not up within 2 s; the console is empty" in told.stdout


def test_without_a_box_there_is_no_check_and_the_error_says_what_helps(tmp_path: Path) -> None:
    need("bwrap")

    def empty(disk: Path) -> None:
        disk.touch()
        os.truncate(disk, MIB)

    vault = protect(tmp_path, empty)
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    (broken / "bwrap").chmod(0o755)
    command = [sys.executable, "-P", "-m", "hrl", "verify", str(vault), "v", "--command", "true"]

    def told(*options: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": f"{broken}:{os.environ['PATH']}"}
        return subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, env=environment)

    refused = told()
    assert refused.returncode == Exit.UNSUPPORTED, refused.stderr
    assert "user namespaces" in refused.stderr and "--unsandboxed" in refused.stderr
    assert told("--unsandboxed").returncode == 0
    (verdict,) = package.Vault(str(vault)).replica("v").points()[0].verdicts
    assert verdict.ok, "the refused check left no verdict"


def test_who_is_not_root_gets_a_box_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel makes it without rights; its user is nobody."""
    need("bwrap", "setpriv", "/usr/bin/python3")
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    box = Box()
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    command = box.command(["/bin/sh", "-c", "id -u; cat /etc/hostname; grep CapEff /proc/self/status"])
    open_to_all(tmp_path)
    entry = tmp_path / "entry.py"
    entry.write_text(ENTRY.read_text())
    command = ["/usr/bin/python3", "-I", "-S", str(entry), command[-1]]
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    done = subprocess.run([*become, *command], capture_output=True, text=True, timeout=60)
    assert "65534\n" in done.stdout and "CapEff:\t0000000000000000" in done.stdout, done.stderr
    assert "cat: /etc/hostname: No such file" in done.stderr


def test_the_root_of_a_container_gets_a_box_too(tmp_path: Path) -> None:
    """It has few users to give away, so its box has one: nobody. The disk is reached all the same."""
    need("bwrap", "unshare", "nbdinfo")

    def empty(disk: Path) -> None:
        disk.touch()
        os.truncate(disk, MIB)

    vault = protect(tmp_path, empty)
    container = ["unshare", "--user", "--map-root-user", sys.executable, "-P", "-m", "hrl"]
    check = [
        "verify",
        str(vault),
        "v",
        "--command",
        'nbdinfo --size "$HRL_NBD_URI"; id -u; cat /etc/hostname',
        "--no-record",
    ]
    done = subprocess.run([*container, *check], capture_output=True, text=True, timeout=60)
    assert "1048576 / 65534 / cat: /etc/hostname: No such file" in done.stdout, done.stderr


def test_verdicts_are_those_of_an_unhurt_disk(tmp_path: Path, mounts: None, secret: Path) -> None:
    vault = protect(tmp_path, root_file_system(secret))
    found = hrl_json("verify", vault, "v", "--mount", "--command", 'test -e "$HRL_MOUNT"/etc/private')
    assert [row["ok"] for row in found["checks"]] == [True, True]
