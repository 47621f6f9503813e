"""Suspicious changes on a real file system: four workloads that are none, and encryption, which is one.

Each workload writes to an ext4 on a loop device over NBD. What was measured is printed: `pytest -s`.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import hrl, need, run
from machine import block_device, mounted

import hrl as package
from hrl.cli.sockets import SOCKET, socket_in

MIB = 1 << 20
CORPUS_BYTES = 80 * MIB
POLICY = {"segment_interval_ms": "200", "crash_point_interval_ms": "0", "retention": "none"}
LIMIT_SECONDS = 60.0


@pytest.fixture
def mounts() -> None:
    """Skips where nothing can be mounted."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting needs root and /dev/fuse")
    need("nbdfuse", "losetup", "mkfs.ext4", "openssl", "gzip", "zstd", "tar")


def corpus() -> Iterator[Path]:
    """Files of this machine, as many as make up the corpus: programs, sources, documentation."""
    found = 0
    for root in ("lib/python3", "share/doc", "share/perl", "lib/x86_64-linux-gnu", "bin", "share"):
        for path in sorted(Path("/usr", root).rglob("*")):
            if path.is_file() and not path.is_symlink() and path.suffix not in (".gz", ".xz", ".zst", ".whl"):
                if found > CORPUS_BYTES:
                    return
                found += path.stat().st_size
                yield path


def documents(disk: Path) -> None:
    """The documents of the disk's user are copied to it."""
    (disk / "documents").mkdir()
    for number, path in enumerate(corpus()):
        shutil.copyfile(path, disk / "documents" / f"{number}{path.suffix}")


def database(disk: Path) -> None:
    """Rows are inserted, updated and deleted, and the file is rebuilt."""
    words = [path.name for path in corpus()]
    draw = random.Random(1)
    with sqlite3.connect(disk / "orders.db") as db:
        db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, note TEXT, price REAL)")
        db.execute("CREATE INDEX by_customer ON orders (customer)")
        for _ in range(20):
            rows = [(draw.choice(words), " ".join(draw.choices(words, k=6)), draw.random()) for _ in range(5000)]
            db.executemany("INSERT INTO orders (customer, note, price) VALUES (?, ?, ?)", rows)
            db.execute("UPDATE orders SET price = price * 1.1 WHERE id % 7 = 0")
            db.execute("DELETE FROM orders WHERE id % 11 = 0")
            db.commit()
    sqlite3.connect(disk / "orders.db").execute("VACUUM")


def upgrade(disk: Path) -> None:
    """An archive is unpacked beside the old files, which it then replaces."""
    archive = disk / "packages.tar.gz"
    run("tar", "czf", archive, "-C", "/usr/lib", "python3")
    for _ in range(2):
        (disk / "new").mkdir()
        run("tar", "xzf", archive, "-C", disk / "new")
        shutil.rmtree(disk / "installed", ignore_errors=True)
        (disk / "new").rename(disk / "installed")
    archive.unlink()


def media(disk: Path) -> None:
    """Pictures are copied: the differences of noisy pixels, deflated, as PNG has them."""
    draw = random.Random(2)
    difference = bytes((step % 63 - 31) & 255 for step in range(256))
    (disk / "pictures").mkdir()
    for number in range(12):
        rows = draw.randbytes(6 * MIB).translate(difference)
        (disk / "pictures" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + zlib.compress(rows, 6))


def compress(disk: Path) -> None:
    """Every document is compressed, one half by gzip and one by zstd, and the originals go."""
    files = sorted((disk / "documents").iterdir())
    for half, command in ((files[::2], ["gzip", "-q"]), (files[1::2], ["zstd", "-q", "--rm"])):
        for at in range(0, len(half), 500):
            run(*command, *half[at : at + 500])
    run("sync", "-f", disk)
    shutil.rmtree(disk / "documents")


def encrypted(disk: Path) -> Iterator[tuple[Path, bytes]]:
    """Each document, and what ransomware makes of it. One process encrypts all, as starting thousands takes minutes."""
    paths = sorted((disk / "documents").iterdir())
    contents = [path.read_bytes() for path in paths]
    command = ["openssl", "enc", "-aes-256-ctr", "-K", os.urandom(32).hex(), "-iv", os.urandom(16).hex()]
    done = subprocess.run(command, input=b"".join(contents), capture_output=True, check=True).stdout
    at = 0
    for path, content in zip(paths, contents, strict=True):
        yield path, done[at : at + len(content)]
        at += len(content)


def in_place(disk: Path) -> None:
    """Each document is overwritten by its encrypted form."""
    for path, content in encrypted(disk):
        with path.open("r+b") as file:
            file.write(content)


def to_copies(disk: Path) -> None:
    """Each document is encrypted to a new file, and goes."""
    for path, content in encrypted(disk):
        path.with_name(path.name + ".locked").write_bytes(content)
        path.unlink()


class Lab:
    """A mounted file system on a protected disk."""

    def __init__(self, protection: package.Protection, disk: Path, events: list[dict[str, str]]) -> None:
        self.protection, self.disk, self.events = protection, disk, events

    def alarms(self) -> int:
        return sum(event["kind"] == "suspicious-change" for event in self.events)

    def work(self, work: Callable[[Path], None]) -> int:
        """Does something on the disk, and takes a point of its name; how many alarms there were."""
        before, written = self.alarms(), self.protection.stats().bytes_captured
        work(self.disk)
        run("sync", "-f", self.disk)
        self.protection.mark(work.__name__)
        self.protection.wait_replicated(LIMIT_SECONDS)
        found = self.alarms() - before
        megabytes = (self.protection.stats().bytes_captured - written) / 1e6
        print(f"{work.__name__}: {megabytes:.0f} MB written, {found} alarms")
        return found


# The second takes as long again: `make test-long`.
@pytest.mark.parametrize("attack", [in_place, to_copies] if "HRL_LONG" in os.environ else [in_place])
def test_encryption_is_found_and_four_workloads_are_not_suspicious(
    tmp_path: Path, mounts: None, attack: Callable[[Path], None]
) -> None:
    image, vault = tmp_path / "disk.img", tmp_path / "vault"
    image.touch()
    os.truncate(image, 768 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    opened = package.Vault(vault, create=True)
    events: list[dict[str, str]] = []
    with package.Protection(
        image, vault=opened, state=tmp_path / "state", volume="v", policy=POLICY, on_event=events.append
    ) as protection:
        protection.wait_ordered(LIMIT_SECONDS)
        socket = socket_in(tmp_path, SOCKET)
        with (
            package.NbdServer.protected(f"unix:{socket}", protection, "v") as server,
            block_device(server.uri, tmp_path) as device,
            mounted(device, tmp_path / "mount") as disk,
        ):
            lab = Lab(protection, disk, events)
            for work in (documents, database, upgrade, media, compress, documents):
                assert lab.work(work) == 0, events[-1]
            assert lab.work(attack) == 1, "the attack was not found"
            lab.work(afterwards)
        # The verdicts come when the points are in the catalog.
        end = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end and not verdicts(vault).get("afterwards"):
            time.sleep(0.2)
    found = verdicts(vault)
    assert found["afterwards"] == [("suspicious", False)] and found["compress"] == [], found
    assert found[attack.__name__] == [("suspicious", False)]
    command = [sys.executable, "-P", "-m", "hrl", "health", str(vault)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert told.returncode == 2 and "later points are suspicious" in told.stdout, told
    hrl("restore", vault, "v", "--at", "newest-good", "--to", tmp_path / "restored")
    # A change is dated by segments, so the last point before it may count as suspicious, too.
    good = package.Vault(vault).replica("v").newest_good().point
    assert good.label in ("documents", "compress"), good
    with package.Vault(vault).replica("v").view(f"point:{good.id}") as view:
        assert (tmp_path / "restored").read_bytes() == view.read(0, view.size_bytes)
    assert "points trusted" in hrl("trust", vault, "v", "--reason", "a test")
    assert hrl("trust", vault, "v").strip() == "no point is suspicious"


def afterwards(disk: Path) -> None:
    """Little happens after the attack."""
    (disk / "README.locked").write_text("pay\n")


def verdicts(vault: Path) -> dict[str, list[tuple[str, bool]]]:
    """The verdicts of each point, by its label; of equal ones those of the newest."""
    points = package.Vault(vault).replica("v").points()
    return {point.label: [(verdict.kind, verdict.ok) for verdict in point.verdicts] for point in points}
