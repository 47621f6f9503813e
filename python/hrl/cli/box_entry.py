"""Enters a box: the program that `box` starts with the description of a box, and that becomes bubblewrap.

It is run by its path, without the package, so that it starts fast and imports little. For root it makes a user namespace
whose users are nobody on this machine. It shows that namespace the file systems of a point, whose files belong to the
same users as in the guest. All of it happens in a mount namespace of its own, so nothing is left behind.

A failure is one line on standard error that begins with `hrl box: `, and exit status 1.
"""

import contextlib
import ctypes
import json
import os
import platform
import stat
import struct
import sys
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
NAMESPACES = 0x7E020000
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NOEXEC = 0x4000, 0x40000, 2, 8
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x100000
# These have one number on all machines.
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
STAGE = "/tmp"

# System calls that no check needs, and that an attacker would: mounts and namespaces, tracing of others, keys, modules,
# handles that open files of other directories, clocks, and io_uring, which no filter sees through.
DENIED = {
    "x86_64": [
        *(165, 166, 155, 272, 308, 101, 310, 311, 312, 321, 298, 323, 250, 248, 249, 246, 320, 175, 313, 176, 304, 303),
        *(103, 163, 179, 167, 168, 169, 164, 227, 305, 159, 134, 154, 172, 173, 212, 237, 279, 256, 238, 180, 153, 300),
    ],
    "aarch64": [
        *(40, 39, 41, 97, 268, 117, 270, 271, 272, 280, 241, 282, 219, 217, 218, 104, 294, 105, 273, 106, 265, 264, 116),
        *(89, 60, 224, 225, 142, 170, 112, 266, 171, 18, 235, 239, 238, 237, 42, 58, 262),
    ],
}
DENIED_EVERYWHERE = [428, 429, 430, 431, 432, 433, 442, 443, 438, 425, 426, 427]
CLONE3 = 435
# The number of the machine in a filter, and of clone, socket and ioctl.
MACHINES = {"x86_64": (0xC000003E, 56, 41, 16), "aarch64": (0xC00000B7, 220, 198, 29)}
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
# UNIX, IPv4, IPv6, netlink.
FAMILIES = (1, 2, 10, 16)
TERMINAL_INPUT = (0x5412, 0x541C)
LOOP_IOCTLS = (0x4C00, 0x4C90)


class BoxError(Exception):
    """Why there is no box."""


def main() -> NoReturn:
    """Becomes bubblewrap as the first argument describes it."""
    try:
        enter(json.loads(sys.argv[1]))
    except (BoxError, OSError) as error:
        fail(str(error))


def fail(problem: str) -> NoReturn:
    """Ends with a line that the parent understands."""
    print(f"hrl box: {problem}", file=sys.stderr, flush=True)
    os._exit(1)


def enter(box: dict[str, Any]) -> NoReturn:
    """Makes the namespaces that bubblewrap cannot make, and becomes bubblewrap."""
    arguments = [box["bwrap"], *box["arguments"], "--seccomp", str(memory_file(seccomp_filter(platform.machine())))]
    for path, text in box["files"].items():
        arguments += ["--ro-bind-data", str(memory_file(text.encode())), path]
    if box["users"] is None:
        arguments += ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
        binds = [(bind["option"], bind["source"], bind["target"]) for bind in box["binds"]]
    else:
        binds = enter_as_root(box["binds"], *box["users"])
    for option, source, target in binds:
        arguments += [option, source, target]
    # Processes of the box see the environment of its first one.
    os.execve(arguments[0], [*arguments, "--", *box["command"]], {})


def enter_as_root(binds: list[dict[str, str]], first: int, count: int) -> list[tuple[str, str, str]]:
    """Enters a user namespace of nobody's. Returns what bubblewrap binds: copies at a place that it can reach."""
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.unshare(CLONE_NEWNS), "make a mount namespace")
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "keep mounts private")
    users = user_namespace(libc, first, count)
    trees = [None if bind["option"] == "--dev-bind" else copied(libc, bind, users) for bind in binds]
    devices = [os.stat(bind["source"]) for bind in binds if bind["option"] == "--dev-bind"]
    check(libc.mount(b"none", STAGE.encode(), b"tmpfs", MS_NOSUID | MS_NOEXEC, b"mode=755,size=1m"), "make a stage")
    staged = []
    for number, (bind, tree) in enumerate(zip(binds, trees, strict=True)):
        place = f"{STAGE}/{number}"
        if tree is None:
            known = devices.pop(0)
            os.mknod(place, stat.S_IFMT(known.st_mode) | 0o600, known.st_rdev)
            os.chown(place, first, first)
        else:
            if stat.S_ISDIR(os.fstat(tree).st_mode):
                os.mkdir(place)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            moved = libc.syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, place.encode(), MOVE_MOUNT_F_EMPTY_PATH)
            check(moved, f"show {bind['source']}")
        staged.append((bind["option"], place, bind["target"]))
    check(libc.setns(users, CLONE_NEWUSER), "enter the user namespace")
    os.close(users)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.chdir("/")
    return staged


def user_namespace(libc: ctypes.CDLL, first: int, count: int) -> int:
    """Makes a user namespace whose users are those from `first` on here. Returns a descriptor of it."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready[0])
        os.close(done[1])
        made = libc.unshare(CLONE_NEWUSER)
        os.write(ready[1], bytes([ctypes.get_errno() if made else 0]))
        os.read(done[0], 1)
        os._exit(0)
    os.close(ready[1])
    os.close(done[0])
    try:
        error = os.read(ready[0], 1)
        if error != b"\0":
            problem = os.strerror(error[0]) if error else "the process ended"
            raise BoxError(f"cannot make a user namespace: {problem}")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{kind}", "w") as file:
                file.write(f"0 {first} {count}\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready[0])
        os.close(done[1])
        os.waitpid(child, 0)


def copied(libc: ctypes.CDLL, bind: dict[str, str], users: int) -> int:
    """Returns a copy of what is mounted at a path. That of a point shows its files' owners as users of the box."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (0 if bind["owners"] else AT_RECURSIVE)
    tree = libc.syscall(SYS_OPEN_TREE, AT_FDCWD, bind["source"].encode(), flags)
    check(tree, f"show {bind['source']}")
    if bind["owners"]:
        attributes = struct.pack("<QQQQ", MOUNT_ATTR_IDMAP, 0, 0, users)
        # A file system without this shows what everybody may read.
        with contextlib.suppress(OSError):
            changed = libc.syscall(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, len(attributes))
            check(changed, "map owners")
    return int(tree)


def check(result: int, what: str) -> None:
    """Raises the system's error of a failed call."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot {what}: {os.strerror(error)}")


def memory_file(content: bytes) -> int:
    """Returns a descriptor that bubblewrap inherits and reads."""
    descriptor = os.memfd_create("box", 0)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def seccomp_filter(machine: str) -> bytes:
    """Returns the program of the filter: it denies what no check needs, and permits the rest."""
    if machine not in MACHINES:
        raise BoxError(f"there is no filter of system calls for {machine}")
    audit, clone, socket, ioctl = MACHINES[machine]
    load, equal, at_least, any_of, end = 0x20, 0x15, 0x35, 0x45, 0x06
    permit = [(end, 0, 0, 0x7FFF0000)]

    def refuse(error: int) -> list[tuple[int, int, int, int]]:
        return [(end, 0, 0, 0x00050000 | error)]

    def when(test: int, value: int, then: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
        return [(test, 0, len(then), value), *then]

    program = [(load, 0, 0, 4), (equal, 1, 0, audit), *refuse(ENOSYS), (load, 0, 0, 0)]
    # Calls of the second kind that x86-64 has.
    program += when(at_least, 0x40000000, refuse(ENOSYS))
    for number in [*DENIED[machine], *DENIED_EVERYWHERE]:
        program += when(equal, number, refuse(EPERM))
    program += when(equal, CLONE3, refuse(ENOSYS))
    program += when(equal, clone, [(load, 0, 0, 16), *when(any_of, NAMESPACES, refuse(EPERM)), *permit])
    families = [step for family in FAMILIES for step in when(equal, family, permit)]
    program += when(equal, socket, [(load, 0, 0, 16), *families, *refuse(EAFNOSUPPORT)])
    controls = [step for number in TERMINAL_INPUT for step in when(equal, number, refuse(EPERM))]
    first, last = LOOP_IOCTLS
    loops = when(at_least, first, [*when(at_least, last, permit), *refuse(EPERM)])
    program += when(equal, ioctl, [(load, 0, 0, 24), *controls, *loops, *permit])
    program += permit
    return b"".join(struct.pack("<HBBI", *step) for step in program)


if __name__ == "__main__":
    main()
