"""NBD in TLS with other people's clients: libnbd and QEMU, which use GnuTLS and not our library."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LIMIT, hrl, need, run

import hrl as package

BYTES = 4 << 20


@pytest.fixture
def site(tmp_path: Path) -> Path:
    hrl("enroll", tmp_path / "pki", "--host", "localhost", "--host", "127.0.0.1")
    for client, volume in (("agent", "disk"), ("stranger", "other")):
        hrl("enroll", tmp_path / "pki", "--client", client, "--volume", volume, "--to", tmp_path / client)
    (tmp_path / "disk").write_bytes(random.Random(1).randbytes(BYTES))
    return tmp_path


@pytest.fixture
def served(site: Path) -> Iterator[tuple[package.NbdServer, list[str]]]:
    """The disk in TLS at a port, and the lines of who was refused."""
    told: list[str] = []
    address = "tcp:localhost:0"
    with package.NbdServer.device(address, site / "disk", "disk", tls=site / "pki", on_refused=told.append) as server:
        yield server, told


def libnbd(uri: str, bundle: Path) -> str:
    return f"{uri}?tls-certificates={bundle}"


def qemu(server: package.NbdServer, bundle: Path) -> tuple[str, ...]:
    """Options of a QEMU program for its credentials and the disk."""
    port = server.uri.split(":")[2].split("/")[0]
    creds = f"tls-creds-x509,id=tls,dir={bundle},endpoint=client"
    return ("--object", creds, "--image-opts", f"driver=nbd,host=localhost,port={port},export=disk,tls-creds=tls")


def test_libnbd_reads_and_writes_in_tls(site: Path, served: tuple[package.NbdServer, list[str]]) -> None:
    need("nbdinfo", "nbdcopy")
    server, told = served
    assert server.uri.startswith("nbds://localhost:")
    uri = libnbd(server.uri, site / "agent")
    assert run("nbdinfo", "--size", uri).strip() == str(BYTES)
    content = random.Random(2).randbytes(BYTES)
    (site / "new").write_bytes(content)
    run("nbdcopy", site / "new", uri)
    run("nbdcopy", uri, site / "copy")
    assert (site / "copy").read_bytes() == content
    assert told == []


def test_qemu_reads_and_writes_in_tls(site: Path, served: tuple[package.NbdServer, list[str]]) -> None:
    need("qemu-io", "qemu-img")
    server, _ = served
    *options, image = qemu(server, site / "agent")
    run("qemu-io", *options, "-c", "write -P 7 1M 1M", "-c", "flush", "-c", "read -P 7 1M 1M", image)
    run("qemu-img", "convert", *options, image, "-O", "raw", site / "copy")
    expected = random.Random(1).randbytes(BYTES)
    assert (site / "copy").read_bytes() == expected[: 1 << 20] + b"\7" * (1 << 20) + expected[2 << 20 :]


def test_clients_without_the_right_certificate_get_nothing(site: Path, served: tuple[package.NbdServer, list[str]]) -> None:
    need("nbdinfo", "qemu-img")
    server, told = served
    plain = server.uri.replace("nbds:", "nbd:")
    refused(["nbdinfo", plain])
    assert told == []
    refused(["nbdinfo", libnbd(server.uri, site / "stranger")])
    assert "stranger is not enrolled for volume disk" in reported(told)
    assert "TLS" in refused(["qemu-img", "info", plain])
    hrl("enroll", site / "elsewhere", "--host", "localhost")
    hrl("enroll", site / "elsewhere", "--client", "agent", "--volume", "disk", "--to", site / "foreign")
    (site / "foreign" / "authority.pem").write_bytes((site / "agent" / "authority.pem").read_bytes())
    refused(["nbdinfo", libnbd(server.uri, site / "foreign")])
    assert "invalid peer certificate" in reported(told) and told == []


def reported(told: list[str]) -> str:
    """Takes the next refusal, which the server reports after the client has left."""
    end = time.monotonic() + LIMIT
    while not told and time.monotonic() < end:
        time.sleep(0.01)
    return told.pop()


def refused(command: list[str]) -> str:
    """Runs a client that must get nothing; what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode != 0 and str(BYTES) not in done.stdout
    return done.stderr


def test_the_command_serves_in_tls(site: Path) -> None:
    need("nbdinfo")
    vault = package.Vault(site / "vault", create=True)
    with package.Protection(site / "disk", vault=vault, state=site / "state", volume="disk") as protection:
        protection.wait_ordered()
        protection.mark("p")
        protection.wait_replicated()
    command = [sys.executable, "-P", "-m", "hrl", "serve", str(site / "vault"), "disk", "--nbd", "tcp:localhost:0"]
    command += ["--nbd-tls", str(site / "pki")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            uri = server.stdout.readline().strip()
            assert run("nbdinfo", "--size", libnbd(uri, site / "agent")).strip() == str(BYTES)
            refused(["nbdinfo", libnbd(uri, site / "stranger")])
            assert "stranger is not enrolled for volume disk" in server.stderr.readline()
        finally:
            server.terminate()
    assert server.returncode == 0
