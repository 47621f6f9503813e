"""A recovery point that checks may use as a disk: over NBD, as a block device, with its file systems mounted.

What reads the content of the disk runs in a box, apart from the kernel, which mounts it. The replica never changes: what
a check writes goes to a scratch file that is dropped. Mounts, loop devices, nbdfuse, the NBD server and the scratch file
are taken down in reverse order, even if a check fails or a signal arrives. nbdfuse and a loop device make a block device
of the export, which needs root and /dev/fuse, but no NBD driver of the kernel. Only SIGKILL leaves something behind
(`umount`, `losetup -d`, `fusermount3 -u`).
"""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hrl import NbdServer, RecoveryPoint, Replica
from hrl.cli.box import FIRST_USER, Bind, Box, is_real_root, made_no_box
from hrl.cli.box import SOCKET as SOCKET_IN_BOX
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import note
from hrl.cli.programs import Ended, HeldSignals, environment, kill_session, need, run
from hrl.cli.sockets import SOCKET, socket_in

NBDFUSE_SECONDS_MAX = 30.0
TEARDOWN_SECONDS_MAX = 10.0
TOOLS = ("nbdfuse", "fusermount3", "losetup", "blkid", "partx", "mount", "umount")


@dataclass(frozen=True)
class Served:
    """A point over NBD, and a directory for what its checks need."""

    volume: str
    point: RecoveryPoint
    server: NbdServer
    socket: Path
    directory: Path
    signals: HeldSignals
    box: Box | None

    @property
    def uri(self) -> str:
        """Returns the address at which checks reach the point."""
        return self.server.uri if self.box is None else f"{self.server.uri.split('?')[0]}?socket={SOCKET_IN_BOX}"

    @property
    def variables(self) -> dict[str, str]:
        """Returns the environment of the user's command."""
        return {"HRL_VOLUME": self.volume, "HRL_POINT": self.point.id, "HRL_NBD_URI": self.uri}

    def server_socket(self) -> Bind:
        """Returns the socket of the server for a box, whose users may then connect to it."""
        own(self.socket)
        return Bind(self.socket.resolve(), SOCKET_IN_BOX, "--bind")

    def boxed(self, command: list[str], *binds: Bind, variables: dict[str, str] | None = None) -> list[str]:
        """Returns the command that runs a command in a box, if there are boxes."""
        return command if self.box is None else self.box.command(command, binds, variables)

    def run(
        self,
        command: list[str],
        *binds: Bind,
        limit: float | None = None,
        variables: dict[str, str] | None = None,
        errors_apart: bool = False,
    ) -> Ended:
        """Runs a program in a box, to its end or until the limit in seconds. Refuses if no box could be made."""
        boxed = self.boxed(command, *binds, variables=variables)
        ended = run(boxed, self.signals, limit=limit, env=variables, errors_apart=errors_apart)
        if self.box is not None and ended.code == 1 and made_no_box(ended.output + ended.errors):
            said = (ended.output + ended.errors).strip().splitlines()[-1]
            raise Refused(f"cannot make a box for {command[0]}: {said}", Exit.UNSUPPORTED)
        return ended

    def read(self, command: list[str], device: str) -> str:
        """Returns what a program prints about a device."""
        boxed = self.boxed([*command, device], node(device))
        done = subprocess.run(
            boxed, capture_output=True, text=True, errors="replace", env=environment(), start_new_session=True
        )
        if self.box is not None and made_no_box(done.stderr):
            raise Refused(f"cannot make a box for {command[0]}: {done.stderr.strip()}", Exit.UNSUPPORTED)
        return done.stdout

    def failed_requests(self) -> int:
        """Returns the number of requests that the point could not answer."""
        return self.server.stats().errors


def node(device: str) -> Bind:
    """Returns a device for a box."""
    return Bind(Path(device), Path(device), "--dev-bind")


def own(path: Path) -> None:
    """Gives a file of this process to the users of boxes. Without root they are this user."""
    if is_real_root():
        os.chown(path, FIRST_USER, FIRST_USER, follow_symlinks=True)


@contextlib.contextmanager
def served(replica: Replica, point: RecoveryPoint, box: Box | None) -> Iterator[Served]:
    """Serves a point while the block runs. Without a box its checks run with all rights of this process."""
    with HeldSignals() as signals, tempfile.TemporaryDirectory(prefix="hrl-verify-") as home:
        directory = Path(home)
        socket = socket_in(directory, SOCKET)
        scratch = directory / "scratch"
        with NbdServer.replica(f"unix:{socket}", replica, f"point:{point.id}", scratch=scratch) as server:
            yield Served(replica.info["name"], point, server, socket, directory, signals, box)


class Disk:
    """A served point as a file. `block_device` takes down the loop devices that are made of it."""

    def __init__(self, file: Path, stack: contextlib.ExitStack) -> None:
        self._file = file
        self._stack = stack

    def loop(self, offset_bytes: int = 0, *, length_bytes: int | None = None) -> str:
        """Makes a block device of the disk, or of a range of it."""
        command = ["losetup", "-f", "--show", "--direct-io=on", "-o", str(offset_bytes)]
        command += ["--sizelimit", str(length_bytes)] if length_bytes is not None else []
        made = subprocess.run(
            [*command, str(self._file)],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(),
            start_new_session=True,
        )
        if made.returncode:
            raise Refused(f"cannot make a loop device: {made.stderr.strip()}", Exit.UNSUPPORTED)
        device = made.stdout.strip()
        self._stack.callback(take_down, ["losetup", "-d", device])
        return device

    @contextlib.contextmanager
    def mounted(self, device: str, where: Path, kind: str, options: str) -> Iterator[str | None]:
        """Mounts a file system while the block runs. Yields what mount said if it failed.

        The kind is given and no helper is called, so that no program with the rights of this one reads the file system.
        """
        where.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-i", "-t", kind, "-o", options, device, str(where)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment(), start_new_session=True
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            yield "mount: " + said[0].removeprefix(f"mount: {where}: ")
            return
        try:
            yield None
        finally:
            take_down(["umount", str(where)], ["umount", "-l", str(where)])


@contextlib.contextmanager
def block_device(point: Served) -> Iterator[Disk]:
    """Makes a file of the export, from which loop devices can be made."""
    if os.geteuid() != 0:
        raise Refused("cannot mount a point: only root may; --command needs no root", Exit.UNSUPPORTED)
    need("mounting a point", *TOOLS)
    if not Path("/dev/fuse").exists():
        raise Refused("cannot mount a point: /dev/fuse is missing (modprobe fuse)", Exit.UNSUPPORTED)
    fuse = point.directory / "fuse"
    fuse.mkdir()
    with contextlib.ExitStack() as stack:
        command = ["nbdfuse", str(fuse), point.server.uri]
        bridge = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env=environment(),
        )
        stack.callback(end_bridge, bridge, fuse)
        wait_for_bridge(bridge, fuse / "nbd")
        yield Disk(fuse / "nbd", stack)


def wait_for_bridge(bridge: subprocess.Popen[str], file: Path) -> None:
    """Waits until nbdfuse shows its file."""
    end = time.monotonic() + NBDFUSE_SECONDS_MAX
    while not file.exists():
        if bridge.poll() is not None:
            said = bridge.stderr.read().strip() if bridge.stderr else ""
            raise Refused(f"cannot mount a point: nbdfuse ended: {said}", Exit.UNSUPPORTED)
        if time.monotonic() > end:
            raise Refused(f"nbdfuse did not come within {NBDFUSE_SECONDS_MAX:.0f} s", Exit.TIMED_OUT)
        time.sleep(0.02)


def end_bridge(bridge: subprocess.Popen[str], fuse: Path) -> None:
    """Takes nbdfuse down."""
    if bridge.poll() is None:
        take_down(["fusermount3", "-u", str(fuse)], ["fusermount3", "-uz", str(fuse)])
        with contextlib.suppress(subprocess.TimeoutExpired):
            bridge.wait(TEARDOWN_SECONDS_MAX)
    kill_session(bridge)
    if bridge.stderr:
        bridge.stderr.close()


def take_down(command: list[str], last_resort: list[str] | None = None) -> None:
    """Runs a command until it succeeds, because what a killed program had open closes a moment later."""
    end = time.monotonic() + TEARDOWN_SECONDS_MAX
    while True:
        late = time.monotonic() > end
        now = last_resort if late and last_resort else command
        done = subprocess.run(
            now, capture_output=True, text=True, errors="replace", env=environment(), start_new_session=True
        )
        if done.returncode == 0:
            return
        if late:
            note(f"warning: {' '.join(now)} failed: {done.stderr.strip()}")
            return
        time.sleep(0.1)
