"""A physical server of a test: its network, its disk as a real block device, and PostgreSQL on that.

Everything here is taken down by leaving a `with` block, also when the server below it is dead: first what uses a device.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import need, run

LIMIT_SECONDS = 60.0
PROGRAMS = ("ip", "nsenter", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "mount", "umount", "runuser", "psql")
GATEWAY, MACHINE = "10.77.0.1", "10.77.0.2"
GATEWAY_PORT = 9443


def need_machine(*more: str) -> None:
    """Skips the test where a machine cannot be made."""
    need(*PROGRAMS, *more)
    if os.geteuid() != 0:
        pytest.skip("mounts and network namespaces need root")
    if not Path("/dev/fuse").exists():
        pytest.skip("/dev/fuse is not there")
    if postgresql() is None:
        pytest.skip("postgresql is not installed (make packages)")


def postgresql() -> Path | None:
    """The directory of PostgreSQL's own programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def place() -> Iterator[Path]:
    """A directory that PostgreSQL's user may pass, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="hrl-machine-", dir="/tmp", ignore_cleanup_errors=True) as made:
        os.chmod(made, 0o755)
        yield Path(made)


class Network:
    """Two hosts and a wire: a machine, which nobody can connect to, and a gateway, whose port 9443 alone it hears."""

    def __init__(self) -> None:
        self.machine, self.gateway = f"hrl-m-{os.getpid()}", f"hrl-g-{os.getpid()}"

    def __enter__(self) -> "Network":
        for name in (self.machine, self.gateway):
            run("ip", "netns", "add", name)
        wire = ("type", "veth", "peer", "name", "wire", "netns", self.gateway)
        run("ip", "link", "add", "wire", "netns", self.machine, *wire)
        for name, address in ((self.machine, MACHINE), (self.gateway, GATEWAY)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "wire")
            for link in ("lo", "wire"):
                run("ip", "-n", name, "link", "set", link, "up")
        # What comes in over the wire is dropped, but for what the gateway's port sends. ARP is dropped with it.
        rule = ("ip", "-n", self.machine, "rule")
        heard = ("from", GATEWAY, "ipproto", "tcp", "sport", GATEWAY_PORT)
        run(*rule, "add", "pref", 10, "iif", "wire", *heard, "lookup", "local")
        run(*rule, "add", "pref", 20, "iif", "wire", "blackhole")
        run(*rule, "add", "pref", 30, "lookup", "local")
        run(*rule, "del", "pref", 0)
        (wire_there,) = json.loads(run("ip", "-n", self.machine, "-j", "link", "show", "wire"))
        hardware = wire_there["address"]
        run("ip", "-n", self.gateway, "neigh", "replace", MACHINE, "lladdr", hardware, "dev", "wire")
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.machine, self.gateway):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    @property
    def on_machine(self) -> list[str]:
        """The command that runs another one on the machine."""
        return ["nsenter", f"--net=/run/netns/{self.machine}"]

    @property
    def on_gateway(self) -> list[str]:
        """The same on the gateway."""
        return ["nsenter", f"--net=/run/netns/{self.gateway}"]

    def connects(self, come_from: list[str], address: str, port: int) -> bool:
        """A TCP connection can be made."""
        script = f"import socket; socket.create_connection(({address!r}, {port}), timeout=1).close()"
        return subprocess.run([*come_from, sys.executable, "-c", script], capture_output=True).returncode == 0


@contextmanager
def block_device(uri: str, directory: Path) -> Iterator[str]:
    """A loop device over an NBD export."""
    fuse = directory / "fuse"
    fuse.mkdir(parents=True, exist_ok=True)
    bridge = subprocess.Popen(["nbdfuse", str(fuse), uri], stderr=subprocess.DEVNULL)
    device = None
    try:
        end = time.monotonic() + LIMIT_SECONDS
        while not (fuse / "nbd").exists():
            assert bridge.poll() is None and time.monotonic() < end, "nbdfuse does not serve"
            time.sleep(0.02)
        device = run("losetup", "-f", "--show", "--direct-io=on", fuse / "nbd").strip()
        yield device
    finally:
        if device:
            patiently("losetup", "-d", device)
        if not patiently("fusermount3", "-u", str(fuse)):
            subprocess.run(["fusermount3", "-u", "-z", str(fuse)], capture_output=True)
        bridge.kill()
        bridge.wait()


@contextmanager
def mounted(device: str, at: Path) -> Iterator[Path]:
    """A mounted file system, for any user."""
    at.mkdir(parents=True, exist_ok=True)
    run("mount", device, at)
    try:
        at.chmod(0o777)
        yield at
    finally:
        if not patiently("umount", str(at)):
            subprocess.run(["umount", "-l", str(at)], capture_output=True)


def patiently(*command: str, limit: float = 10.0) -> bool:
    """Tries until it succeeds or the limit is over."""
    end = time.monotonic() + limit
    while subprocess.run(command, capture_output=True).returncode != 0:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


class Postgres:
    """A cluster in a directory on a mounted disk. Its socket lies beside, as on any machine."""

    def __init__(self, data: Path, sockets: Path, within: list[str] | None = None) -> None:
        found = postgresql()
        assert found is not None
        self._programs = found
        self._data = data
        self._sockets = sockets
        self._within = within or []

    def create(self, listen: str = "") -> None:
        """Makes the cluster, durably, and its table; leaves it running."""
        self._run("initdb", "-D", self._data, "-A", "trust", "-N", "-k", "--wal-segsize=1")
        self._data.joinpath("pg_hba.conf").write_text("local all all trust\nhost all all all trust\n")
        run("sync", "-f", self._data)
        self.start(listen)
        self.sql("CREATE TABLE orders (id int PRIMARY KEY, note text)")

    def start(self, listen: str = "") -> None:
        """Starts it, through recovery where it was not shut down."""
        # A machine of its own: no process that a lock file names is there.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._sockets.mkdir(parents=True, exist_ok=True)
        self._sockets.chmod(0o777)
        options = f"-c listen_addresses='{listen}' -k {self._sockets} -c shared_buffers=16MB -c max_wal_size=32MB"
        log = self._sockets / "log"
        try:
            self._run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "-s", "start")
        except AssertionError as failed:
            raise AssertionError(f"{failed}\n{log.read_text()}") from None

    def stop(self) -> None:
        """Shuts it down cleanly."""
        self._run("pg_ctl", "-D", self._data, "-w", "-s", "-m", "fast", "stop")

    def kill(self) -> None:
        """Kills its server; every process of it ends by that."""
        process = int((self._sockets / ".s.PGSQL.5432.lock").read_text().split()[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, 9)
        end = time.monotonic() + LIMIT_SECONDS
        while self._uses_data():
            assert time.monotonic() < end, "processes of PostgreSQL are left"
            time.sleep(0.05)

    def sql(self, *statements: str) -> list[str]:
        """Runs statements, each a transaction; the lines that came."""
        arguments = [part for statement in statements for part in ("-c", statement)]
        server = ("-h", str(self._sockets), "-U", "postgres", "-d", "postgres")
        return run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *server, *arguments).split()

    def orders(self, numbers: range) -> None:
        """Commits a transaction for each number; all are when it returns."""
        self.sql(*(f"INSERT INTO orders VALUES ({number}, repeat('order {number} ', 20))" for number in numbers))

    def found(self) -> list[int]:
        """The orders that are there; the indexes agree with the table."""
        self.sql("CREATE EXTENSION IF NOT EXISTS amcheck", "SELECT bt_index_check('orders_pkey', true)")
        return [int(line) for line in self.sql("SELECT id FROM orders ORDER BY id")]

    def _uses_data(self) -> bool:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "cwd").startswith(str(self._data)):
                    return True
        return False

    def _run(self, program: str, *arguments: object) -> None:
        run(*self._within, "runuser", "-u", "postgres", "--", self._programs / program, *arguments)


@contextmanager
def running(postgres: Postgres) -> Iterator[Postgres]:
    """Kills the server of a block that failed, so that its disk can be unmounted."""
    try:
        yield postgres
    except BaseException:
        with contextlib.suppress(OSError, AssertionError):
            postgres.kill()
        raise
