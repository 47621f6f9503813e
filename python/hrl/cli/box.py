"""The box in which programs run that read the content of a guest's disk: without network, and with users and files of its
own.

A guest may be hostile. Its file systems have links out of the mount, its partition table and superblocks aim at a fault
in the program that reads them, and its operating system attacks QEMU. A box holds the programs of this machine (`/usr`),
the disk of the point, and the files that the operator shows to it. Its users have no rights here, and a filter denies the
system calls that no check needs.

bubblewrap makes the box, as it does for Flatpak: it is small, well kept, and needs no service. `box_entry` does before
what bubblewrap cannot do for root: users that are nobody here, to whom the files of a point belong as they do in the
guest.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hrl.cli.exits import Exit, Refused

ENTRY = Path(__file__).with_name("box_entry.py")
PROGRAM = "bwrap"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROBE_SECONDS_MAX = 20
# Users of a box are these on the machine: nobody has such a number. They are enough for the containers of a guest.
FIRST_USER, USERS = 2_000_000_000, 1 << 20
SCRATCH_BYTES = 256 << 20
# Mount point, socket and scratch directory inside a box.
MOUNT = Path("/mnt")
SOCKET = Path("/run/hrl/nbd.sock")
WORK = Path("/run/hrl/work")
FILES = {
    "/etc/passwd": "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
# Of /etc, programs need these to start.
SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives")
# Rights over the files of the point, as a root of the guest would have; a box's own user has them over nothing else.
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
UNSANDBOXED = "--unsandboxed runs checks without a box, with all rights of this process"
FAILURES = ("hrl box: ", "bwrap: ")


@dataclass(frozen=True)
class Bind:
    """A file or directory of this machine in a box. `owners`: the owners of its files are users of the box."""

    source: Path
    target: Path
    option: str = "--ro-bind"
    owners: bool = False


@dataclass(frozen=True)
class Box:
    """Makes boxes, in which the operator's files `show` can be read."""

    show: tuple[Path, ...] = ()
    _program: str = field(default_factory=lambda: bubblewrap())

    def command(self, command: list[str], binds: Iterable[Bind] = (), variables: dict[str, str] | None = None) -> list[str]:
        """Returns the command that runs a command in a box of its own."""
        environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/tmp"} | (variables or {})
        arguments = [
            *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
            *("--hostname", "box", "--die-with-parent", "--clearenv", "--cap-drop", "ALL"),
            *system(),
            *("--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp", "--chdir", "/"),
        ]
        users = FIRST_USER if is_real_root() else None
        if users is not None:
            for name in CAPABILITIES:
                arguments += ["--cap-add", f"CAP_{name}"]
        for name, value in environment.items():
            arguments += ["--setenv", name, value]
        shown = [Bind(path, path) for path in dict.fromkeys(map(absolute, self.show + program_of(command)))]
        box = {
            "bwrap": self._program,
            "arguments": arguments,
            "files": FILES,
            "users": None if users is None else (users, USERS),
            "binds": [
                {"option": bind.option, "source": str(bind.source), "target": str(bind.target), "owners": bind.owners}
                for bind in (*shown, *binds)
            ],
            "command": command,
        }
        return [sys.executable, "-I", "-S", str(ENTRY), json.dumps(box)]


def is_real_root() -> bool:
    """Reports whether this is root of the machine, with all user ids. The root of a container may have only some."""
    if os.geteuid() != 0:
        return False
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(first) == 0 and int(count) >= FIRST_USER + USERS for first, _, count in ranges)


def bubblewrap() -> str:
    """Returns the path of bubblewrap. Refuses if there is none, or if it can make no box here."""
    found = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:{PATH}")
    if found is None:
        problem = f"{PROGRAM} is not installed (package bubblewrap)"
        raise Refused(f"cannot make a box for checks: {problem}; {UNSANDBOXED}", Exit.UNSUPPORTED)
    if problem := problem_with(found):
        raise Refused(f"cannot make a box for checks: {problem}; {UNSANDBOXED}", Exit.UNSUPPORTED)
    return found


@functools.cache
def problem_with(program: str) -> str:
    """Returns why no box can be made here; empty if one can."""
    command = Box(_program=program).command(["true"])
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return f"{program} did not end within {PROBE_SECONDS_MAX} s"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    for failure in FAILURES:
        said = said.removeprefix(failure)
    return (
        f"{said}; the system has to permit user namespaces (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; in a container, its profile)"
    )


def system() -> list[str]:
    """Returns the arguments that show the programs of this machine."""
    arguments = ["--ro-bind", "/usr", "/usr", "--dir", "/etc", "--dir", "/run/hrl"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(name):
            arguments += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            arguments += ["--ro-bind", name, name]
    for name in SETTINGS:
        arguments += ["--ro-bind-try", name, name]
    return arguments


def program_of(command: list[str]) -> tuple[Path, ...]:
    """Returns the program of a command, if it has a path outside of those of the system."""
    path = Path(command[0])
    ours = ("/usr/", "/bin/", "/sbin/", "/lib")
    return (path,) if path.is_absolute() and path.is_file() and not str(path).startswith(ours) else ()


def absolute(path: Path) -> Path:
    """Returns the path of something that a box shows. Refuses what is not there."""
    found = path.absolute()
    if not found.exists():
        raise Refused(f"cannot show {path} to a check: it is not there", Exit.NOT_FOUND)
    return found


def made_no_box(output: str) -> bool:
    """Reports whether the output of a command says that there was no box to run it in."""
    return output.lstrip().startswith(FAILURES)
