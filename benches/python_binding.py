"""What a write costs from Python: `make bench-python`.

4 KiB writes at random offsets into a disk in memory, one thread, against a method in Python with the same signature that
does nothing: no binding can be faster than the call. The cases take turns, so that what the machine does meanwhile strikes
all of them; the processor time of a write, in the last column, is what is left when it does nothing else.

A burst is smaller than the memory budget of the capture queue, and the journal is given time to drain it before the next:
what is measured is what the writer waits for. The sustained case never pauses; it tells in which mode it ended, because the
journal, on the other processor, may not follow.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hrl

DISK_BYTES = 64 << 20
BLOCK = 4096
BURST = 12_000
ROUNDS = 15
SUSTAINED = 400_000


class Nothing:
    """The same call, without any work."""

    def write(self, offset: int, data: bytes | bytearray, *, durable: bool = False) -> None:
        pass


Write = Callable[[int, bytes | bytearray], None]


def burst(write: Write, data: bytes | bytearray, offsets: list[int]) -> tuple[float, float]:
    """Calls a second, and microseconds of this thread's processor time for each."""
    start, start_processor = time.perf_counter(), time.thread_time()
    for offset in offsets:
        write(offset, data)
    processor = time.thread_time() - start_processor
    return len(offsets) / (time.perf_counter() - start), processor / len(offsets) * 1e6


def main() -> None:
    choose = random.Random(1)
    offsets = [choose.randrange(DISK_BYTES // BLOCK) * BLOCK for _ in range(BURST)]
    data = choose.randbytes(BLOCK // 2) + bytes(BLOCK // 2)
    disks = [hrl.MemoryDevice(DISK_BYTES) for _ in range(2)]
    for disk in disks:
        disk.write(0, bytes(DISK_BYTES - 1) + b"x")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        vault = hrl.Vault(Path(name) / "vault", create=True)
        policy = {"crash_point_interval_ms": "0"}
        state = Path(name) / "state"
        with hrl.Protection(disks[1], vault=vault, state=state, volume="v", policy=policy) as protection:
            protection.wait_ordered()
            volume = protection.volume
            plain = hrl.Volume.unprotected(disks[0])
            cases: list[tuple[str, Write, bytes | bytearray]] = [
                ("a call that does nothing", Nothing().write, data),
                ("protection off, no bytes", plain.write, b""),
                ("protection off, bytes", plain.write, data),
                ("protection off, bytearray", plain.write, bytearray(data)),
                ("protection on, bytes", volume.write, data),
                ("protection on, bytearray", volume.write, bytearray(data)),
            ]
            found: dict[str, list[tuple[float, float]]] = {label: [] for label, _, _ in cases}
            for _ in range(ROUNDS):
                for label, write, content in cases:
                    found[label].append(burst(write, content, offsets))
                    protection.wait_replicated()
            assert protection.stats().mode == "ordered"
            print(f"{'case':<28} {'writes a second, median (lowest to highest)':<46} processor µs")
            for label, measured in found.items():
                rates = [rate for rate, _ in measured]
                spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
                print(f"{label:<28} {spread:<46} {statistics.median(time for _, time in measured):.2f}")
            rate, processor = burst(volume.write, data, offsets * (SUSTAINED // BURST))
            mode = protection.stats().mode
            print(f"{'protection on, sustained':<28} {f'{rate:,.0f}, ended {mode}':<46} {processor:.2f}")
            protection.wait_replicated()


main()
