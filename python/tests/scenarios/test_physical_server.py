"""A physical server with a database, which nobody can connect to: it dies, goes on elsewhere, and comes home by deltas.

Its volume is a block device with ext4 and PostgreSQL. Transactions have numbers, so what is lost and what is not is exact.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Agent, hrl, hrl_json, run
from failing_over import PROMPT, Served, call, until
from machine import (
    GATEWAY,
    GATEWAY_PORT,
    MACHINE,
    Network,
    Postgres,
    block_device,
    mounted,
    need_machine,
    place,
    running,
)

VOLUME = "server"
DISK_BYTES = 192 << 20
POSTGRESQL_PORT = 5432
# Of 64 KiB: what the database touches by itself.
REGIONS_MARKED_MAX = 64
SOURCE_LIVES = range(1, 31)
LOST = range(31, 51)
ELSEWHERE = range(1001, 1021)
HOME_AGAIN = range(2001, 2006)


class Rig:
    """The machine, its gateway, and the vault behind."""

    def __init__(self, directory: Path, network: Network) -> None:
        self.directory = directory
        self.network = network
        self.home = directory / "home"
        self.home.mkdir()
        os.truncate(os.open(self.home / "disk.img", os.O_CREAT | os.O_WRONLY, 0o600), DISK_BYTES)
        self.vault = directory / "vault"
        self.key = directory / "key"
        hrl("key", self.key)
        hrl("enroll", directory / "pki", "--host", GATEWAY)
        hrl("enroll", directory / "pki", "--client", "machine", "--volume", VOLUME, "--to", directory / "identity")
        self.url = f"gateway://{GATEWAY}:{GATEWAY_PORT}?identity={directory / 'identity'}"
        self.key_options = ("--key-file", self.key)

    @contextmanager
    def gateway(self) -> Iterator[subprocess.Popen[str]]:
        """A process server beside the machine, and before the vault."""
        options = ["--vault", self.vault, "--pki", self.directory / "pki", "--cache", self.directory / "cache"]
        command = [*self.network.on_gateway, sys.executable, "-P", "-m", "hrl", "gateway", *options]
        listen = ["--listen", f"{GATEWAY}:{GATEWAY_PORT}"]
        server = subprocess.Popen(list(map(str, [*command, *listen])), stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None and server.stdout.readline().strip() == f"{GATEWAY}:{GATEWAY_PORT}"
            yield server
        finally:
            server.kill()
            server.communicate()

    @contextmanager
    def disk(self, uri: str, name: str) -> Iterator[Postgres]:
        """An NBD export as the machine's disk, mounted, with a cluster to be started on it."""
        with (
            block_device(uri, self.directory / f"{name}-device") as device,
            mounted(device, self.directory / name) as at,
            running(Postgres(at / "data", self.directory / f"{name}-pg", self.network.on_machine)) as postgres,
        ):
            yield postgres

    def on_machine(self, *arguments: object) -> Any:
        """What a command prints as JSON that runs on the machine, and so reaches the vault through the gateway alone."""
        command = [*self.network.on_machine, sys.executable, "-P", "-m", "hrl", *arguments, *self.key_options]
        return json.loads(run(*command))

    def found_in(self, volume: str, at: str) -> list[int]:
        """The orders in a state of the vault, by a restore of it."""
        image = self.directory / "restored.img"
        hrl("restore", self.vault, volume, "--at", at, "--to", image, "--overwrite", *self.key_options)
        device = run("losetup", "-f", "--show", image).strip()
        try:
            with (
                mounted(device, self.directory / "look") as mount,
                running(Postgres(mount / "data", self.directory / "look-pg")) as postgres,
            ):
                postgres.start()
                found = postgres.found()
                postgres.stop()
                return found
        finally:
            run("losetup", "-d", device)


def wait_replicated(agent: Agent) -> None:
    def done() -> bool:
        found = hrl_json("status", agent.state)
        return bool(found["mode"] == "ordered" and found["replicated_sequence"] == found["last_sequence"])

    until("everything in the vault", done)


@pytest.fixture
def rig() -> Iterator[Rig]:
    need_machine()
    with place() as directory, Network() as network:
        yield Rig(directory, network)


def protect(rig: Rig, start: Callable[..., Agent]) -> Agent:
    """The agent on the machine."""
    within = rig.network.on_machine
    return start("--volume", VOLUME, directory=rig.home, vault=rig.url, key_file=rig.key, policy=PROMPT, within=within)


def expect_only_outbound(rig: Rig) -> None:
    """The database answers on the machine, and on its address, but to nobody else; outbound the gateway is reached."""
    network = rig.network
    assert network.connects(network.on_machine, MACHINE, POSTGRESQL_PORT)
    assert not network.connects(network.on_gateway, MACHINE, POSTGRESQL_PORT)
    assert network.connects(network.on_machine, GATEWAY, GATEWAY_PORT)


def test_a_physical_server_dies_goes_on_elsewhere_and_comes_home_by_deltas(start: Callable[..., Agent], rig: Rig) -> None:
    """Promises 1, 3, 4 and 9: what was replicated is there in write order, nothing else is, and the rest is on a branch."""
    served: list[Served] = []
    with ExitStack() as stack:
        stack.callback(kill_all, served)
        gateway = stack.enter_context(rig.gateway())
        agent = protect(rig, start)
        with block_device(agent.uri, rig.directory / "mkfs") as device:
            run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", device)
        with rig.disk(agent.uri, "home-disk") as postgres:
            postgres.create(listen="*")
            expect_only_outbound(rig)
            postgres.orders(SOURCE_LIVES)
            hrl("point", agent.state, "--label", "before")
            wait_replicated(agent)
            until("a clean dirty map", lambda: hrl_json("status", agent.state)["marked_regions"] < REGIONS_MARKED_MAX)
            gateway.kill()
            gateway.wait()
            postgres.orders(LOST)
            until("the journal", lambda: is_journaled(agent))
            # It dies: the agent first, so that nothing that is only in memory reaches the disk.
            agent.kill()
            postgres.kill()

        over = Served(
            "failover", "start", rig.vault, VOLUME, "--disk", rig.directory / "away.img", "--at", "newest",
            *rig.key_options, state=rig.directory / "away",
        )  # fmt: skip
        served.append(over)
        with rig.disk(over.uri, "away-disk") as postgres:
            postgres.start()
            assert postgres.found() == list(SOURCE_LIVES), "all that was replicated, and nothing after it"
            postgres.orders(ELSEWHERE)
            call("failover", "commit", rig.vault, VOLUME, "--state", over.state)
            over.wait_replicated()

            # The machine is repaired, and its disk follows while the database is in use elsewhere.
            stack.enter_context(rig.gateway())
            home = ["--disk", agent.disk, "--state", agent.state]
            followed = rig.on_machine("reprotect", rig.url, VOLUME, *home, "--json")
            assert followed["bytes_diverged"] > 0
            postgres.stop()
        back = rig.on_machine("failback", rig.url, VOLUME, *home, "--detach", "--json")
        served.append(Served.known(back, agent.state))
        moved = followed["bytes_written"] + back["bytes_written"]
        assert moved < DISK_BYTES // 8, f"{moved} of {DISK_BYTES} bytes: deltas only"
        assert hrl_json("failover", "status", rig.vault, VOLUME, *rig.key_options)[VOLUME]["stage"] == "protected"
        with rig.disk(back["uri"], "back-disk") as postgres:
            postgres.start()
            assert postgres.found() == [*SOURCE_LIVES, *ELSEWHERE]
            postgres.orders(HOME_AGAIN)
            postgres.stop()
        served[-1].wait_replicated()
        (branch, *_) = hrl_json("branch", "list", rig.vault, VOLUME, *rig.key_options)
        assert branch["epoch"] == 1 and branch["stored_bytes"] > 0
        assert rig.found_in(f"{VOLUME}@1", "newest") == [*SOURCE_LIVES, *LOST], "what was lost is to be had"
        assert rig.found_in(VOLUME, "newest") == [*SOURCE_LIVES, *ELSEWHERE, *HOME_AGAIN]
        print(
            f"home again: {moved / (1 << 20):.1f} MiB of {DISK_BYTES >> 20} MiB written; elsewhere {over.ready['rto_ms']} ms"
        )


def test_a_planned_failover_of_a_physical_server_loses_not_one_transaction(start: Callable[..., Agent], rig: Rig) -> None:
    """The machine is shut down cleanly while its last writes are on their way."""
    with rig.gateway():
        agent = protect(rig, start)
        with block_device(agent.uri, rig.directory / "mkfs") as device:
            run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", device)
        with rig.disk(agent.uri, "home-disk") as postgres:
            postgres.create()
            committed = committing(postgres)
            until("some transactions", lambda: len(committed) > 20)
            postgres.stop()
            acknowledged = list(committed)
        over = Served(
            "failover", "start", rig.vault, VOLUME, "--disk", rig.directory / "away.img", "--planned", "--commit",
            *rig.key_options, state=rig.directory / "away",
        )  # fmt: skip
        try:
            with rig.disk(over.uri, "away-disk") as postgres:
                postgres.start()
                found = postgres.found()
                # The shutdown may have come between a commit and its answer.
                assert found[: len(acknowledged)] == acknowledged and len(found) <= len(acknowledged) + 1
                postgres.stop()
            (branch,) = hrl_json("branch", "list", rig.vault, VOLUME, *rig.key_options)
            assert branch["stored_bytes"] == 0, "nothing was written after the hand-over"
        finally:
            over.kill()


def committing(postgres: Postgres) -> list[int]:
    """Commits one transaction after the other until the server ends; those that were acknowledged so far."""
    committed: list[int] = []

    def run_until_refused() -> None:
        while True:
            number = len(committed) + 1
            try:
                postgres.orders(range(number, number + 1))
            except AssertionError:
                return
            committed.append(number)

    threading.Thread(target=run_until_refused, daemon=True).start()
    return committed


def kill_all(served: list[Served]) -> None:
    for one in served:
        one.kill()


def is_journaled(agent: Agent) -> bool:
    found = hrl_json("status", agent.state)
    return bool(found["journaled_sequence"] == found["last_sequence"])
