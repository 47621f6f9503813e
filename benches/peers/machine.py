"""The machine: where scratch files are, how programs are run, the page cache, sizes and comparisons."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "target" / "bench"
PROGRAMS = Path(sys.executable).parent
MIB = 1 << 20
START_LIMIT_SECONDS = 10.0

Argument = str | Path


class BenchError(Exception):
    """A measurement that cannot be made, or a result that is wrong."""


def run(*command: Argument) -> str:
    """What a program prints; `BenchError` with its complaint when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(str(word) for word in command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def hrl(*arguments: Argument) -> str:
    """The command `hrl` beside the interpreter that runs this."""
    return run(PROGRAMS / "hrl", *arguments)


def start(*command: Argument, ready: Path) -> subprocess.Popen[bytes]:
    """A program in the background, once it has made the file or socket `ready`."""
    with suppress(FileNotFoundError):
        ready.unlink()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + START_LIMIT_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            _, complaint = process.communicate()
            raise BenchError(f"{command[0]} did not start: {complaint.decode(errors='replace').strip()}")
        time.sleep(0.005)
    return process


def start_telling(*command: Argument) -> tuple[subprocess.Popen[bytes], str]:
    """A program in the background that prints a line when it is ready, and the line."""
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    if not line:
        _, complaint = process.communicate()
        raise BenchError(f"{command[0]} did not start: {complaint.decode(errors='replace').strip()}")
    return process, line


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program by SIGTERM, by SIGKILL after five seconds."""
    process.terminate()
    try:
        process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def durable(path: Path) -> None:
    """Puts a file, or every file below a directory, on the disk."""
    for each in files_of(path):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cold(*paths: Path) -> None:
    """Drops files, or every file below a directory, from the page cache."""
    for path in paths:
        durable(path)
        for each in files_of(path):
            handle = os.open(each, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def files_of(path: Path) -> list[Path]:
    """A file, or the files below a directory."""
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]


def stored_bytes(*paths: Path) -> int:
    """Bytes of files as they are read: holes of sparse files do not count."""
    return sum(min(each.stat().st_size, each.stat().st_blocks * 512) for path in paths for each in files_of(path))


def clear(*paths: Path) -> None:
    """Removes files and directories that are there."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def same(found: Path, expected: Path, what: str) -> None:
    """Compares a result with its source; both may be sparse. `BenchError` names the first byte that differs."""
    if found.stat().st_size != expected.stat().st_size:
        raise BenchError(f"{what}: {found.stat().st_size} bytes, expected {expected.stat().st_size}")
    try:
        run("cmp", found, expected)
    except BenchError as error:
        raise BenchError(f"{what}: {error}") from None


def facts() -> str:
    """The machine in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "processor")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} x {cpu}, {memory_gib:.0f} GiB, Linux {platform.release().split('-')[0]}"


def versions(commands: Sequence[Sequence[str]]) -> list[str]:
    """The first line that each program says of itself."""
    return [run(*command).strip().splitlines()[0] for command in commands]
