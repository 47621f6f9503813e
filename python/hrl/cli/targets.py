"""New files that commands make: complete or not there, and never in place of something that is no file.

`published` gives a command a name in a directory of its own beside the target. What it makes there gets the target's name in
one step, after a last look. Without `overwrite` that step fails if the name is taken by then: of two commands that make the
same file at once, one is refused. A device node, a directory, a pipe, or a link to one is never replaced, nor is a file that
another process has locked or open for writing, or that is the disk of a loop device. As far as this can be known: a process
of another user, container or machine shows only if it holds a lock.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hrl import HrlError
from hrl.cli.exits import Exit, Refused
from hrl.cli.signals import raising

SUFFIX = ".hrl-new"
NAME_BYTES_MAX = 128
SUFFIX_CHARACTERS_MAX = 16
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES, errno.EXDEV)
KINDS: dict[Callable[[int], bool], str] = {
    stat.S_ISBLK: "a block device",
    stat.S_ISCHR: "a character device",
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
}
Result = TypeVar("Result")


@contextlib.contextmanager
def published(to: Path, *, overwrite: bool | None = None, hint: str = "") -> Iterator[Path]:
    """Yields the path for a new file, which has the name `to` once the block has ended well.

    After a failure or a signal nothing is left of it. `overwrite` is `None` if the command has no such option. `hint` says
    what to do about a block device of that name.
    """
    target = checked(to, overwrite=overwrite, hint=hint)
    with raising(), work_directory(target) as directory:
        # Only the ending of a name means something, such as the format of a picture.
        new = directory / f"new{target.suffix[:SUFFIX_CHARACTERS_MAX]}"
        with named(to, directory):
            yield new
        checked(to, overwrite=overwrite, hint=hint)
        give_name(new, target, to, overwrite=bool(overwrite))


@contextlib.contextmanager
def named(to: Path, directory: Path) -> Iterator[None]:
    """Names the file that was asked for in errors about what is in the work directory."""
    try:
        yield
    except HrlError as error:
        if str(directory) not in str(error):
            raise
        message = re.sub(re.escape(str(directory)) + r"/\S*", lambda _: str(to), str(error))
        raise Refused(message, Exit.of_kind(error.kind)) from error


def checked(to: Path, *, overwrite: bool | None = None, hint: str = "") -> Path:
    """Returns where a new file of this name goes; if it is a link, where that leads. Refuses what may not be replaced."""
    target = Path(os.path.realpath(to))
    try:
        found = target.stat()
    except FileNotFoundError:
        if to.is_symlink():
            raise Refused(f"{to} is a link to {target}, which is not there", Exit.INVALID_INPUT) from None
        refuse_device_directory(to, target.parent)
        return target
    for is_kind, words in KINDS.items():
        if is_kind(found.st_mode):
            more = f": {hint}" if hint and is_kind is stat.S_ISBLK else ", and not a file"
            raise Refused(f"{to} is {words}{more}", Exit.INVALID_INPUT)
    if not overwrite:
        more = "" if overwrite is None else " (--overwrite replaces it)"
        raise Refused(f"{to} exists{more}", Exit.ALREADY_EXISTS)
    refuse_in_use(to, found)
    return target


def refuse_device_directory(to: Path, parent: Path) -> None:
    """Refuses a new file among the device nodes: a disk of that name is missing, and the file would be in memory."""
    with contextlib.suppress(FileNotFoundError):
        devices = Path("/dev").stat()
        if parent.stat().st_dev == devices.st_dev != Path("/").stat().st_dev:
            raise Refused(f"{to} is not there, and a file among the devices would be in memory", Exit.INVALID_INPUT)


def refuse_in_use(path: Path, found: os.stat_result) -> None:
    """Refuses a file that another process uses."""
    if who := user_of(path, found):
        raise Refused(f"{path} is in use by another process: {who}", Exit.FENCED)


def user_of(path: Path, found: os.stat_result) -> str:
    """Returns who has a file locked, has it open for writing, or shows it as a disk; empty if nobody is known to."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(backing.read_text().rstrip("\n")), found):
                return f"/dev/{backing.parts[-3]} shows it as a disk"
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid() and writes_to(process, found):
            return f"{name_of(process)}, process {process.name}, has it open for writing"
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "it is locked"
    return ""


def writes_to(process: Path, found: os.stat_result) -> bool:
    """Reports whether a process has a file open for writing. Those of other users are not known, except to root."""
    with contextlib.suppress(OSError):
        for one in os.scandir(process / "fd"):
            with contextlib.suppress(OSError, ValueError):
                if os.path.samestat(one.stat(), found):
                    flags = (process / "fdinfo" / one.name).read_text().split("flags:")[1].split()[0]
                    if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                        return True
    return False


def name_of(process: Path) -> str:
    """Returns the name of a process."""
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "a process"


@contextlib.contextmanager
def work_directory(target: Path) -> Iterator[Path]:
    """Makes a directory beside the target, locked while the block runs, so that those of dead commands can be removed."""
    name = os.fsdecode(os.fsencode(target.name)[:NAME_BYTES_MAX])
    remove_abandoned(target.parent, f".{name}.")
    while True:
        try:
            made = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=SUFFIX, dir=target.parent))
        except (FileNotFoundError, NotADirectoryError):
            raise Refused(
                f"{target.parent} is no directory, so {target.name} cannot be made there", Exit.NOT_FOUND
            ) from None
        lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Another command may take it for abandoned until it is locked. Without locks none does.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_same(made, lock):
                continue
            try:
                yield made
            finally:
                shutil.rmtree(made, ignore_errors=True)
            return
        finally:
            os.close(lock)


def is_same(path: Path, descriptor: int) -> bool:
    """Reports whether a path still names what was opened."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Removes the directories of commands that were killed while they made a file of the same name."""
    with contextlib.suppress(OSError):
        for one in os.scandir(parent):
            if one.name.startswith(prefix) and one.name.endswith(SUFFIX) and one.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    lock = os.open(one.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(one.path, ignore_errors=True)
                    finally:
                        os.close(lock)


def give_name(new: Path, target: Path, to: Path, *, overwrite: bool) -> None:
    """Gives a finished file its name, durably."""
    sync(new)
    if overwrite:
        os.replace(new, target)
    else:
        try:
            link(new, target)
        except FileExistsError:
            raise Refused(f"{to} exists: another process made it meanwhile", Exit.ALREADY_EXISTS) from None
    sync(target.parent)


def link(new: Path, target: Path) -> None:
    """Gives a file a name that must be free. Raises `FileExistsError` if it is not."""
    try:
        os.link(new, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # A file system without hard links: an empty file takes the name, and is replaced.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        os.replace(new, target)


def sync(path: Path) -> None:
    """Makes a file or directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def interruptible(work: Callable[[], Result]) -> Result:
    """Does work of the library, which a signal ends at once: it goes on on a thread that nobody waits for."""
    came: list[Result | BaseException] = []

    def do() -> None:
        try:
            came.append(work())
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if isinstance(came[0], BaseException):
        raise came[0]
    return came[0]
