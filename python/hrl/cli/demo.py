"""The demonstration: a real ext4 file system on a protected volume, written under load, its agent killed mid-write.

Then every recovery point is restored, its file system checked, and its files and database compared with what was durable
when the point was marked. Root mounts the file system from a loop device over the export. Other users write and read it
with `debugfs`, through libnbd's `nbdfuse`.
"""

import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hrl import HrlError, Vault
from hrl.cli.control import ask
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import Table, print_error, print_json, say
from hrl.cli.signals import raising
from hrl.words import count, human, span

TOOLS = ("nbdfuse", "mkfs.ext4", "e2fsck", "fusermount3")
TOOLS_OF_ROOT = ("losetup", "mount", "umount")
TOOLS_OF_OTHERS = ("debugfs",)
PACKAGES = {tool: "e2fsprogs" for tool in ("mkfs.ext4", "e2fsck", "debugfs")}
PACKAGES |= {tool: "mount" for tool in TOOLS_OF_ROOT} | {"nbdfuse": "libnbd-bin", "fusermount3": "fuse3"}
VOLUME = "demo.img"
SECONDS_EXPECTED = 30
FILES = 120
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def run(*, json: bool, size_mib: int, keep: Path | None) -> int:
    """Runs the demonstration. Returns 0 if every point is proved, else the code of a failed check."""
    # Debian keeps the tools of file systems off the path of users.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    tools = TOOLS + (TOOLS_OF_ROOT if os.geteuid() == 0 else TOOLS_OF_OTHERS)
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[tool] for tool in missing))
        names = ", ".join(missing)
        raise Refused(f"the demonstration needs {names}: install the Debian packages {packages}", Exit.UNSUPPORTED)
    with raising(), contextlib.ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hrl-demo-")))
        directory.mkdir(parents=True, exist_ok=True)
        rig = Rig(directory, size_mib) if os.geteuid() == 0 else UnprivilegedRig(directory, size_mib)
        stack.callback(rig.tear_down)
        return Demo(rig, quiet=json).play(json)


class Rig:
    """The agent, the block device over its NBD export, and the mount on that."""

    about = "mounted from a loop device over nbdfuse"

    def __init__(self, directory: Path, size_mib: int) -> None:
        self.disk = directory / VOLUME
        self.vault = directory / "vault"
        self.state = directory / "state"
        self.fuse = directory / "fuse"
        self.mount_point = directory / "mnt"
        self.directory = directory
        self.events = directory / "events.log"
        for path in (self.fuse, self.mount_point):
            path.mkdir(exist_ok=True)
        with open(self.disk, "wb") as disk:
            disk.truncate(size_mib << 20)
        self.agent: subprocess.Popen[str] | None = None
        self.bridge: subprocess.Popen[bytes] | None = None
        self.device = ""
        self.uri = ""

    def start_agent(self) -> None:
        policy = self.directory / "policy.toml"
        policy.write_text("segment_interval_ms = 250\ncrash_point_interval_ms = 0\n")
        command = [sys.executable, "-P", "-m", "hrl", "protect", str(self.disk), "--vault", str(self.vault)]
        command += ["--state", str(self.state), "--policy", str(policy)]
        with open(self.events, "ab") as events:
            self.agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=events, text=True)
        assert self.agent.stdout is not None
        self.uri = self.agent.stdout.readline().strip()
        if not self.uri:
            raise Refused(f"the agent did not start; see {self.events}:\n{self.events.read_text()[-2000:]}", Exit.FAILED)

    def attach(self) -> None:
        """Makes a block device of the NBD export."""
        self.bridge_up()
        command = ["losetup", "-f", "--show", "--direct-io=on", str(self.fuse / "nbd")]
        self.device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def bridge_up(self) -> None:
        """Makes a file of the NBD export."""
        self.bridge = subprocess.Popen(["nbdfuse", str(self.fuse), self.uri], stderr=subprocess.DEVNULL)
        bridge = self.bridge
        wait_for(lambda: (self.fuse / "nbd").exists() or bridge.poll() is not None, "nbdfuse")
        if bridge.poll() is not None:
            raise Refused("nbdfuse could not mount; is /dev/fuse there, and open to this user?", Exit.UNSUPPORTED)

    def make_file_system(self) -> None:
        subprocess.run(["mkfs.ext4", "-q", "-F", self.device], check=True)

    def mount(self) -> None:
        """Mounts the file system; after a crash it replays its journal."""
        subprocess.run(["mount", self.device, str(self.mount_point)], check=True)

    def load(self, directory: str, seed: int) -> "Load":
        """Starts to write into a directory of the file system."""
        home = self.mount_point / directory
        home.mkdir(exist_ok=True)
        return Load(MountedHome(home), seed)

    @contextlib.contextmanager
    def looked_into(self, image: Path) -> Iterator[Path]:
        """Shows the files of a restored file system while the block runs."""
        where = self.directory / "look"
        where.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop,ro", str(image), str(where)], check=True)
        try:
            yield where
        finally:
            subprocess.run(["umount", str(where)], check=True)

    def detach(self) -> None:
        """Takes everything off the export, even if the agent is dead."""
        if subprocess.run(["umount", str(self.mount_point)], **QUIET).returncode:
            subprocess.run(["umount", "-l", str(self.mount_point)], **QUIET)
        if self.device:
            subprocess.run(["losetup", "-d", self.device], **QUIET)
            self.device = ""
        self.bridge_down()

    def bridge_down(self) -> None:
        if self.bridge:
            if subprocess.run(["fusermount3", "-u", str(self.fuse)], **QUIET).returncode:
                subprocess.run(["fusermount3", "-uz", str(self.fuse)], **QUIET)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.bridge.wait(5)
            self.bridge.kill()
            self.bridge.wait()
            self.bridge = None

    def kill_agent(self) -> None:
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()
        self.agent = None

    def stop_agent(self) -> None:
        if self.agent:
            self.agent.terminate()
            code = self.agent.wait(120)
            self.agent = None
            if code:
                raise Refused(f"the agent ended with exit code {code}; see {self.events}", Exit.FAILED)

    def tear_down(self) -> None:
        self.detach()
        if self.agent:
            self.agent.kill()
            self.agent.wait()


class UnprivilegedRig(Rig):
    """The same without root: debugfs writes and reads the file system, through a file that nbdfuse makes."""

    about = "written by debugfs through nbdfuse, because only root may mount it"

    def attach(self) -> None:
        self.bridge_up()
        self.device = str(self.fuse / "nbd")

    def mount(self) -> None:
        # debugfs keeps no journal, so what a crash cut short is repaired as on a file system without one.
        subprocess.run(["e2fsck", "-f", "-y", self.device], **QUIET)

    def load(self, directory: str, seed: int) -> "Load":
        scratch = self.directory / f"scratch{seed}"
        scratch.mkdir(exist_ok=True)
        return Load(DebugfsHome(self.device, directory, scratch), seed)

    @contextlib.contextmanager
    def looked_into(self, image: Path) -> Iterator[Path]:
        where = self.directory / "look"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        subprocess.run(["debugfs", "-R", f"rdump / {where}", str(image)], check=True, **QUIET)
        yield where

    def detach(self) -> None:
        self.device = ""
        self.bridge_down()


def wait_for(done: Callable[[], bool], what: str, limit: float = 60.0) -> None:
    """Waits until something holds."""
    end = time.monotonic() + limit
    while not done():
        if time.monotonic() > end:
            raise Refused(f"{what} did not come within {limit:.0f} s", Exit.TIMED_OUT)
        time.sleep(0.05)


@dataclass
class Known:
    """What the writer had made durable at one moment."""

    files: dict[str, str] = field(default_factory=dict)
    rows: int = 0


class MountedHome:
    """A directory of a mounted file system, written with fsync."""

    churns = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, content: bytes) -> None:
        with open(self.root / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    @property
    def database(self) -> Path:
        return self.root / "rows.db"

    def commit_database(self) -> None:
        """Does nothing: the database is on the file system, so its commit was durable."""


class DebugfsHome:
    """A directory of a file system that is not mounted. Files are made elsewhere and copied in."""

    churns = False

    def __init__(self, device: str, directory: str, scratch: Path) -> None:
        self.device = device
        self.scratch = scratch
        self.prefix = f"/{directory}/" if directory else "/"
        if directory:
            self._run([f"mkdir /{directory}"])

    def put(self, name: str, content: bytes) -> None:
        (self.scratch / name).write_bytes(content)
        self._copy([name])

    @property
    def database(self) -> Path:
        return self.scratch / "rows.db"

    def commit_database(self) -> None:
        self._copy([path.name for path in self.scratch.glob("rows.db*") if not path.name.endswith("-shm")])

    def _copy(self, names: list[str]) -> None:
        script = []
        for name in names:
            script += [f"rm {self.prefix}{name}", f"write {self.scratch / name} {self.prefix}{name}"]
        self._run(script)

    def _run(self, script: list[str]) -> None:
        command = ["debugfs", "-w", "-f", "-", self.device]
        done = subprocess.run(command, input="\n".join(script) + "\n", capture_output=True, text=True, check=False)
        # Its exit code is always 0. A file that cannot be removed because it is absent is no failure.
        if any("rm:" not in line for line in done.stderr.splitlines()[1:]):
            raise OSError(done.stderr)


class Load:
    """Writes files and a database with fsync, and one file without, until it is stopped or the disk fails."""

    def __init__(self, home: MountedHome | DebugfsHome, seed: int) -> None:
        self.home = home
        self.known = Known()
        self.pause = threading.Lock()
        self._stop = threading.Event()
        self._random = random.Random(seed)
        works = [self._durable, self._churn] if home.churns else [self._durable]
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def snapshot(self) -> Known:
        return Known(dict(self.known.files), self.known.rows)

    def _guard(self, work: Callable[[], None]) -> None:
        # A dead disk ends the load, which is part of the demonstration.
        with contextlib.suppress(OSError, sqlite3.Error):
            work()

    def _durable(self) -> None:
        base = sqlite3.connect(self.home.database)
        base.execute("pragma journal_mode = wal")
        base.execute("pragma synchronous = full")
        base.execute("create table if not exists rows (number integer primary key, digest text)")
        while not self._stop.is_set():
            with self.pause:
                name = f"file-{self._random.randrange(FILES):03}"
                content = self._random.randbytes(self._random.randrange(1, 96) * 1024)
                # From here on nothing is known of the file until its new content is durable.
                self.known.files.pop(name, None)
                self.home.put(name, content)
                digest = hashlib.sha256(content).hexdigest()
                self.known.files[name] = digest
                base.execute("insert into rows values (?, ?)", (self.known.rows + 1, digest))
                base.commit()
                self.home.commit_database()
                self.known.rows += 1
            time.sleep(0.002)
        base.close()

    def _churn(self) -> None:
        with open(self.home.database.with_name("churn"), "wb") as file:
            while not self._stop.is_set():
                file.seek(self._random.randrange(2000) * 8192)
                file.write(self._random.randbytes(8192))
                file.flush()
                time.sleep(0.002)


@dataclass
class Verdict:
    """What was found at one recovery point."""

    point: str
    label: str
    kind: str
    sequence: int
    time: str
    rpo_seconds: float
    bytes_captured: int
    bytes_stored: int
    file_system: str = "not checked"
    files: str = "not checked"
    database: str = "not checked"

    @property
    def good(self) -> bool:
        return all(text.startswith("ok") for text in (self.file_system, self.files, self.database))


class Demo:
    """The demonstration, step by step."""

    def __init__(self, rig: Rig, *, quiet: bool) -> None:
        self.rig = rig
        self.quiet = quiet
        self.began = self.step_began = time.monotonic()
        self.steps: list[float] = []
        self.expected: dict[str, Known] = {}
        self.rpo: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Prints a line on standard error."""
        if not self.quiet:
            print_error(text)

    def step(self, text: str) -> None:
        """Begins a step, after the time of the one before."""
        self.end_step()
        self.say(f"{len(self.steps) + 1}. {text}")
        self.steps.append(0.0)

    def end_step(self) -> None:
        """Ends a step, and says how long it took."""
        if self.steps:
            self.steps[-1] = time.monotonic() - self.step_began
            self.say(f"   took {span(self.steps[-1])}")
        self.step_began = time.monotonic()

    def play(self, json: bool) -> int:
        """Plays every step. Returns the exit code."""
        rig = self.rig
        self.say(f"About {SECONDS_EXPECTED} s, in {rig.directory}")
        self.step(f"A disk of {human(rig.disk.stat().st_size)}, served over NBD, captured into {rig.vault}")
        self.say(f"   its ext4 is {rig.about}")
        rig.start_agent()
        rig.attach()
        rig.make_file_system()
        rig.mount()
        load = rig.load("", seed=1)
        self.step("Files, a database and churn are written while the first copy is made")
        self.wait_ordered()
        for number in range(4):
            time.sleep(1.5)
            self.mark(load, f"before {number + 1}")
        self.step("The agent is killed with SIGKILL, mid-write")
        time.sleep(0.7)
        rig.kill_agent()
        load.stop()
        rig.detach()
        self.step("It is started again: only regions that may differ are read")
        rig.start_agent()
        self.wait_ordered()
        status = ask(rig.state, "status")
        reread, size = status["resync_bytes_read"], status["size_bytes"]
        self.say(f"   read {human(reread)} of {human(size)} again ({100 * reread / size:.1f} %)")
        rig.attach()
        rig.mount()
        # What was in flight when the disk died is unknown, so the writer starts afresh in a directory of its own.
        load = rig.load("second", seed=2)
        for number in range(3):
            time.sleep(1.5)
            self.mark(load, f"after {number + 1}")
        load.stop()
        rig.detach()
        rig.stop_agent()
        self.step("Every point is restored, checked and compared")
        verdicts = self.verdicts()
        self.end_step()
        good = all(verdict.good for verdict in verdicts) and len(verdicts) == len(self.expected)
        if json:
            print_json(
                {
                    "good": good,
                    "seconds": time.monotonic() - self.began,
                    "step_seconds": self.steps,
                    "resync_bytes_read": reread,
                    "size_bytes": size,
                    "points": [asdict(verdict) | {"good": verdict.good} for verdict in verdicts],
                }
            )
        else:
            self.show(verdicts, good)
        return Exit.DONE if good else Exit.CHECK_FAILED

    def wait_ordered(self) -> None:
        wait_for(lambda: ask(self.rig.state, "status")["mode"] == "ordered", "the first copy or resync", 120)

    def mark(self, load: Load, label: str) -> None:
        with load.pause:
            point = ask(self.rig.state, "point", label=label)
            self.expected[point["id"]] = load.snapshot()
        self.rpo[point["id"]] = ask(self.rig.state, "status")["rpo_seconds"]

    def verdicts(self) -> list[Verdict]:
        replica = Vault(str(self.rig.vault)).replica(VOLUME)
        sizes = {point: (data, stored) for point, data, stored in replica.point_bytes()}
        verdicts = []
        for point in replica.points():
            data, stored = sizes[point.id]
            verdict = Verdict(
                point.id,
                point.label,
                point.kind,
                point.sequence,
                point.time,
                self.rpo.get(point.id, 0.0),
                data,
                stored,
            )
            image = self.rig.directory / "restored.img"
            try:
                replica.restore(point.id, image, overwrite=True)
                self.check(image, verdict, self.expected[point.id])
            except (HrlError, OSError, KeyError) as error:
                verdict.file_system = f"failed: {error}"
            verdicts.append(verdict)
        return verdicts

    def check(self, image: Path, verdict: Verdict, known: Known) -> None:
        """Replays the journal as a mount after a power failure would, and looks at everything."""
        quiet: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        subprocess.run(["e2fsck", "-E", "journal_only", "-p", str(image)], **quiet)
        checked = subprocess.run(["e2fsck", "-f", "-n", str(image)], **quiet)
        verdict.file_system = "ok" if checked.returncode == 0 else f"e2fsck says {checked.returncode}"
        with self.rig.looked_into(image) as root:
            home = root / "second" if verdict.label.startswith("after") else root
            wrong = [name for name, digest in known.files.items() if sha256(home / name) != digest]
            verdict.files = f"ok, {len(known.files)}" if not wrong else f"{len(wrong)} differ"
            verdict.database = self.check_database(home, known)

    def check_database(self, home: Path, known: Known) -> str:
        copy = self.rig.directory / "database"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in ("rows.db", "rows.db-wal"):
            if (home / name).exists():
                shutil.copy(home / name, copy / name)
        base = sqlite3.connect(copy / "rows.db")
        try:
            if base.execute("pragma integrity_check").fetchone() != ("ok",):
                return "integrity check failed"
            count, newest = base.execute("select count(*), max(number) from rows").fetchone()
        finally:
            base.close()
        if count != newest or count != known.rows:
            return f"{count} rows, {known.rows} expected"
        return f"ok, {count} rows"

    def show(self, verdicts: list[Verdict], good: bool) -> None:
        """Prints what was found at every point."""
        table = Table("point", "label", "RPO", "captured", "stored", "ext4", "files", "database")
        for v in verdicts:
            sizes = (human(v.bytes_captured), human(v.bytes_stored))
            table.add(v.point[:8], v.label, span(v.rpo_seconds), *sizes, v.file_system, v.files, v.database)
        table.print()
        took = span(time.monotonic() - self.began)
        words = (
            f"every one of {count(len(verdicts), 'point')} is proved" if good else "some points are not as they should be"
        )
        say(f"{words}, in {took}")


def sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return str(error)
