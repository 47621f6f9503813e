"""Requests to the store that a publication, a start and an idle agent make: `requests.py [PUBLICATIONS]`.

A publication is a write, a point and what ships both: a segment and a version of the catalog. Counts do not depend on the
machine.
"""

import collections
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import hrl

SIZE = 1 << 20
BLOCK = 4096
IDLE_SECONDS = 10
# Nothing comes by itself.
POLICY = {"retention": "none", "crash_point_interval": "0s", "heartbeat_interval": "0s"}


class CountingStore:
    """Objects in a dict, and how often each verb was asked for."""

    name = "a dict"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.count: collections.Counter[str] = collections.Counter()

    def put_if_absent(self, name: str, data: bytes, /) -> bool:
        self.count["put"] += 1
        absent = name not in self.objects
        self.objects.setdefault(name, data)
        return absent

    def get(self, name: str, offset: int, length: int, /) -> bytes:
        self.count["get"] += 1
        return self.objects[name][offset : offset + length]

    def list(self, prefix: str, /) -> Iterable[tuple[str, int]]:
        self.count["list"] += 1
        return [(name, len(data)) for name, data in self.objects.copy().items() if name.startswith(prefix)]

    def head(self, name: str, /) -> int | None:
        self.count["head"] += 1
        data = self.objects.get(name)
        return None if data is None else len(data)

    def delete(self, name: str, /) -> None:
        self.count["delete"] += 1
        self.objects.pop(name, None)

    def taken(self) -> dict[str, int]:
        """Returns what was counted since the last call."""
        counts, self.count = self.count, collections.Counter()
        return dict(sorted(counts.items()))


def main(publications: int) -> None:
    store = CountingStore()
    vault = hrl.Vault(store=store, create=True)
    device = hrl.MemoryDevice(SIZE)
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory) / "state"

        def protect(poll: str) -> hrl.Protection:
            policy = {**POLICY, "failover_poll_interval": poll}
            return hrl.Protection(device, vault=vault, state=state, volume="v", policy=policy)

        with protect("0s") as protection:
            protection.wait_ordered()
            protection.wait_replicated()
            store.taken()
            for number in range(publications):
                protection.write(number * BLOCK % SIZE, bytes([number % 251 + 1]) * BLOCK)
                protection.mark(str(number))
                protection.wait_replicated()
            print("each publication:", {verb: round(n / publications, 3) for verb, n in store.taken().items()})
        store.taken()
        with protect("1s") as protection:
            protection.wait_ordered()
            print("a start after a clean stop:", store.taken(), protection.stats().resync_bytes_read, "bytes read again")
            time.sleep(IDLE_SECONDS)
            print(f"{IDLE_SECONDS} s with a look each second:", store.taken())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
