"""Systems that deny io_uring, as the default profiles of Docker and containerd do."""

import sys
from collections.abc import Callable
from pathlib import Path

from conftest import Agent

import hrl as package

BLOCK = 4096
# Runs its arguments where io_uring_setup (425 on every machine) fails with EPERM.
DENIED = """
import ctypes, os, struct, sys

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
program = Program(len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program)) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_an_agent_without_io_uring_serves_protects_and_says_so(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start(within=[sys.executable, "-c", DENIED])
    written = bytes(range(256)) * 16 * 300
    agent.write(BLOCK, written)
    assert "NBD runs on threads" in agent.stop()
    disk = agent.disk.read_bytes()
    assert disk[BLOCK : BLOCK + len(written)] == written
    package.Vault(agent.vault).replica("disk.img").restore("newest", tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == disk


def test_an_agent_with_io_uring_says_nothing_of_it(start: Callable[..., Agent], tmp_path: Path) -> None:
    with package.NbdServer.device(f"unix:{tmp_path}/socket", package.MemoryDevice(BLOCK), "disk") as server:
        engine = server.engine
    agent = start()
    assert ("NBD runs on threads" in agent.stop()) == (engine == "threads")
