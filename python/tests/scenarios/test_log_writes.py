"""The kernel's own record of writes, dm-log-writes in a guest, against ours of the same disk."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from conftest import Agent, hrl, need, run
from guest import Guest, new_disk

import hrl as package

MIB = 1 << 20
DISK_BYTES = 16 * MIB
MARKS = ("made", "one", "two", "three")
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def marked(log: Path) -> Iterator[tuple[str, bytes]]:
    """The disk at each mark, replayed as the kernel's documentation says, by none of our code."""
    content, at = log.read_bytes(), 512
    magic, version, entries, sector_bytes = struct.unpack_from("<QQQI", content)
    assert (magic, version, sector_bytes) == (0x6A736677736872, 1, 512)
    disk = bytearray(DISK_BYTES)
    for _ in range(entries):
        first, count, flags, length = struct.unpack_from("<4Q", content, at)
        text = content[at + 32 : at + 32 + length] if flags & MARK else b""
        at += 512
        if flags & MARK:
            yield text.decode(), bytes(disk)
        elif not flags & DISCARD:
            disk[first * 512 : (first + count) * 512] = content[at : at + count * 512]
            at += count * 512


def replayed(segment: Path) -> Iterator[tuple[str, bytes]]:
    """The disk at each mark of a native segment."""
    disk = bytearray(DISK_BYTES)
    for record in package.Segment(segment):
        if record.kind == "mark":
            yield record.detail, bytes(disk)
        elif record.kind == "write":
            assert record.data is not None
            disk[record.offset : record.offset + record.length] = record.data


def test_promise_3_the_kernels_log_and_ours_agree_at_every_mark(start: Callable[..., Agent], tmp_path: Path) -> None:
    """Two captures of one workload, above and below the disk's cache: after a flush both have the same bytes."""
    need("e2fsck")
    machine, log = tmp_path / "machine.img", tmp_path / "kernel.log"
    new_disk(machine)
    for file in (tmp_path / "disk.img", log):
        with open(file, "wb") as sparse:
            sparse.truncate(DISK_BYTES * (1 if file != log else 3))
    agent = start()
    with Guest(tmp_path, machine, agent.uri, log) as guest:
        guest.wait_up()
        guest.run("modprobe dm-log-writes")
        # No udev runs there that it could wait for.
        guest.run(f"DM_DISABLE_UDEV=1 dmsetup create log --table '0 {DISK_BYTES // 512} log-writes /dev/vdb /dev/vdc'")

        def mark(name: str) -> None:
            # A sync writes to the device behind its last flush too, and what is not flushed is not in the kernel's log.
            guest.run(f"sync && dd if=/dev/null of=/dev/mapper/log conv=notrunc,fsync && dmsetup message log 0 mark {name}")
            hrl("point", agent.state, "--label", name)

        guest.run("mkfs.ext4 -q -E nodiscard /dev/mapper/log && mkdir /mnt/log && mount /dev/mapper/log /mnt/log")
        mark("made")
        guest.run("cp -r /etc /mnt/log/first")
        mark("one")
        guest.run("cp /bin/bash /mnt/log/first/ && rm -r /mnt/log/first && seq 20000 > /mnt/log/second")
        mark("two")
        guest.run("dd if=/bin/bash of=/mnt/log/second bs=4096 seek=3 conv=notrunc,fsync && umount /mnt/log")
        mark("three")
        guest.run("DM_DISABLE_UDEV=1 dmsetup remove log")
        guest.shut_down()
    agent.stop()
    kernel = dict(marked(log))
    assert list(kernel) == [*MARKS, "dm-log-writes-end"]
    assert len(set(kernel.values())) == len(MARKS), "each mark has changes of its own"
    with package.Vault(str(agent.vault)) as vault, vault.replica("disk.img") as replica:
        for name in MARKS:
            with replica.view(name) as view:
                assert view.read(0, DISK_BYTES) == kernel[name], f"the disk at {name}"
    # The kernel's log becomes ours, and ours one of the kernel's.
    hrl("convert", log, tmp_path / "imported.hrl", "--to", "native")
    assert dict(replayed(tmp_path / "imported.hrl")) == {name: kernel[name] for name in MARKS}
    segments = Path(agent.vault) / "volumes/disk.img/segments"
    told = hrl("convert", segments, tmp_path / "exported.log", "--to", "log-writes")
    assert "marks kept their labels" in told
    assert dict(marked(tmp_path / "exported.log")) == {name: kernel[name] for name in kernel}
    (tmp_path / "three.img").write_bytes(kernel["three"])
    run("e2fsck", "-f", "-n", tmp_path / "three.img")
