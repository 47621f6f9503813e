"""The product as a process of its own, so that it can be killed: a disk served over NBD, protected or not.

Takes its settings as JSON, prints the address, then answers requests, one a line: `replicated`, `stats`, `mark
LABEL`, `stop`.
"""

import json
import sys
import time
from pathlib import Path

import hrl

LIMIT_SECONDS = 600.0


def main() -> None:
    """Serves until `stop` or the end of the input."""
    settings = json.loads(sys.argv[1])
    device = hrl.FileDevice(settings["disk"], direct="always" if settings["direct"] else "never")
    address = f"unix:{settings['socket']}"
    if settings["content"] is None:
        with hrl.NbdServer.device(address, hrl.Volume.unprotected(device), "disk") as server:
            print(json.dumps(server.uri), flush=True)
            sys.stdin.read()
        return
    home = Path(settings["home"])
    vault = hrl.Vault(home / "vault", create=True)
    policy = {"content": settings["content"], **settings["policy"]}
    with (
        hrl.Protection(device, vault=vault, state=home / "state", volume="disk", policy=policy) as protection,
        hrl.NbdServer.protected(address, protection, "disk") as server,
    ):
        print(json.dumps(server.uri), flush=True)
        for line in sys.stdin:
            request, _, label = line.strip().partition(" ")
            if request == "stop":
                break
            print(json.dumps(answer(protection, request, label)), flush=True)


def answer(protection: hrl.Protection, request: str, label: str) -> object:
    """What a request is answered."""
    if request == "replicated":
        protection.wait_ordered(LIMIT_SECONDS)
        return protection.wait_replicated(LIMIT_SECONDS)
    if request == "settled":
        protection.wait_replicated(LIMIT_SECONDS)
        until = time.monotonic() + LIMIT_SECONDS
        while protection.stats().marked_regions and time.monotonic() < until:
            time.sleep(0.05)
        return protection.stats().marked_regions
    if request == "mark":
        return protection.mark(label).sequence
    stats = protection.stats()
    return {
        "mode": stats.mode,
        "resync_bytes_read": stats.resync_bytes_read,
        "bytes_captured": stats.bytes_captured,
        "bytes_stored": stats.bytes_stored,
    }


if __name__ == "__main__":
    main()
