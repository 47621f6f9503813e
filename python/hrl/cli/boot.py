"""The boot check: QEMU boots a recovery point, and its serial console or the guest agent shows that it is up.

QEMU runs in a box, with its own filter of system calls, too: a guest that breaks out of it has nothing. The guest writes to
the point's scratch file and has no network. The point is good if the pattern appears on the console or
the guest agent answers within the limit. It is bad if the limit is over, the kernel panics, or the guest switches off or
prints without end. A QEMU that ends with an error could boot nothing: that is `Refused`, and no verdict on the point.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from hrl.cli.box import WORK, Bind, made_no_box
from hrl.cli.checks import Outcome
from hrl.cli.exits import Exit, Refused
from hrl.cli.programs import environment, kill_session, need
from hrl.cli.served_point import Served, node, own
from hrl.cli.sockets import socket_in

QEMU = "qemu-system-x86_64"
PATTERN = r"login: *$"
PANIC = re.compile("Kernel panic - not syncing|You are in emergency mode|No bootable device")
MEMORY_MIB = 1024
CONSOLE_BYTES_MAX = 64 << 20
# As much of the console is searched for the pattern, and the end of it becomes a part of the verdict's text.
WINDOW_BYTES = 64 << 10
POLL_SECONDS = 0.2
AGENT_SECONDS_MAX = 1.0
KVM = Path("/dev/kvm")
SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


@dataclass(frozen=True)
class Machine:
    """How the guest runs: the program, more arguments, the pattern that shows it is up, the limit in seconds."""

    program: str
    arguments: str
    pattern: re.Pattern[str]
    limit: float


def pattern_of(text: str) -> re.Pattern[str]:
    """Returns the pattern of a command line."""
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise Refused(f"cannot search the console for {text}: {error}", Exit.INVALID_INPUT) from None


def check_boot(point: Served, machine: Machine) -> Outcome:
    """Boots the point, and waits until it is up or is known not to come up."""
    program = shlex.split(machine.program)
    need("booting a point", program[0])
    extra = shlex.split(machine.arguments)
    # QEMU takes the first accelerator that is named, so the user's replaces ours.
    accelerators = [] if "-accel" in extra else ["-accel", "kvm", "-accel", "tcg"]
    if point.box is None:
        console, agent = point.directory / "console", socket_in(point.directory, "agent")
        command = [*program, *arguments(point, console, agent), *accelerators, *extra]
    else:
        work = point.directory / "work"
        work.mkdir()
        own(work)
        console, agent = work / "console", work / "agent"
        inside = arguments(point, WORK / "console", WORK / "agent")
        sandbox = () if "-sandbox" in extra else SANDBOX
        program[0] = shutil.which(program[0], path=environment()["PATH"]) or program[0]
        binds = [Bind(work, WORK, "--bind"), point.server_socket()]
        binds += [node(str(KVM))] if os.access(KVM, os.R_OK | os.W_OK) else []
        command = point.boxed([*program, *inside, *sandbox, *accelerators, *extra], *binds)
    said = point.directory / "qemu"
    with open(said, "wb") as output:
        guest = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment()
        )
    try:
        with point.signals.interruptible():
            ok, text = wait_up(guest, machine, console, agent, said)
    finally:
        kill_session(guest)
    if not ok:
        last = [line.strip() for line in window(console).splitlines() if line.strip()][-1:]
        text = f"{text}; the console ends with: {last[0]}" if last else f"{text}; the console is empty"
    return Outcome("application", ok, text).with_reads_of(point)


def arguments(point: Served, console: Path, agent: Path) -> list[str]:
    """Returns a machine with one disk, a serial console, the port of the guest agent, and no network."""
    disk = f"file={point.uri},format=raw,if=virtio,cache=unsafe"
    return [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "std", "-nic", "none"),
        *("-cpu", "max", "-m", str(MEMORY_MIB)),
        *("-serial", f"file:{console}", "-drive", disk, "-device", "virtio-serial"),
        *("-chardev", f"socket,path={agent},server=on,wait=off,id=agent"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
    ]


def wait_up(guest: subprocess.Popen[bytes], machine: Machine, console: Path, agent: Path, said: Path) -> tuple[bool, str]:
    """Returns whether the guest came up, and how that is known."""
    began = time.monotonic()
    while True:
        # Asked before the console is read, so that the last lines of a guest that ended are read too.
        ended = guest.poll()
        text = window(console)
        passed = time.monotonic() - began
        if machine.pattern.search(text):
            return True, f"up after {passed:.0f} s: the console shows {machine.pattern.pattern}"
        if found := PANIC.search(text):
            return False, f"after {passed:.0f} s the console shows: {found.group()}"
        if ended:
            output = said.read_text(errors="replace").strip()
            if made_no_box(output):
                raise Refused(f"cannot make a box for QEMU: {output}", Exit.UNSUPPORTED)
            problem = output.splitlines()[-1:]
            raise Refused(f"the guest could not be run: {' '.join(problem) or f'exit status {ended}'}", Exit.UNSUPPORTED)
        if ended is not None:
            return False, f"the guest switched off after {passed:.0f} s"
        if agent_answers(agent):
            return True, f"up after {passed:.0f} s: the guest agent answers"
        if passed > machine.limit:
            return False, f"not up within {machine.limit:g} s"
        if length_of(console) > CONSOLE_BYTES_MAX:
            return False, f"the console is longer than {CONSOLE_BYTES_MAX >> 20} MiB"
        time.sleep(POLL_SECONDS)


def length_of(console: Path) -> int:
    """Returns the length of the console in bytes."""
    with contextlib.suppress(FileNotFoundError):
        return console.lstat().st_size
    return 0


def window(console: Path) -> str:
    """Returns the end of the console. Follows no link: a guest that took QEMU over may have put one there."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError), open(os.open(console, flags), "rb") as file:
        known = os.fstat(file.fileno())
        if stat.S_ISREG(known.st_mode):
            file.seek(max(0, known.st_size - WINDOW_BYTES))
            return file.read(WINDOW_BYTES).decode(errors="replace").replace("\r", "")
    return ""


def agent_answers(path: Path) -> bool:
    """Reports whether a guest agent answers with the number that it was sent."""
    number = os.getpid()
    request = json.dumps({"execute": "guest-sync", "arguments": {"id": number}}).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(AGENT_SECONDS_MAX)
        connect(agent, path)
        agent.sendall(request + b"\n")
        answer = b""
        while b"\n" not in answer and len(answer) < WINDOW_BYTES:
            chunk = agent.recv(4096)
            if not chunk:
                return False
            answer += chunk
        return f'"return": {number}'.encode() in answer
    return False


def connect(agent: socket.socket, path: Path) -> None:
    """Connects to the socket at a path, and to nothing that a link there leads to."""
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise OSError(f"{path} is no socket")
        agent.connect(f"/proc/self/fd/{found}")
    finally:
        os.close(found)
