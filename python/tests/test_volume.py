"""Volumes and their buffers, threads, taps, overlays and the records of the journal."""

import array
import ctypes
import faulthandler
import io
import itertools
import os
import signal
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import need, run
from embedder import QUICK, DictDevice, DictStore
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

import hrl

SIZE = 1 << 20
BLOCK = 4096


@contextmanager
def protect(disk: Any, directory: Path, vault: hrl.Vault | None = None) -> Iterator[tuple[hrl.Protection, hrl.Vault]]:
    """Protects a device and waits for order. At the end everything captured is in the vault."""
    vault = vault or hrl.Vault(directory / "vault", create=True)
    with hrl.Protection(disk, vault=vault, state=directory / "state", volume="v", policy=QUICK) as protection:
        protection.wait_ordered()
        yield protection, vault
        protection.wait_replicated()


@pytest.fixture
def no_deadlock() -> Iterator[None]:
    """Ends a process that hangs, such as one in a deadlock with the interpreter's lock, and prints every thread's stack."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# --- write order and points ---

Step = tuple[str, int, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["bytes", "bytearray", "memoryview", "zero", "discard", "mark", "mark", "flush"]),
        st.integers(0, 400_000),
        st.integers(1, 60_000),
        st.integers(1, 255),
    ),
    min_size=1,
    max_size=40,
)


def apply(step: Step, volume: hrl.Volume, model: bytearray) -> None:
    """Applies a step to the volume and to the model."""
    what, offset, length, value = step
    data: bytes | bytearray = bytes([value]) * length
    if what == "flush":
        volume.flush()
        return
    if what == "zero":
        volume.zero(offset, length, unmap=value % 2 == 0)
        data = bytes(length)
    elif what == "discard":
        assert volume.discard(offset, length) == "zeroes"
        data = bytes(length)
    else:
        if what != "bytes":
            data = bytearray(data)
        volume.write(offset, memoryview(data) if what == "memoryview" else data, durable=value % 8 == 0)
    model[offset : offset + length] = data


@pytest.mark.parametrize("own", [False, True], ids=["hrl's device and store", "the embedder's"])
def test_every_point_matches_a_model(own: bool) -> None:
    """Promise 3: each point shows exactly what the volume held when it was taken, however that was written."""

    @settings(max_examples=15, deadline=None)
    @given(STEPS)
    def check(steps: list[Step]) -> None:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            disk = DictDevice(SIZE) if own else hrl.MemoryDevice(SIZE)
            vault = hrl.Vault(store=DictStore(), create=True) if own else None
            model = bytearray(SIZE)
            expected = {}
            with protect(disk, directory, vault) as (protection, vault):
                for step in [*steps, ("mark", 0, 0, 0)]:
                    if step[0] == "mark":
                        expected[protection.mark().id] = bytes(model)
                    elif own and step[0] == "discard":
                        assert protection.volume.discard(step[1], step[2]) == "ignored"
                    else:
                        apply(step, protection.volume, model)
                assert protection.read(0, SIZE) == model
            replica = vault.replica("v")
            assert [point.id for point in replica.points()] == list(expected)
            for point, content in expected.items():
                assert replica.view(point).read(0, SIZE) == content

    check()


# --- buffers ---


def test_a_buffer_that_changes_meanwhile_is_journaled_as_it_was_written(tmp_path: Path) -> None:
    """Promise 2: a thread changes the buffer during each write, and disk and replica are still equal."""
    size, length = 32 << 20, 1 << 20
    disk = hrl.FileDevice(tmp_path / "disk.img", create_bytes=size)
    buffer = bytearray(length)
    stop = threading.Event()

    def change() -> None:
        for value in itertools.cycle(range(256)):
            buffer[:] = bytes([value]) * length
            if stop.is_set():
                return

    thread = threading.Thread(target=change, daemon=True)
    with protect(disk, tmp_path) as (protection, vault):
        thread.start()
        for offset in range(0, size, length):
            protection.volume.write(offset, buffer)
        stop.set()
        thread.join()
        assert protection.stats().mode == "ordered"
    view = vault.replica("v").view()
    seen = set()
    for offset in range(0, size, length):
        on_disk = disk.read(offset, length)
        assert view.read(offset, length) == on_disk
        seen.add(on_disk)
    assert len(seen) > 1, "the buffer did change between the writes"


@pytest.mark.parametrize(
    "data",
    [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"0123456789")[1:9],
        memoryview(bytearray(b"0123456789"))[1:9],
        memoryview(bytearray(b"12345678")).toreadonly(),
        memoryview(b"12345678").cast("I"),
        memoryview(b"12345678").cast("B", (2, 4)),
        array.array("H", [0x3231, 0x3433, 0x3635, 0x3837]),
        (ctypes.c_ubyte * 8)(*b"12345678"),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_contiguous_buffer_is_written(data: Any) -> None:
    disk = hrl.MemoryDevice(SIZE)
    disk.write(3, data)
    assert disk.read(0, 12) == b"\0\0\0" + b"12345678" + b"\0"


def test_buffers_with_gaps_and_objects_without_a_buffer_are_refused() -> None:
    disk = hrl.MemoryDevice(SIZE)
    with pytest.raises(BufferError, match="contiguous"):
        disk.write(0, memoryview(bytes(8))[::2])
    with pytest.raises(TypeError):
        disk.write(0, "text")  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="read-only"):
        disk.readinto(0, b"12345678")
    with pytest.raises(BufferError, match="contiguous"):
        disk.readinto(0, memoryview(bytearray(8))[::2])


def test_a_buffer_may_be_resized_after_the_call() -> None:
    """Python refuses to resize a bytearray while its buffer is exported."""
    disk = hrl.MemoryDevice(SIZE)
    buffer = bytearray(8)
    disk.write(0, buffer)
    disk.readinto(0, buffer)
    with pytest.raises(hrl.HrlError):
        disk.write(SIZE, buffer)
    buffer.append(1)


def test_a_long_buffer_is_written_whole_or_not_at_all() -> None:
    size = 16 << 20
    disk = hrl.MemoryDevice(size)
    long = bytearray(os.urandom((9 << 20) + 5))
    with pytest.raises(hrl.HrlError) as caught:
        disk.write(size - len(long) + 1, long)
    assert (caught.value.kind, caught.value.offset) == ("invalid-input", size - len(long) + 1)
    assert not any(disk.read(0, size))
    disk.write(7, long)
    assert disk.read(7, len(long)) == long


def test_reading_into_a_buffer_stops_at_the_end() -> None:
    disk = hrl.MemoryDevice(SIZE)
    disk.write(SIZE - 4, b"last")
    words = array.array("I", [0, 0])
    assert disk.readinto(SIZE - 4, words) == 4
    assert words.tobytes() == b"last\0\0\0\0"
    assert disk.readinto(SIZE, words) == 0
    assert disk.readinto(SIZE + 1, words) == 0
    assert disk.readinto(0, bytearray()) == 0


def test_a_device_is_read_as_a_file() -> None:
    disk = hrl.MemoryDevice(SIZE)
    disk.write(BLOCK, b"text\n")
    with hrl.ViewFile(disk) as raw, io.BufferedReader(raw) as file:
        file.seek(BLOCK)
        assert file.readline() == b"text\n"
        words = array.array("H", [0, 0])
        raw.seek(BLOCK)
        assert raw.readinto(words) == 4
        assert words.tobytes() == b"text"
        raw.seek(SIZE + 5)
        assert raw.read(1) == b""


# --- threads ---


def test_other_threads_run_while_a_write_waits(tmp_path: Path, no_deadlock: None) -> None:
    """The write waits for a ticket, which another thread of the interpreter ends."""
    with protect(hrl.MemoryDevice(SIZE), tmp_path) as (protection, _):
        ticket = protection.tap.begin(0, BLOCK)
        done: list[int] = []

        def end() -> None:
            time.sleep(0.05)
            done.append(1)
            ticket.cancel()

        thread = threading.Thread(target=end)
        thread.start()
        protection.volume.write(0, bytearray(BLOCK))
        assert done, "the write waited"
        thread.join()


def test_threads_of_the_library_call_back_while_a_call_waits(tmp_path: Path, no_deadlock: None) -> None:
    """Threads of the library need the interpreter's lock for the caller's device and store during these calls."""
    vault = hrl.Vault(store=DictStore(), create=True)
    told: list[dict[str, str]] = []
    options: dict[str, Any] = {"state": tmp_path / "state", "volume": "v", "policy": QUICK, "on_event": told.append}
    protection = hrl.Protection(DictDevice(SIZE), vault=vault, **options)
    protection.wait_ordered()
    protection.write(0, b"x" * BLOCK)
    protection.mark()
    protection.wait_replicated()
    protection.resync()
    protection.wait_ordered()
    protection.timeline()
    protection.stop()
    assert told
    forgotten = hrl.Protection(DictDevice(SIZE), vault=vault, take_over=True, **options | {"state": tmp_path / "other"})
    del forgotten


def test_a_read_of_a_file_lets_other_threads_run(tmp_path: Path) -> None:
    size = 64 << 20
    disk = hrl.FileDevice(tmp_path / "disk.img", create_bytes=size)
    buffer = bytearray(size)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    start = time.monotonic()
    while time.monotonic() - start < 0.3:
        begin = time.monotonic()
        disk.readinto(0, buffer)
        end = time.monotonic()
        # The middle of the call: at its edges another thread may run in any case.
        middle = (begin + (end - begin) / 4, end - (end - begin) / 4)
        if any(middle[0] < at < middle[1] for at in ticks):
            break
    else:
        pytest.fail("no other thread ran in the middle of any read")
    stop.set()
    thread.join()


# --- the tap ---


def test_changes_by_a_caller_that_does_the_io_are_captured(tmp_path: Path) -> None:
    disk = hrl.MemoryDevice(SIZE)
    with protect(disk, tmp_path) as (protection, vault):
        tap = protection.tap
        assert tap.mode == "ordered"
        with tap.begin(BLOCK, 5) as ticket:
            assert (ticket.offset, ticket.length) == (BLOCK, 5)
            disk.write(BLOCK, b"hello")
            first = ticket.complete(b"hello")
        with pytest.raises(ValueError, match="ended"):
            ticket.complete(b"hello")
        with tap.begin(0, 2 * BLOCK) as ticket:
            with pytest.raises(ValueError, match="8192 bytes"):
                ticket.complete(b"short")
            ticket.cancel()
        disk.write(0, b"x" * 3 * BLOCK)
        ticket = tap.begin(0, 3 * BLOCK)
        second = ticket.complete(bytearray(b"x" * 3 * BLOCK))
        disk.zero(0, BLOCK)
        third = tap.begin(0, BLOCK).zeroed()
        fourth = tap.begin(2 * BLOCK, BLOCK).discarded(disk.discard(2 * BLOCK, BLOCK))
        assert first < second < third < fourth <= tap.last_sequence
        assert tap.flush() > fourth
        with pytest.raises(hrl.HrlError) as caught:
            tap.begin(SIZE, 1)
        assert caught.value.kind == "invalid-input"
    assert vault.replica("v").view().read(0, SIZE) == disk.read(0, SIZE)
    with pytest.raises(ValueError, match="closed"):
        tap.begin(0, 1)


def test_a_wait_for_a_ticket_ends_at_its_limit(tmp_path: Path) -> None:
    """Promise 1: two overlapping changes are never in flight together."""
    with protect(hrl.MemoryDevice(SIZE), tmp_path) as (protection, _):
        with protection.tap.begin(0, BLOCK) as ticket:
            for limit in (0, 0.05):
                with pytest.raises(hrl.UnavailableError, match="within"):
                    protection.tap.begin(100, 1, limit=limit)
            protection.tap.begin(BLOCK, BLOCK, limit=5).cancel()
            ticket.cancel()
        protection.tap.begin(100, 1, limit=0).cancel()


def ends_without_a_word(ticket: hrl.Ticket) -> None:
    with ticket:
        pass


def raises(ticket: hrl.Ticket) -> None:
    with pytest.raises(ZeroDivisionError), ticket:
        raise ZeroDivisionError


@pytest.mark.parametrize("end", [hrl.Ticket.fail, ends_without_a_word, raises, lambda ticket: None])
def test_the_range_of_a_failed_or_forgotten_ticket_is_read_again(tmp_path: Path, end: Callable[[hrl.Ticket], None]) -> None:
    """Promise 4: a range whose content is unknown is resynced."""
    disk = hrl.MemoryDevice(SIZE)
    with protect(disk, tmp_path) as (protection, vault):
        disk.write(0, b"half")
        end(protection.tap.begin(0, BLOCK))
        protection.wait_ordered()
    replica = vault.replica("v")
    assert replica.view().read(0, 4) == b"half"
    assert any(entry.unordered == "device-error" for entry in replica.timeline())


# --- waits and choices ---


def test_waits_end_at_their_limit_and_by_signals(tmp_path: Path) -> None:
    hurry = threading.Event()

    class Slow(DictDevice):
        def read(self, offset: int, length: int, /) -> Buffer:
            if not hurry.is_set():
                time.sleep(0.2)
            return super().read(offset, length)

    vault = hrl.Vault(tmp_path / "vault", create=True)
    options: dict[str, Any] = {"state": tmp_path / "state", "volume": "v", "policy": QUICK}
    with hrl.Protection(Slow(SIZE), vault=vault, **options) as protection:
        with pytest.raises(hrl.UnavailableError, match="bytes left to read"):
            protection.wait_ordered(0.1)
        with pytest.raises(hrl.NotOrderedError):
            protection.mark()
        handler = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                protection.wait_ordered()
            hurry.set()
            ticket = protection.tap.begin(SIZE - BLOCK, BLOCK)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                protection.tap.begin(SIZE - 1, 1)
            ticket.cancel()
        finally:
            signal.signal(signal.SIGALRM, handler)


def test_a_policy_is_a_mapping_of_names_and_values(tmp_path: Path) -> None:
    vault = hrl.Vault(tmp_path / "vault", create=True)
    options: dict[str, Any] = {"vault": vault, "state": tmp_path / "state", "volume": "v"}
    chosen: dict[str, str | int] = {"crash_point_interval_ms": 50, "compression": "zstd:3"}
    numbers = types.MappingProxyType(chosen)
    with hrl.Protection(hrl.MemoryDevice(SIZE), policy=numbers, **options) as protection:
        protection.wait_ordered()
        protection.write(0, b"x")
        deadline = time.monotonic() + 20
        while not protection.stats().points and time.monotonic() < deadline:
            time.sleep(0.01)
        assert protection.stats().points, "points are marked by policy"
    with pytest.raises(hrl.HrlError) as caught:
        hrl.Protection(hrl.MemoryDevice(SIZE), policy={"crash_point_interval_ms": "soon"}, **options)
    assert caught.value.kind == "invalid-input"


def test_any_device_is_served_over_nbd(tmp_path: Path) -> None:
    need("qemu-io")
    base = hrl.MemoryDevice(SIZE)
    with hrl.Overlay(base, DictDevice(SIZE)) as trial:
        with hrl.NbdServer.device(f"unix:{tmp_path}/socket", trial, "disk") as server:
            run("qemu-io", "-f", "raw", "-c", "write -P 7 4096 4096", server.uri)
            assert server.stats()[3] == BLOCK
        assert trial.read(BLOCK, BLOCK) == b"\7" * BLOCK
    assert base.read(BLOCK, BLOCK) == bytes(BLOCK)


# --- the end of handles ---


def test_a_stop_closes_the_volume_and_frees_the_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, SIZE)
    with protect(disk, tmp_path) as (protection, vault):
        volume = protection.volume
        assert volume.is_protected and not volume.closed
        volume.write(0, b"first")
    assert volume.closed
    with pytest.raises(ValueError, match="the volume is closed"):
        volume.write(0, b"x")
    with protect(disk, tmp_path, vault) as (protection, vault):
        assert protection.stats().resync_bytes_read == 0
        protection.volume.write(0, b"again")
    assert vault.replica("v").view().read(0, 5) == b"again"


def test_a_closed_handle_refuses_calls(tmp_path: Path) -> None:
    with hrl.Vault(tmp_path / "vault", create=True) as vault:
        assert vault.volumes() == []
        with pytest.raises(TypeError, match="volume="):
            hrl.Protection(hrl.MemoryDevice(SIZE), vault=vault, state=tmp_path / "state")
    with pytest.raises(ValueError, match="the vault is closed"):
        vault.volumes()
    path = tmp_path / "disk.img"
    with hrl.FileDevice(path, create_bytes=SIZE, exclusive=True) as disk, pytest.raises(hrl.FencedError):
        hrl.FileDevice(path, exclusive=True)
    assert disk.closed
    assert "closed" in repr(disk)
    with pytest.raises(ValueError, match="closed"):
        disk.read(0, 1)
    with hrl.FileDevice(tmp_path / "disk.img", read_only=True) as disk:
        assert disk.read_only
        with pytest.raises(hrl.SystemFailure) as caught:
            disk.write(0, b"x")
        assert caught.value.kind == "read-only"
    with pytest.raises(ValueError, match="direct"):
        hrl.FileDevice(tmp_path / "disk.img", direct="sometimes")  # type: ignore[arg-type]


# --- what was kept ---


def test_the_records_of_segments_replay_every_change(tmp_path: Path) -> None:
    disk = hrl.MemoryDevice(SIZE)
    with protect(disk, tmp_path) as (protection, _):
        protection.volume.write(BLOCK, b"a" * BLOCK)
        protection.volume.write(0, b"b" * 3 * BLOCK)
        protection.volume.zero(BLOCK, 100)
        protection.volume.discard(0, BLOCK)
        protection.volume.flush()
        protection.mark("here")
    found = []
    for path in sorted((tmp_path / "vault").rglob("*.hrl"), key=lambda path: path.name):
        with hrl.Segment(path) as segment:
            found += list(segment)
            assert segment.summary()["records"] == len(list(segment))
        with pytest.raises(ValueError, match="closed"):
            iter(segment)
    kinds = [(record.kind, record.offset, record.length) for record in found if "unordered" not in record.kind]
    assert kinds == [
        ("write", BLOCK, BLOCK),
        ("write", 0, 3 * BLOCK),
        ("zero", BLOCK, 100),
        ("discard", 0, BLOCK),
        ("flush", 0, 0),
        ("mark", 0, 0),
    ]
    assert [record.sequence for record in found] == sorted(record.sequence for record in found)
    assert [record.detail for record in found if record.kind == "mark"] == ["here"]
    assert all(record.time_ns > 0 for record in found)
    # Replayed in order they give the disk, and their data outlives the segment.
    copy = hrl.MemoryDevice(SIZE)
    for record in found:
        if record.data is not None:
            assert record.data.readonly and len(record.data) == record.length
            with pytest.raises(TypeError):
                record.data[0] = 1
            copy.write(record.offset, record.data)
        elif record.length:
            copy.zero(record.offset, record.length)
    assert copy.read(0, SIZE) == disk.read(0, SIZE)


def test_iterating_a_change_set_gives_its_runs(tmp_path: Path) -> None:
    with protect(hrl.MemoryDevice(SIZE), tmp_path) as (protection, vault):
        first = protection.mark()
        protection.volume.write(100, b"abc")
        protection.volume.zero(BLOCK, BLOCK)
        second = protection.mark()
    changes = vault.replica("v").changes(first.id, second.id)
    assert list(changes) == changes.runs() == [(100, 3, False), (BLOCK, BLOCK, True)]
    assert len(changes) == 2


def test_an_overlay_leaves_the_view_below_unchanged(tmp_path: Path) -> None:
    with protect(hrl.MemoryDevice(SIZE), tmp_path) as (protection, vault):
        protection.volume.write(0, b"kept" * BLOCK)
        protection.mark()
    with vault.replica("v") as replica, replica.view() as view:
        assert view.read_only and view.sequence == replica.resolve()
        with pytest.raises(hrl.HrlError) as caught:
            view.write(0, b"x")
        assert caught.value.kind == "read-only"
        with hrl.Overlay(view, tmp_path / "scratch.img") as trial:
            trial.write(2, b"tried")
            trial.flush()
            assert trial.read(0, 8) == b"ketriedt"
            assert trial.changed() == [(0, BLOCK)]
        assert view.read(0, 8) == b"keptkept"
        with pytest.raises(hrl.HrlError):
            hrl.Overlay(view, hrl.MemoryDevice(BLOCK))
    with pytest.raises(ValueError, match="closed"):
        trial.changed()
