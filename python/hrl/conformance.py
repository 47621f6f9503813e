"""Tests of the contracts of `BlockDevice` and `Store`, to run on your own classes in any test framework."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from hrl._hrl import Device, Vault, Volume
from hrl.errors import HrlError
from hrl.protocols import BlockDevice, Store

SIZE_BYTES = 1 << 20
STEPS = 300
RACERS = 8


def check_device(make: Callable[[int], Device | BlockDevice]) -> None:
    """Checks a device against a model. `make` is called with a size in bytes, and returns a fresh device of zeroes.

    Raises `AssertionError`, which names the part of the contract that is broken.
    """
    device = Volume.unprotected(make(SIZE_BYTES))
    check_limits(device)
    require(device.size_bytes == SIZE_BYTES, f"the size is {SIZE_BYTES}, as was asked")
    require(device.read(0, SIZE_BYTES) == bytes(SIZE_BYTES), "a fresh device reads as zeroes")
    choose = random.Random(1)
    model = bytearray(SIZE_BYTES)
    for step in range(STEPS):
        length = choose.randrange(1, 20_000)
        offset = choose.randrange(SIZE_BYTES - length)
        if choose.randrange(2):
            offset, length = offset & ~4095, (length + 4095) & ~4095
        part = slice(offset, offset + length)
        durable = choose.randrange(8) == 0
        match choose.choice(["write", "write", "zero", "discard", "flush"]):
            case "write":
                model[part] = choose.randbytes(length)
                device.write(offset, model[part], durable=durable)
            case "zero":
                model[part] = bytes(length)
                device.zero(offset, length, unmap=bool(choose.randrange(2)), durable=durable)
            case "discard":
                left = device.discard(offset, length)
                if left == "zeroes":
                    model[part] = bytes(length)
                elif left == "undefined":
                    device.write(offset, model[part])
            case _:
                device.flush()
        require(device.read(offset, length) == model[part], f"step {step}: {length} bytes at {offset} read as left")
    require(device.read(0, SIZE_BYTES) == model, "nothing outside the changed ranges changed")
    check_threads(device)


def check_limits(device: Device) -> None:
    """Checks that a request past the end is refused."""
    for offset in (SIZE_BYTES - 1023, SIZE_BYTES, 2**63):
        for attempt in (lambda at: device.read(at, 1024), lambda at: device.write(at, bytes(1024))):
            try:
                attempt(offset)
            except HrlError as error:
                require(error.kind == "invalid-input", f"a request past the end is invalid-input, not {error.kind}")
            else:
                raise AssertionError(f"a request at {offset} reaches past the end and succeeds")


def check_threads(device: Device) -> None:
    """Checks that threads which write neighbouring parts of a block do not undo each other's writes."""
    part_bytes, rounds = 100, 40

    def write(thread: int) -> None:
        for number in range(rounds):
            device.write((number * RACERS + thread) * part_bytes, bytes([thread + 1]) * part_bytes)

    run_together(write)
    found = device.read(0, rounds * RACERS * part_bytes)
    expected = b"".join(bytes([thread + 1]) * part_bytes for thread in range(RACERS)) * rounds
    require(found == expected, "neighbouring writes at once all stay")


def check_store(make: Callable[[], Store]) -> None:
    """Checks stores, and that one can hold a vault. `make` returns a fresh, empty store.

    Raises `AssertionError`, which names the part of the contract that is broken.
    """
    store = make()
    require(list(store.list("")) == [], "a fresh store is empty")
    require(store.put_if_absent("a/one", b"first") is True, "a new object is created")
    require(store.put_if_absent("a/one", b"other") is False, "an object is never replaced")
    require(store.put_if_absent("a/two", b"") is True, "an empty object is one")
    require(bytes(store.get("a/one", 0, 5)) == b"first", "an object never changes")
    require(bytes(store.get("a/one", 1, 2)) == b"ir", "a range is given")
    require(sorted(store.list("a/")) == [("a/one", 5), ("a/two", 0)], "objects are listed with their sizes")
    require(sorted(store.list("a/t")) == [("a/two", 0)], "a prefix may end within a name")
    require(store.head("a/one") == 5 and store.head("a/three") is None, "head tells size and absence")
    try:
        store.get("a/three", 0, 1)
    except (KeyError, FileNotFoundError):
        pass
    else:
        raise AssertionError("an absent object is an error")
    store.delete("a/one")
    require(store.head("a/one") is None, "a deleted object is absent")
    require(store.put_if_absent("a/one", b"new") is True, "a name can be used again after its object is deleted")
    check_race(store)
    Vault(store=make(), create=True)


def check_race(store: Store) -> None:
    """Checks that of several puts of one name exactly one creates the object, whose bytes all then read."""
    winners: list[int] = []

    def put(racer: int) -> None:
        if store.put_if_absent("race", bytes([racer]) * 4096):
            winners.append(racer)

    run_together(put)
    require(len(winners) == 1, f"one of {RACERS} creates the object, and {len(winners)} were told so")
    require(bytes(store.get("race", 0, 4096)) == bytes(winners) * 4096, "the object is that of the one who created it")


def run_together(work: Callable[[int], None]) -> None:
    """Runs `work` in several threads, and raises an exception that one of them raised."""
    raised: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def require(holds: bool, contract: str) -> None:
    """Raises `AssertionError` unless a part of the contract is kept."""
    if not holds:
        raise AssertionError(contract)
