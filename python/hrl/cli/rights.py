"""Directories and files that commands make for themselves: their owner's alone, as the library's are.

In a directory with the setgid bit, which is shared with its group on purpose, the group has the rights of that directory.
"""

import os
import stat
from pathlib import Path
from typing import IO

OTHERS = 0o077


def private_directory(path: Path) -> None:
    """Makes a directory and those above it. What is there stays as it is."""
    if path.is_dir():
        return
    private_directory(path.parent)
    try:
        path.mkdir(mode=0o700 | shared(path.parent))
    except FileExistsError:
        if not path.is_dir():
            raise


def private_file(path: Path, mode: str) -> IO[bytes]:
    """Opens a file to write, `wb` or `ab`. One that is there keeps its rights."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600 | shared(path.parent) & 0o060)

    return open(path, mode, opener=opener)


def shared(directory: Path) -> int:
    """Returns the rights of the group in a directory, if that is shared with it."""
    try:
        mode = directory.stat().st_mode
    except OSError:
        return 0
    return mode & 0o070 if mode & stat.S_ISGID else 0


def open_to_others(path: Path) -> str:
    """Returns the rights that others than the owner have to a directory, as digits; empty if none have any."""
    try:
        found = path.stat()
    except OSError:
        return ""
    if found.st_mode & stat.S_ISGID:
        return f"{found.st_mode & 0o7777:o}" if found.st_mode & 0o007 else ""
    return f"{found.st_mode & 0o777:o}" if found.st_mode & OTHERS else ""
