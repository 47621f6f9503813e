"""The other tenant: a client of the same gateway with a certificate of its own, and requests of its own making."""

import http.client
import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attackers_parts import SECRET, content_of, disk_at, protect

import hrl as package

Ask = Callable[..., tuple[int, bytes]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, package.Gateway, Ask]]:
    """A gateway with the volume of a victim, and the requests of a client that is enrolled for another volume."""
    pki = tmp_path / "pki"
    package.create_authority(pki, ["127.0.0.1"])
    package.enroll_client(pki, "victim", volumes=["disk"], bundle=tmp_path / "victim")
    package.enroll_client(pki, "tenant", volumes=["other"], bundle=tmp_path / "tenant")
    with package.Gateway(str(tmp_path / "vault"), pki=pki, listen="127.0.0.1:0") as gateway:
        vault = package.Vault(f"gateway://{gateway.address}?identity={tmp_path / 'victim'}", create=True)
        protect(vault, tmp_path)
        context = ssl.create_default_context(cafile=str(pki / "authority.pem"))
        context.load_cert_chain(tmp_path / "tenant" / "client.pem", tmp_path / "tenant" / "client.key")

        def ask(method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
            host, _, port = gateway.address.rpartition(":")
            connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
            connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()

        yield tmp_path, gateway, ask
        gateway.stop()


def objects_in(vault: Path) -> dict[str, bytes]:
    """Every object of a vault with its content."""
    return {str(path.relative_to(vault)): path.read_bytes() for path in vault.rglob("*") if path.is_file()}


def test_no_request_reaches_the_volume_of_another(site: tuple[Path, package.Gateway, Ask]) -> None:
    directory, gateway, ask = site
    vault = directory / "vault"
    before = objects_in(vault)
    names = [name for name in before if name.startswith("volumes/disk/")]
    assert len(names) > 3
    for name in names:
        for method, headers in (
            ("GET", {"range": "bytes=0-15"}),
            ("HEAD", {}),
            ("DELETE", {}),
            ("PUT", {"if_none_match": "*"}),
        ):
            status, body = ask(method, f"/v1/objects/{name}", b"forged" if method == "PUT" else b"", **headers)
            assert status in (403, 404), f"{method} {name}: {status}"
            assert SECRET[:24] not in body
    for target in (
        "volumes/disk/../other/x",
        "volumes/other/../disk/record",
        "volumes//disk/x",
        "../vault",
        "plans/r/000001",
    ):
        for method in ("PUT", "DELETE"):
            assert ask(method, f"/v1/objects/{target}", b"forged", if_none_match="*")[0] >= 400, f"{method} {target}"
    assert (
        ask("GET", "/v1/list?prefix=volumes/disk/")[0] in (403, 404)
        or b"disk" not in ask("GET", "/v1/list?prefix=volumes/disk/")[1]
    )
    assert ask("POST", "/v1/delete", "\n".join(names).encode())[0] >= 400
    assert objects_in(vault) == before
    remote = package.Vault(f"gateway://{gateway.address}?identity={directory / 'victim'}")
    assert content_of(remote)[: len(SECRET)] == SECRET


def test_the_library_refuses_another_volume_too(site: tuple[Path, package.Gateway, Ask]) -> None:
    directory, gateway, _ = site
    remote = package.Vault(f"gateway://{gateway.address}?identity={directory / 'tenant'}")
    with pytest.raises(package.HrlError):
        remote.replica("disk")
    disk = disk_at(directory / "tenant.img")
    with pytest.raises(package.HrlError):
        package.Protection(disk, vault=remote, state=directory / "state", volume="disk", take_over=True)
    assert content_of(package.Vault(str(directory / "vault")))[: len(SECRET)] == SECRET


def test_a_client_joins_no_group_that_does_not_list_it(site: tuple[Path, package.Gateway, Ask]) -> None:
    """A group waits for its members, so an uninvited one stopped every point of the others."""
    directory, gateway, _ = site
    own = package.Vault(f"gateway://{gateway.address}?identity={directory / 'tenant'}")
    disk, state = disk_at(directory / "own.img"), directory / "own-state"
    with (
        package.GroupCoordinator(
            "shop", state=directory / "group", pki=directory / "pki", listen="127.0.0.1:0", members=["disk"]
        ) as coordinator,
        package.Protection(disk, vault=own, state=state, volume="other") as protection,
    ):
        protection.wait_ordered()
        port = coordinator.address.rpartition(":")[2]
        member = protection.join_group("shop", [f"127.0.0.1:{port}"], identity=directory / "tenant")
        with pytest.raises(package.UnavailableError, match="list of members"):
            member.wait_connected(2)
        assert coordinator.status().members == []
        member.close()


def test_its_requests_cost_the_others_no_service(site: tuple[Path, package.Gateway, Ask]) -> None:
    """Requests that are refused, cut short or endless leave the gateway as it was for others."""
    directory, gateway, ask = site
    for _ in range(50):
        ask("GET", "/v1/objects/" + "x" * 200)
    assert ask("PUT", "/v1/objects/volumes/other/record", os.urandom(1 << 16), if_none_match="*")[0] in (
        201,
        200,
        400,
        403,
        409,
    )
    began = time.monotonic()
    remote = package.Vault(f"gateway://{gateway.address}?identity={directory / 'victim'}")
    assert content_of(remote)[: len(SECRET)] == SECRET
    assert time.monotonic() - began < 10
