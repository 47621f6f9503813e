"""A virtual machine: the small Debian of `make guest` in QEMU, with the real guest agent, always emulated.

It boots by itself from whatever disk it is given, a file or an NBD export. What it is told to do goes through its guest
agent; each call has a connection of its own, because a serial line has one user at a time, and an agent of ours that
quiesces is another one. Its console is kept in a file and is part of every failure.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import need

IMAGE = Path(os.environ.get("HRL_GUEST", Path.home() / ".cache/hrl-guest")) / "disk.img"
# Where the only partition, an ext4, begins.
PARTITION_BYTES = 1 << 20
# Emulated, and beside other tests: ten times what it needs on an idle machine.
BOOT_SECONDS_MAX = 120.0
CALL_SECONDS_MAX = 60.0
ANSWER_BYTES_MAX = 16 << 20


def new_disk(path: Path) -> Path:
    """A disk of a machine that was never started; skips where none could be built."""
    need("qemu-system-x86_64")
    if not IMAGE.exists():
        pytest.skip(f"{IMAGE} is not built (make guest, as root)")
    subprocess.run(["cp", "--sparse=always", IMAGE, path], check=True)
    return path


class GuestFailed(AssertionError):
    """What the guest did not do, and the end of its console."""


class Guest:
    """A running machine; killed at the end of a `with` block if it still runs."""

    def __init__(
        self, directory: Path, disk: str | Path, *more: str | Path, name: str = "guest", vhost_user: Path | None = None
    ) -> None:
        self.agent = directory / f"{name}.agent"
        self.console = directory / f"{name}.console"
        self.began = time.monotonic()
        self._said = directory / f"{name}.qemu"
        program = shutil.which("qemu-system-x86_64")
        assert program, "qemu-system-x86_64 is not installed"
        # Flushes are passed on, and nothing is cached that a kill would lose.
        drives = [f"file={each},format=raw,if=virtio,cache=none,discard=unmap" for each in (disk, *more)]
        command = [
            *(program, "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-nic", "none", "-no-reboot"),
            *("-accel", "tcg", "-cpu", "max", "-m", "256"),
            *("-serial", f"file:{self.console}", "-device", "virtio-serial"),
            *(word for drive in drives for word in ("-drive", drive)),
            *("-chardev", f"socket,path={self.agent},server=on,wait=off,id=agent"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        ]
        if vhost_user:
            # Its memory is shared with whoever serves at the socket, now or later. It boots from the first slot.
            command += [
                "-object",
                "memory-backend-memfd,id=memory,size=256M,share=on",
                "-machine",
                "pc,memory-backend=memory",
            ]
            command += ["-chardev", f"socket,id=served,path={vhost_user},reconnect=1"]
            command += ["-device", "vhost-user-blk-pci,chardev=served,num-queues=2,addr=0x1e"]
        with open(self._said, "wb") as said:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_up(self) -> "Guest":
        """Waits until the guest agent answers."""
        while True:
            try:
                self._call("guest-ping", limit=1.0)
                return self
            except OSError:
                if self._process.poll() is not None:
                    raise self._failed("the machine ended while it booted") from None
                if time.monotonic() - self.began > BOOT_SECONDS_MAX:
                    raise self._failed("the guest agent does not answer") from None
                time.sleep(0.1)

    def run(self, command: str) -> str:
        """What a shell command in the guest prints; it has to succeed."""
        pid = self._call(
            "guest-exec", {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}, limit=CALL_SECONDS_MAX
        )["pid"]
        end = time.monotonic() + CALL_SECONDS_MAX
        while time.monotonic() < end:
            state = self._call("guest-exec-status", {"pid": pid})
            if state["exited"]:
                printed = base64.b64decode(state.get("out-data", "")).decode()
                if state.get("exitcode") == 0:
                    return printed
                said = base64.b64decode(state.get("err-data", "")).decode()
                raise self._failed(f"{command!r} ended with {state.get('exitcode')}: {printed}{said}")
            time.sleep(0.05)
        raise self._failed(f"{command!r} does not end")

    def write(self, path: str, data: bytes) -> None:
        """Writes a file in the guest, without syncing it."""
        handle = self._call("guest-file-open", {"path": path, "mode": "w"})
        for at in range(0, len(data), 1 << 20):
            chunk = base64.b64encode(data[at : at + (1 << 20)]).decode()
            self._call("guest-file-write", {"handle": handle, "buf-b64": chunk})
        self._call("guest-file-close", {"handle": handle})

    def read(self, path: str) -> bytes:
        """The content of a file in the guest."""
        handle = self._call("guest-file-open", {"path": path, "mode": "r"})
        content = b""
        while chunk := base64.b64decode(self._call("guest-file-read", {"handle": handle, "count": 1 << 20})["buf-b64"]):
            content += chunk
        self._call("guest-file-close", {"handle": handle})
        return content

    def exists(self, path: str) -> bool:
        """Whether the guest has this file."""
        return self.run(f"test -e '{path}' && echo yes || echo no").strip() == "yes"

    def frozen(self) -> bool:
        """Whether its file systems are frozen."""
        return bool(self._call("guest-fsfreeze-status") == "frozen")

    def shut_down(self) -> None:
        """Switches it off as its user would, and waits until it is."""
        self._tell("guest-shutdown")
        try:
            self._process.wait(CALL_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise self._failed("the guest does not switch off") from None
        if self._process.returncode:
            raise self._failed(f"the machine ended with {self._process.returncode}")

    def kill(self) -> None:
        """The host dies: nothing is flushed, nothing is said."""
        self._process.kill()
        self._process.wait()

    def _failed(self, what: str) -> GuestFailed:
        told = [file.read_text(errors="replace")[-4000:] for file in (self._said, self.console) if file.exists()]
        return GuestFailed("\n".join([what, *told]))

    def _call(self, command: str, arguments: dict[str, Any] | None = None, *, limit: float = CALL_SECONDS_MAX) -> Any:
        """What a command of the agent's returns; an `OSError` where it does not answer in time."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(limit)
            line.connect(str(self.agent))
            number = time.monotonic_ns() & 0x7FFFFFFF
            # The byte makes the agent forget half a command, and it comes back before the answer.
            line.sendall(b"\xff" + request("guest-sync-delimited", {"id": number}))
            answers = Answers(line)
            while answers.delimited().get("return") != number:
                pass
            line.sendall(request(command, arguments))
            answer = answers.line()
        if "error" in answer:
            raise self._failed(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def _tell(self, command: str) -> None:
        """A command that has no answer."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.agent))
            line.sendall(b"\xff" + request(command, None))
            time.sleep(0.5)  # A line that is closed at once loses what is on its way.


def request(command: str, arguments: dict[str, Any] | None) -> bytes:
    """A line of the agent's protocol."""
    return json.dumps({"execute": command} | ({"arguments": arguments} if arguments else {})).encode() + b"\n"


class Answers:
    """Lines that come from the guest agent."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._received = b""

    def line(self) -> dict[str, Any]:
        """The next answer."""
        return dict(json.loads(self._until(b"\n")))

    def delimited(self) -> dict[str, Any]:
        """The next answer that has the delimiter before it."""
        self._until(b"\xff")
        return self.line()

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            if len(self._received) > ANSWER_BYTES_MAX:
                raise OSError("the guest agent answers without end")
            chunk = self._line.recv(65536)
            if not chunk:
                raise OSError("the machine closed the line")
            self._received += chunk
        found, _, self._received = self._received.partition(end)
        return found
