"""Roles by the command: what a source's certificate can do with curl, the audit log, and the life of certificates."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hrl
from hrl.health import of_expiry

COMMAND = [sys.executable, "-P", "-m", "hrl"]
POLICY = {"segment_interval_ms": "20", "retention": "1h all", "retention_interval": "100ms"}


def run(*arguments: object, code: int = 0) -> str:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture
def site(tmp_path: Path) -> Path:
    run("enroll", tmp_path / "pki", "--host", "127.0.0.1")
    run("enroll", tmp_path / "pki", "--client", "agent", "--volume", "disk", "--to", tmp_path / "agent")
    with open(tmp_path / "disk", "wb") as disk:
        disk.truncate(1 << 20)
    return tmp_path


@pytest.fixture
def gateway(site: Path) -> Iterator[hrl.Gateway]:
    lines: list[str] = []
    with hrl.Gateway(str(site / "vault"), pki=site / "pki", listen="127.0.0.1:0", on_refused=lines.append) as server:
        yield server
    (site / "refusals").write_text("\n".join(lines))


def curl(site: Path, gateway: hrl.Gateway, method: str, target: str, body: str = "") -> int:
    bundle = site / "agent"
    command = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-X",
        method,
        "--cacert",
        str(bundle / "authority.pem"),
    ]
    command += ["--cert", str(bundle / "client.pem"), "--key", str(bundle / "client.key"), "-H", "If-None-Match: *"]
    command += ["--data-binary", body, f"https://{gateway.address}{target}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_with_a_sources_certificate_changes_nothing(site: Path, gateway: hrl.Gateway) -> None:
    """Promise 13."""
    vault = hrl.Vault(f"gateway://{gateway.address}?identity={site / 'agent'}")
    kinds: list[str] = []
    with hrl.Protection(
        site / "disk", vault=vault, state=site / "state", policy=POLICY, on_event=lambda event: kinds.append(event["kind"])
    ) as protection:
        protection.wait_ordered()
        protection.write(0, b"history")
        protection.mark("kept")
        protection.wait_replicated()
    assert kinds.count("retention-left") == 1 and "task-failed" not in kinds
    before = {path: path.read_bytes() for path in (site / "vault" / "volumes").rglob("*") if path.is_file()}
    names = [str(path.relative_to(site / "vault")) for path in before]
    for name in names:
        assert curl(site, gateway, "DELETE", f"/v1/objects/{name}") == 403
        assert curl(site, gateway, "POST", "/v1/delete", name) == 403
        assert curl(site, gateway, "PUT", f"/v1/objects/{name}", "other") in (403, 412, 416)
    for name in ("keys/shredded", "catalog/00000000000000ff", "catalog/0000000000000001-00000000000000ff", "packs/x.pack"):
        assert curl(site, gateway, "PUT", f"/v1/objects/volumes/disk/{name}", "x") in (403, 416), name
    assert gateway.stats().refused >= 2 * len(names)
    after = {path: path.read_bytes() for path in (site / "vault" / "volumes").rglob("*") if path.is_file()}
    assert after == before
    replica = hrl.Vault(str(site / "vault")).replica("disk")
    assert [point.label for point in replica.points()] == ["kept"] and replica.view("kept").read(0, 7) == b"history"
    gateway.stop()
    log = json.loads(run("audit", site / "vault", "--json"))
    denied = [entry for entry in log["entries"] if entry["outcome"] == "denied"]
    assert not log["findings"] and {(entry["client"], entry["role"]) for entry in denied} == {("agent", "source")}
    assert {"delete", "put"} <= {entry["verb"] for entry in denied}
    assert f"{log['head']}" in run("audit", site / "vault", "--expect", log["head"])
    batch = max((site / "vault" / "audit").iterdir())
    batch.chmod(0o600)
    batch.write_text(batch.read_text().replace('"agent"', '"other"', 1))
    run("audit", site / "vault", "--expect", log["head"], code=5)
    assert hrl.read_audit(hrl.Vault(str(site / "vault")), expected=log["head"]).findings


def test_a_maintainer_carries_out_what_a_source_may_not(site: Path, gateway: hrl.Gateway) -> None:
    run("enroll", site / "pki", "--client", "nightly", "--role", "maintainer", "--volume", "*", "--to", site / "nightly")
    with hrl.Protection(
        site / "disk", vault=hrl.Vault(f"gateway://{gateway.address}?identity={site / 'agent'}"), state=site / "state"
    ) as protection:
        for number in range(3):
            protection.wait_ordered()
            protection.write(number * 4096, b"x" * 4096)
            protection.wait_replicated()
    compact = ["compact", "--keep", "1m all; grace 1s", "--all"]
    by_source = subprocess.run(
        [*COMMAND, *compact, f"gateway://{gateway.address}?identity={site / 'agent'}"], capture_output=True, text=True
    )
    by_maintainer = subprocess.run(
        [*COMMAND, *compact, f"gateway://{gateway.address}?identity={site / 'nightly'}"], capture_output=True, text=True
    )
    assert by_maintainer.returncode == 0, by_maintainer.stderr
    assert by_source.returncode in (0, hrl_exit("denied")), by_source.stderr


def hrl_exit(kind: str) -> int:
    from hrl.cli.exits import Exit

    return int(Exit.of_kind(kind))


def test_certificates_are_renewed_requested_and_revoked(site: Path, gateway: hrl.Gateway) -> None:
    url = f"gateway://{gateway.address}?identity={site / 'agent'}"
    assert hrl.Vault(url).volumes() == []
    rights = hrl.certificate_rights(site / "agent" / "client.pem")
    assert (rights.role, rights.volumes) == ("source", ["disk"])
    run("enroll", "renew", site / "pki", "--client", "agent", "--days", 5, "--to", site / "agent")
    renewed = hrl.certificate_rights(site / "agent" / "client.pem")
    assert renewed.role == "source" and renewed.expires_ns < rights.expires_ns
    assert hrl.Vault(url).volumes() == []
    assert "expires in" in run("health", site / "agent", code=2)
    run("health", site / "pki")
    run("enroll", "renew", site / "pki", "--host", "127.0.0.1")
    run("enroll", "request", "web1", "--to", site / "web1")
    csr = site / "web1" / "request.pem"
    run("enroll", site / "pki", "--client", "web1", "--volume", "web1", "--csr", csr, "--to", site / "signed")
    assert not (site / "signed" / "client.key").exists()
    for name in ("client.pem", "authority.pem"):
        shutil.copy(site / "signed" / name, site / "web1" / name)
    assert hrl.Vault(f"gateway://{gateway.address}?identity={site / 'web1'}").volumes() == []
    run("enroll", "revoke", site / "pki", "--client", "web1", "--vault", site / "vault", "--reason", "a test")
    with pytest.raises(hrl.DeniedError):
        hrl.Vault(f"gateway://{gateway.address}?identity={site / 'web1'}")
    assert len(list((site / "vault" / "revoked").iterdir())) == 1


def test_a_certificate_that_ends_soon_is_a_finding() -> None:
    days = 86400.0
    levels = [of_expiry("of the client", left).level for left in (-1, days, 6 * days, 8 * days, 31 * days)]
    assert levels == ["bad", "bad", "bad", "warn", "note"]
