"""Files that commands make: complete or not there, and never in place of a device node or of what another process uses."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import hrl

import hrl as package
from hrl.cli.exits import Exit, Refused
from hrl.cli.targets import SUFFIX, checked, interruptible, published, work_directory

DISK_BYTES = 4 << 20


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with one volume and two points."""
    directory = tmp_path_factory.mktemp("targets")
    opened = package.Vault(directory / "vault", create=True)
    disk = package.MemoryDevice(DISK_BYTES)
    with package.Protection(disk, vault=opened, state=directory / "state", volume="db") as protection:
        protection.wait_ordered()
        for label in ("A", "B"):
            protection.write(0, label.encode() * 4096)
            protection.mark(label)
        protection.wait_replicated()
    return directory / "vault"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A block device node that nothing is behind."""
    path = tmp_path / "sdx"
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(240, 1))
    except PermissionError:
        pytest.skip("only root may make device nodes")
    yield path


def left_in(directory: Path) -> list[str]:
    """Names of files that a command leaves when it is not done."""
    return [path.name for path in directory.iterdir() if path.name.endswith(SUFFIX)]


def test_a_device_node_or_a_link_to_one_is_never_replaced(vault: Path, tmp_path: Path, node: Path) -> None:
    (tmp_path / "by-id").symlink_to("sdx")
    (tmp_path / "plain").write_bytes(b"1")
    journal = next((vault / "volumes/db/segments").glob("*.hrl"))
    for target in (node, tmp_path / "by-id"):
        for arguments in (
            ["restore", vault, "db", "--to", target, "--overwrite"],
            ["restore", vault, "db", "--to", target],
            ["changes", vault, "db", "--from", "A", "--to-file", target],
            ["report", vault, "--to", target, "--overwrite"],
            ["key", target],
            ["convert", journal, target, "--to", "log-writes"],
        ):
            told = hrl(*arguments, code=Exit.INVALID_INPUT)
            assert "is a block device" in told and ("use --device" in told) == (arguments[0] == "restore")
    assert stat.S_ISBLK(node.lstat().st_mode) and (tmp_path / "by-id").is_symlink()
    assert left_in(tmp_path) == []


def test_other_things_than_files_are_never_replaced(vault: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("/dev/disk/by-id/gone")
    for name, words in (("pipe", "is a pipe"), ("directory", "is a directory"), ("dangling", "which is not there")):
        told = hrl("restore", vault, "db", "--to", tmp_path / name, "--overwrite", code=Exit.INVALID_INPUT)
        assert words in told
    told = hrl("restore", vault, "db", "--to", "/dev/hrl-no-such-disk", "--overwrite", code=Exit.INVALID_INPUT)
    assert "would be in memory" in told and not Path("/dev/hrl-no-such-disk").exists()
    assert "is no directory" in hrl("restore", vault, "db", "--to", tmp_path / "none/x", code=Exit.NOT_FOUND)


def test_an_overwritten_link_keeps_leading_to_its_file(vault: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"old")
    (tmp_path / "link").symlink_to("image")
    hrl("restore", vault, "db", "--at", "A", "--to", tmp_path / "link", "--overwrite")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "image").read_bytes()[:4] == b"AAAA"


def test_an_image_that_is_in_use_is_refused(vault: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"in use")
    command = ["restore", vault, "db", "--to", image, "--overwrite"]
    with image.open("r+b"):
        told = hrl(*command, code=Exit.FENCED)
        assert "in use by another process" in told and f"process {os.getpid()}" in told
    with image.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "it is locked" in hrl(*command, code=Exit.FENCED)
        fcntl.flock(file, fcntl.LOCK_UN)
        assert image.read_bytes() == b"in use"
        hrl(*command)


def test_of_two_files_of_one_name_each_is_whole_and_one_is_refused(tmp_path: Path) -> None:
    """Two restores shared a temporary name: one succeeded with the bytes of the other."""
    target = tmp_path / "out"
    barrier = threading.Barrier(2)
    outcomes: dict[bytes, object] = {}

    def make(content: bytes) -> None:
        try:
            with published(target) as new:
                new.write_bytes(content * 1000)
                barrier.wait(30)
            outcomes[content] = "made"
        except Refused as refused:
            outcomes[content] = refused.code

    threads = [threading.Thread(target=make, args=(content,)) for content in (b"A", b"B")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [content for content, outcome in outcomes.items() if outcome == "made"]
    assert len(made) == 1 and target.read_bytes() == made[0] * 1000
    assert sorted(map(str, outcomes.values())) == [str(int(Exit.ALREADY_EXISTS)), "made"]
    assert left_in(tmp_path) == []


def test_a_file_system_without_links_has_one_winner_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Refused, match="meanwhile"), published(tmp_path / "out") as new:
        new.write_bytes(b"late")
        # Taken after the look and before the name is given.
        monkeypatch.setattr("hrl.cli.targets.checked", lambda *_, **__: (tmp_path / "out").write_bytes(b"first"))
    assert (tmp_path / "out").read_bytes() == b"first"
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", refuse)
    with published(tmp_path / "other") as new:
        new.write_bytes(b"whole")
    assert (tmp_path / "other").read_bytes() == b"whole"


def test_after_a_failure_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), published(tmp_path / "out") as new:
        new.write_bytes(b"a part")
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    to = tmp_path / "out"
    with pytest.raises(Refused, match=r"^cannot write to \S+/out at offset 5: full$") as refused, published(to) as new:
        raise package.HrlError(f"cannot write to {new.parent}/.{new.name}.restoring at offset 5: full", kind="full")
    assert refused.value.code == Exit.FULL
    with pytest.raises(package.HrlError, match="another matter"), published(to):
        raise package.HrlError("another matter", kind="wrong-key")


def test_what_a_killed_command_left_is_removed_and_what_runs_is_not(tmp_path: Path) -> None:
    abandoned = tmp_path / f".out.abcdefgh{SUFFIX}"
    abandoned.mkdir()
    (abandoned / "out").write_bytes(b"half")
    (tmp_path / ".out.mine").mkdir()
    with work_directory(tmp_path / "out") as running:
        (running / "out").write_bytes(b"1")
        assert not abandoned.exists()
        with work_directory(tmp_path / "out") as other:
            assert other != running and (running / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".out.mine"]


def test_a_long_name_fits(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127)
    with published(target) as new:
        new.write_bytes(b"1")
    assert target.read_bytes() == b"1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_partial_file(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from hrl.cli.targets import interruptible, published\n"
        "with published(pathlib.Path(sys.argv[1])) as new:\n"
        "    new.write_bytes(b'1')\n"
        "    print('there', flush=True)\n"
        "    interruptible(lambda: time.sleep(60))\n"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        began = time.monotonic()
        process.send_signal(number)
        process.wait(30)
    assert time.monotonic() - began < 20 and process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_what_the_library_raises_comes_out_of_the_thread() -> None:
    def fail() -> int:
        raise Refused("no", Exit.FULL)

    assert interruptible(lambda: 7) == 7
    with pytest.raises(Refused, match="no"):
        interruptible(fail)


def test_an_existing_file_is_named_with_the_option_that_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    with pytest.raises(Refused, match="--overwrite replaces it"):
        checked(tmp_path / "x", overwrite=False)
    with pytest.raises(Refused, match=r"exists$"):
        checked(tmp_path / "x")
    assert checked(tmp_path / "x", overwrite=True) == tmp_path / "x"


class LargeBlocks:
    """A disk in memory with blocks of 4096 bytes, as 4Kn disks have."""

    block_bytes = 4096
    size_bytes = 1 << 20

    def __init__(self) -> None:
        self._content = bytearray(self.size_bytes)

    def read(self, offset: int, length: int, /) -> bytes:
        return bytes(self._content[offset : offset + length])

    def write(self, offset: int, data: bytes, /, *, durable: bool) -> None:
        self._content[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Does nothing: memory is as durable as it gets."""


def test_large_blocks_are_said(tmp_path: Path, vault: Path) -> None:
    opened = package.Vault(tmp_path / "vault", create=True)
    with package.Protection(LargeBlocks(), vault=opened, state=tmp_path / "state", volume="db") as protection:
        protection.wait_ordered()
        protection.mark("here")
        protection.wait_replicated()

    def said(*command: object) -> str:
        arguments = [sys.executable, "-P", "-m", "hrl", *map(str, command)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            process.terminate()
            return process.stderr.read()

    assert "blocks of 4096 bytes" in said("restore", tmp_path / "vault", "db", "--to", tmp_path / "image")
    assert "blocks of 4096 bytes" in said("serve", tmp_path / "vault", "db", "--nbd", f"unix:{tmp_path}/n")
    assert "blocks of" not in said("restore", vault, "db", "--to", tmp_path / "other")
