"""What TLS costs an NBD client: nbdcopy of 512 MiB from and to a disk in memory, with TLS and without in turns.

Needs the installed package and nbdcopy (Debian's libnbd-bin): `.venv/bin/python benches/nbd_tls.py`.
"""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import hrl

MIB = 1 << 20
SIZE_MIB = 512
ROUNDS = 5


def speed(*command: str) -> float:
    """MiB a second of a copy of the whole disk."""
    began = time.monotonic()
    subprocess.run(command, check=True)
    return SIZE_MIB / (time.monotonic() - began)


def main() -> None:
    """Prints the medians, the spread and the ratio."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        hrl.create_authority(directory / "pki", ["localhost"])
        hrl.enroll_client(directory / "pki", "agent", volumes=["disk"], bundle=directory / "agent")
        disk = hrl.MemoryDevice(SIZE_MIB * MIB)
        noise = os.urandom(MIB)
        for number in range(SIZE_MIB):
            disk.write(number * MIB, noise)
        source = directory / "source"
        source.write_bytes(noise * SIZE_MIB)
        address = "tcp:localhost:0"
        with (
            hrl.NbdServer.device(address, disk, "disk") as plain,
            hrl.NbdServer.device(address, disk, "disk", tls=directory / "pki") as secured,
        ):
            uris = {"plain": plain.uri, "TLS": f"{secured.uri}?tls-certificates={directory / 'agent'}"}
            for what in ("read", "write"):
                found: dict[str, list[float]] = {kind: [] for kind in uris}
                for _ in range(ROUNDS):
                    for kind, uri in uris.items():
                        ends = (uri, "null:") if what == "read" else (str(source), uri)
                        found[kind].append(speed("nbdcopy", "--connections=1", *ends))
                for kind, speeds in found.items():
                    print(f"{what} {kind}: {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) MiB/s")
                print(f"{what}: ratio {statistics.median(found['TLS']) / statistics.median(found['plain']):.2f}")


if __name__ == "__main__":
    main()
