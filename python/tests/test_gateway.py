"""The gateway by its command: enrolment, a protected disk through it, a kill, and what a client may not do."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import hrl

COMMAND = [sys.executable, "-P", "-m", "hrl"]


def start(site: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    command = [*COMMAND, "gateway", "--vault", str(site / "vault"), "--pki", str(site / "pki")]
    server = subprocess.Popen([*command, "--listen", "127.0.0.1:0", *more], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    subprocess.run([*COMMAND, "enroll", str(tmp_path / "pki"), "--host", "127.0.0.1"], check=True)
    enrol = [*COMMAND, "enroll", str(tmp_path / "pki"), "--client", "agent", "--volume", "disk"]
    subprocess.run([*enrol, "--to", str(tmp_path / "agent")], check=True)
    with open(tmp_path / "disk", "wb") as disk:
        disk.truncate(4 << 20)
    return tmp_path


def test_a_disk_is_replicated_through_a_gateway_that_is_killed(site: Path) -> None:
    server, address = start(site, "--cache", str(site / "cache"))
    try:
        vault = hrl.Vault(f"gateway://{address}?identity={site / 'agent'}", create=True)
        policy = {"segment_interval_ms": "20", "retry_interval_max_ms": "100"}
        with hrl.Protection(site / "disk", vault=vault, state=site / "state", policy=policy) as protection:
            protection.wait_ordered()
            protection.write(0, b"before")
            protection.mark("before")
            protection.wait_replicated()
            server.kill()
            server.wait()
            protection.write(4096, b"while it was dead")
            with pytest.raises(hrl.UnavailableError):
                protection.wait_replicated(0.3)
            port = address.rpartition(":")[2]
            command = [*COMMAND, "gateway", "--vault", str(site / "vault"), "--pki", str(site / "pki")]
            server = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{port}", "--cache", str(site / "cache")],
                stdout=subprocess.PIPE,
                text=True,
            )
            protection.wait_replicated(60)
    finally:
        server.terminate()
        assert server.wait(60) == 0
    # The vault itself says the same, without a gateway.
    replica = hrl.Vault(str(site / "vault")).replica("disk")
    assert [point.label for point in replica.points()] == ["before"]
    assert replica.view("newest").read(4096, 17) == b"while it was dead"
    assert replica.view("before").read(4096, 17) == bytes(17)


def test_metrics_and_refusals(site: Path) -> None:
    with hrl.Gateway(str(site / "vault"), pki=site / "pki", listen="127.0.0.1:0", metrics="127.0.0.1:0") as gateway:
        with urllib.request.urlopen(f"http://{gateway.metrics_address}/metrics") as answer:
            assert b"hrl_gateway_requests_total 0" in answer.read()
        url = f"gateway://{gateway.address}?identity={site / 'agent'}"
        vault = hrl.Vault(url)
        assert vault.volumes() == []
        os.truncate(site / "disk", 8 << 20)
        with pytest.raises(hrl.DeniedError, match="no right"):
            hrl.Protection(site / "disk", vault=vault, state=site / "state", volume="other")
        assert gateway.stats()["errors"] > 0
        assert gateway.stop()


def test_enrolment_says_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "enroll", str(tmp_path / "pki")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--host" in done.stderr
    hrl.create_authority(tmp_path / "pki", ["localhost"])
    hrl.enroll_client(tmp_path / "pki", "a", volumes=["v"], bundle=tmp_path / "a")
    with pytest.raises(hrl.AlreadyExistsError):
        hrl.enroll_client(tmp_path / "pki", "a", volumes=["v"], bundle=tmp_path / "b")
    assert (tmp_path / "a" / "client.key").stat().st_mode & 0o77 == 0


def test_a_second_vault_follows_and_stands_alone(tmp_path: Path) -> None:
    with open(tmp_path / "disk", "wb") as disk:
        disk.truncate(1 << 20)
    vault = hrl.Vault(tmp_path / "first", create=True)
    with hrl.Protection(tmp_path / "disk", vault=vault, state=tmp_path / "state") as protection:
        protection.wait_ordered()
        protection.write(0, b"mirrored")
        point = protection.mark("mirrored")
        protection.wait_replicated()
    mirror = [*COMMAND, "mirror", str(tmp_path / "first"), str(tmp_path / "second")]
    first = subprocess.run([*mirror, "--json"], check=True, capture_output=True, text=True)
    (entry,) = json.loads(first.stdout)
    assert entry["version"] == entry["source_version"] > 0 and entry["objects_copied"] >= 2
    assert entry["failure"] is None
    follower = subprocess.Popen([*mirror, "--follow", "--interval", "0.1", "--json"], stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    assert json.loads(follower.stdout.readline())[0]["objects_copied"] == 0
    follower.terminate()
    assert follower.wait(60) == 0
    os.rename(tmp_path / "first", tmp_path / "gone")
    failed = subprocess.run(mirror, capture_output=True, text=True)
    assert failed.returncode == 3 and "first" in failed.stderr
    with hrl.Vault(tmp_path / "second").replica("disk").view(point.id) as view:
        assert view.read(0, 8) == b"mirrored"
    copier = hrl.Mirror(hrl.Vault(tmp_path / "gone"), hrl.Vault(tmp_path / "second"), volumes=["disk"])
    assert copier.run()[0]["objects_copied"] == 0
    copier.stop()
