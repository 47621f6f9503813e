"""A web server and its database as one workload: its link fails and comes back, it is sized, and it moves away for good.

The web volume holds the number of an order once the database volume has it: a causal chain, so that a cut through both
volumes is right when the web has no order that the database lacks.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from email import message_from_string
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from azurite import free_ports
from conftest import Agent, hrl, need
from failing_over import PROMPT, call, call_json, until

import hrl as package

BLOCK = 4096
MIB = 1 << 20
VOLUMES = ("database", "web")
LIMIT_SECONDS = 60.0
ORDERS_SIZED = 200
# As of the plan against what was measured in core/tests/planner.rs: bytes in the spool, and puts.
BYTES_PERCENT, PUTS_PERCENT = 10.0, 15.0


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.subjects.append(message_from_string(envelope.content.decode(), policy=default)["Subject"])
        return "250 OK"


class Order:
    """Writes orders: each into the database first, and when that has it, into the web's volume."""

    def __init__(self, database: "Disk", web: "Disk") -> None:
        self.database, self.web = database, web
        self.taken = 0

    def take(self, count: int) -> None:
        for _ in range(count):
            number = self.taken + 1
            for disk in (self.database, self.web):
                disk.put(number)
            self.taken = number


class Disk:
    """A volume as a client of its NBD export sees it: block N holds order N."""

    def __init__(self, uri: str) -> None:
        self._client = subprocess.Popen(
            ["qemu-io", "-f", "raw", uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def put(self, number: int) -> None:
        """Writes an order; returns when it is acknowledged."""
        assert self._client.stdin is not None and self._client.stdout is not None
        self._client.stdin.write(f"write -P {number % 255 + 1} {number * BLOCK} {BLOCK}\n")
        while True:
            line = self._client.stdout.readline()
            if "wrote" in line:
                return
            if not line or "failed" in line:
                raise OSError(line)

    def close(self) -> None:
        self._client.kill()
        self._client.communicate()


def orders_on(image: bytes) -> int:
    """The orders on a volume; they are numbered without a gap."""
    number = 0
    while image[(number + 1) * BLOCK] == (number + 1) % 255 + 1:
        number += 1
    assert not any(image[(number + 1) * BLOCK :]), "an order that came after one that is lacking"
    return number


class Site:
    """Two protected volumes that are one group, and a gateway to the vault."""

    def __init__(self, directory: Path, start: Callable[..., Agent], mail: list[str]) -> None:
        self.directory = directory
        self.vault = directory / "vault"
        self.key = directory / "key"
        call("key", self.key)
        self.keyed = ("--key-file", self.key)
        self.pki, self.group = directory / "pki", directory / "group"
        call("enroll", self.pki, "--host", "localhost")
        (self.port,) = free_ports(1)
        for volume in VOLUMES:
            (directory / volume).mkdir()
            call("enroll", self.pki, "--client", volume, "--volume", volume, "--to", directory / volume / "identity")
        create = ["group", "create", self.group, "--name", "shop", "--pki", self.pki, "--any-member"]
        call(*create, "--listen", "127.0.0.1:0", "--interval", 0)
        self._start, self._mail = start, mail
        self.agents: dict[str, Agent] = {}

    def protect(self, policy: str) -> None:
        """Starts the agents, and waits for the first copies."""
        for volume in VOLUMES:
            home = self.directory / volume
            url = f"gateway://localhost:{self.port}?identity={home / 'identity'}"
            options = ["--volume", volume, *self._mail]
            self.agents[volume] = self._start(*options, directory=home, vault=url, key_file=self.key, policy=policy)
        until("both in order", lambda: all(self.status(volume)["mode"] == "ordered" for volume in VOLUMES))

    @contextmanager
    def gateway(self) -> Iterator[None]:
        """The link to the vault, while the block runs."""
        options = ["--pki", self.pki, "--cache", self.directory / "cache", "--listen", f"127.0.0.1:{self.port}"]
        with background("gateway", "--vault", self.vault, *options):
            yield

    @contextmanager
    def coordinator(self) -> Iterator[None]:
        """The group, joined by both."""
        with background("group", "run", self.group) as address:
            port = address.rpartition(":")[2]
            for volume in VOLUMES:
                identity = self.directory / volume / "identity"
                join = ["group", "join", self.agents[volume].state, "--name", "shop", "--identity", identity]
                call(*join, "--coordinator", f"localhost:{port}")
            yield

    def status(self, volume: str) -> dict[str, Any]:
        found: dict[str, Any] = call_json("status", self.agents[volume].state, "--json")
        return found

    def wait_replicated(self) -> None:
        def done() -> bool:
            found = [self.status(volume) for volume in VOLUMES]
            return all(one["replicated_sequence"] == one["last_sequence"] for one in found)

        until("everything in the vault", done)

    def objects(self, volume: str) -> dict[str, int]:
        """Objects of a volume in the vault, with their sizes."""
        root = self.vault / "volumes" / volume
        found = [path for path in root.rglob("*") if path.is_file()]
        # A gateway that is killed may leave a put half done, which is no object; the store sweeps it later.
        return {str(path): path.stat().st_size for path in found if not path.name.startswith(".put-")}


@contextmanager
def background(*arguments: object) -> Iterator[str]:
    """A command that serves, while the block runs; the line that it printed."""
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def mail_server() -> Iterator[tuple[Mailbox, list[str]]]:
    """A mail server, and the options that make an agent use it."""
    box = Mailbox()
    (port,) = free_ports(1)
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    options = ["--events-mail", "ops@example.net", "--smtp", f"127.0.0.1:{port}", "--mail-from", "hrl@example.net"]
    yield box, [*options, "--events-mail-kinds", "rpo-exceeded,rpo-met"]
    controller.stop(no_assert=True)


def near(what: str, planned: float, measured: float, percent: float) -> None:
    """A prediction is within its tolerance."""
    print(f"{what}: planned {planned:.0f}, measured {measured:.0f}")
    assert abs(planned - measured) <= max(measured * percent / 100, 3), what


def test_a_workload_of_two_volumes_is_alerted_sized_and_moved_away(
    start: Callable[..., Agent], tmp_path: Path, mail_server: tuple[Mailbox, list[str]]
) -> None:
    """Promises 1 and 4: one cut through both at each group point, and what was acknowledged is there in the end."""
    need("qemu-io")
    box, mail = mail_server
    site = Site(tmp_path, start, mail)
    policy = PROMPT + 'rpo_threshold_ms = 1500\nretention = "none"\n'
    with ExitStack() as stack:
        with site.gateway():
            site.protect(policy)
            stack.enter_context(site.coordinator())
            disks = {volume: Disk(site.agents[volume].uri) for volume in VOLUMES}
            for disk in disks.values():
                stack.callback(disk.close)
            orders = Order(disks["database"], disks["web"])
            expect_as_planned(site, orders, tmp_path / "database/policy.toml")
            call("group", "point", site.group, "--label", "before the cut")
        expect_alerts(site, orders, box)
        with site.gateway():
            until("the all-clear", lambda: len(box.subjects) == 4)
            expect_mails(box.subjects[2:], "rpo-met")
            call("group", "point", site.group, "--label", "after the cut")
            site.wait_replicated()
            expect_cuts(site, orders.taken)
            migrate(site, orders)


def expect_as_planned(site: Site, orders: Order, policy: Path) -> None:
    """What a plan says of a workload is what the vault then has of it."""
    site.wait_replicated()
    before = {volume: site.objects(volume) for volume in VOLUMES}
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    begun = time.monotonic()
    for _ in range(20):
        orders.take(ORDERS_SIZED // 20)
        time.sleep(0.1)
    site.wait_replicated()
    seconds = time.monotonic() - begun
    window = ("--from", since, "--json", *site.keyed)
    plan = ("plan-capacity", site.vault, "--days", 1, "--policy", policy, *window)
    found = call_json(*plan)
    churn = call_json("churn", site.vault, *window)
    repetitions = 86_400 / (instant(found["to"]) - instant(found["from"])).total_seconds()
    stored = 0
    for planned in found["volumes"]:
        volume = planned["name"]
        new = {path: size for path, size in site.objects(volume).items() if path not in before[volume]}
        measured = sum(size for path, size in new.items() if "/segments/" in path)
        stored += measured
        assert planned["written_bytes"] == churn[volume]["total"]["written_bytes"] == ORDERS_SIZED * BLOCK
        near(f"{volume}, bytes shipped", planned["shipped_bytes"], measured, BYTES_PERCENT)
        near(f"{volume}, bytes stored", churn[volume]["total"]["stored_bytes"], measured, BYTES_PERCENT)
        near(f"{volume}, puts", planned["days"][0]["put"] / repetitions, len(new), PUTS_PERCENT)
    rate = stored / seconds
    assert call_json(*plan, "--bandwidth", round(4 * rate))["is_sustainable"], "of what was measured"
    assert not call_json(*plan, "--bandwidth", round(rate / 4))["is_sustainable"]


def instant(text: str) -> datetime:
    """A time of a plan, to the microsecond."""
    return datetime.strptime(text[:26].rstrip("Z"), "%Y-%m-%dT%H:%M:%S.%f")


def expect_alerts(site: Site, orders: Order, box: Mailbox) -> None:
    """Without the link orders are taken as before, and somebody is told."""
    begun = time.monotonic()
    orders.take(20)
    assert time.monotonic() - begun < 5, "writers do not wait for the vault"
    until("the alerts", lambda: len(box.subjects) == 2)
    expect_mails(box.subjects, "rpo-exceeded")
    assert all(not site.status(volume)["vault_available"] for volume in VOLUMES)


def expect_mails(subjects: list[str], kind: str) -> None:
    """One of each volume."""
    for volume in VOLUMES:
        assert sum(f"[hrl] {volume}: {kind}" in subject for subject in subjects) == 1, subjects


def expect_cuts(site: Site, taken: int) -> None:
    """Each group point is one cut: the web has no order that the database lacks."""
    made = call_json("group", "points", site.vault, "--json", *site.keyed)
    assert [point["label"] for point in made] == ["before the cut", "after the cut"]
    found = {}
    for point in made:
        for volume in VOLUMES:
            image = site.directory / "restored"
            call("restore", site.vault, volume, "--at", point["id"], "--to", image, "--overwrite", *site.keyed)
            found[volume] = orders_on(image.read_bytes())
        assert found["web"] <= found["database"], point["label"]
    assert found == dict.fromkeys(VOLUMES, taken)


def migrate(site: Site, orders: Order) -> None:
    """Moves both away while orders are taken, the web first, as it depends on the other."""

    def go_on() -> None:
        try:
            while orders.taken < 3000:
                orders.take(1)
        except OSError:
            return

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        for volume in reversed(VOLUMES):
            place = ["--state", site.directory / f"new-{volume}", "--disk", site.directory / f"{volume}.img"]
            assert "--yes" in call("migrate", site.vault, volume, *place, *site.keyed, code=2)
            hrl("migrate", site.vault, volume, *place, *site.keyed, "--yes")
    finally:
        writer.join(LIMIT_SECONDS)
    found = {volume: orders_on((site.directory / f"{volume}.img").read_bytes()) for volume in VOLUMES}
    assert found["web"] == orders.taken and orders.taken > 220, "every order that was acknowledged"
    assert orders.taken <= found["database"] <= orders.taken + 1, "and the chain is whole"
    for volume in VOLUMES:
        # Its gateway gave the vault a deletion delay: segments stay until it is over.
        assert all("/segments/" in name for name in site.objects(volume)), "nobody reads it any more"
        assert volume in [entry.volume for entry in package.deleted(str(site.vault))]
        status = site.status(volume)
        assert status["handed_over"] or status["fenced"], status
        # Also when the volume had left the vault before its agent looked: it marked a point then, which went nowhere.
        assert "cannot mark point" in call("point", site.agents[volume].state, code=11)
    with pytest.raises(package.HrlError):
        package.Vault(str(site.vault), key=package.Key(str(site.key))).replica("web").view("newest")
