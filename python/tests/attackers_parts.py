"""What the attackers have in common: a protected volume, and the bytes that they are after."""

import os
from pathlib import Path

import hrl as package

MIB = 1 << 20
POLICY = {"segment_interval_ms": "20", "crash_point_interval_ms": "0", "retention": "none", "retry_interval_max_ms": "100"}
SECRET = b"the accounts of the customers, which no attacker may read. " * 64


def disk_at(path: Path) -> Path:
    """Makes an empty disk."""
    path.touch()
    os.truncate(path, MIB)
    return path


def protect(vault: package.Vault, directory: Path, volume: str = "disk", content: bytes = SECRET) -> None:
    """Protects a volume whose disk gets a content at the point `second`."""
    disk, state = disk_at(directory / f"{volume}.img"), directory / f"state-{volume}"
    with package.Protection(disk, vault=vault, state=state, volume=volume, policy=POLICY) as protection:
        protection.wait_ordered()
        protection.mark("first")
        protection.write(0, content)
        protection.mark("second")
        protection.wait_replicated()


def content_of(vault: package.Vault, volume: str = "disk", at: str = "second") -> bytes:
    """Reads a whole recovery state."""
    with vault.replica(volume).view(at) as view:
        return bytes(view.read(0, view.size_bytes))
