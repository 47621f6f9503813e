"""The network: it sees, alters and answers what goes between an agent and its gateway."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attackers_parts import POLICY, SECRET, content_of, disk_at, protect

import hrl as package

Alter = Callable[[bytes, int], bytes]


@contextlib.contextmanager
def between(address: str, alter: Alter = lambda chunk, _: chunk) -> Iterator[tuple[int, bytearray]]:
    """Carries connections to an address. Yields the port in front of it, and all that went through."""
    host, _, port = address.rpartition(":")
    seen = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            passed = 0
            while chunk := one.recv(65536):
                seen.extend(chunk)
                other.sendall(alter(chunk, passed))
                passed += len(chunk)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.close()


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """An authority, and an enrolled client."""
    package.create_authority(tmp_path / "pki", ["127.0.0.1"])
    package.enroll_client(tmp_path / "pki", "agent", volumes=["disk"], bundle=tmp_path / "agent")
    return tmp_path / "pki"


def test_what_goes_through_is_neither_read_nor_altered(tmp_path: Path, pki: Path) -> None:
    """Not even a volume without a key shows its content, and altered traffic becomes errors, never other bytes."""
    vault = str(tmp_path / "vault")
    with package.Gateway(vault, pki=pki, listen="127.0.0.1:0") as gateway:
        with between(gateway.address) as (port, seen):
            remote = package.Vault(f"gateway://127.0.0.1:{port}?identity={tmp_path / 'agent'}", create=True)
            content = SECRET + os.urandom(1 << 18)
            protect(remote, tmp_path, content=content + bytes(-len(content) % 512))
            assert content_of(remote)[: len(content)] == content
            assert len(seen) > 10_000 and SECRET[:24] not in seen and b"second" not in seen

        def flip(chunk: bytes, passed: int) -> bytes:
            # Handshakes are left alone, so that it is the content that is altered.
            if passed < 4000:
                return chunk
            return chunk[:-1] + bytes([chunk[-1] ^ 1])

        with between(gateway.address, flip) as (port, _):
            altered = package.Vault(f"gateway://127.0.0.1:{port}?identity={tmp_path / 'agent'}")
            with pytest.raises(package.HrlError):
                for _ in range(20):
                    assert content_of(altered)[: len(content)] == content
        gateway.stop()
    assert content_of(package.Vault(vault))[: len(SECRET)] == SECRET


def test_an_impostor_is_no_gateway(tmp_path: Path, pki: Path) -> None:
    """A server whose certificate another authority signed gets nothing of the volume."""
    package.create_authority(tmp_path / "other", ["127.0.0.1"])
    package.enroll_client(tmp_path / "other", "agent", volumes=["disk"], bundle=tmp_path / "other-agent")
    disk_at(tmp_path / "disk.img")
    with package.Gateway(str(tmp_path / "vault"), pki=tmp_path / "other", listen="127.0.0.1:0") as impostor:
        with pytest.raises(package.HrlError) as refused:
            vault = package.Vault(f"gateway://{impostor.address}?identity={tmp_path / 'agent'}", create=True)
            package.Protection(tmp_path / "disk.img", vault=vault, state=tmp_path / "state", volume="disk", policy=POLICY)
        assert "certificate" in str(refused.value).lower(), refused.value
        impostor.stop()
    assert not list((tmp_path / "vault" / "volumes").glob("*"))


def test_without_a_certificate_there_is_no_request(tmp_path: Path, pki: Path) -> None:
    """The list of volumes, which every enrolled client gets, is no secret from them, and is one from everybody else."""
    with package.Gateway(str(tmp_path / "vault"), pki=pki, listen="127.0.0.1:0") as gateway:
        host, _, port = gateway.address.rpartition(":")
        trust = ssl.create_default_context(cafile=str(pki / "authority.pem"))
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            socket.create_connection((host, int(port)), timeout=20) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.sendall(b"GET /v1/list?prefix= HTTP/1.1\r\nhost: gateway\r\n\r\n")
            if not secured.recv(1):
                raise ConnectionResetError("it closed the connection")
        gateway.stop()
