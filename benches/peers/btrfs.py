"""A btrfs in a file: snapshots of a subvolume with a disk in it, sent and received."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.machine import clear, run


def make(image: Path, size: int) -> None:
    """An empty file system in a sparse file."""
    clear(image)
    image.touch()
    os.truncate(image, size)
    run("mkfs.btrfs", "-q", "-f", image)


@contextmanager
def mounted(image: Path, home: Path, *options: str) -> Iterator[Path]:
    """The file system mounted through a loop device with direct I/O, its caches empty."""
    place = home / f"{image.name}.mount"
    place.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
    try:
        run("mount", *(["-o", ",".join(options)] if options else []), device, place)
        try:
            yield place
        finally:
            run("umount", place)
    finally:
        run("losetup", "--detach", device)


def snapshot(place: Path, name: str) -> None:
    """A read-only snapshot of the subvolume `live`, durable."""
    run("btrfs", "subvolume", "snapshot", "-r", place / "live", place / name)
    run("sync", "-f", place)
