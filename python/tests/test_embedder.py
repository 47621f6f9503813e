"""Devices, stores and applications that Python code implements, and the errors that their exceptions become."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from embedder import QUICK, DictDevice, DictStore, FullDevice

import hrl
from hrl.conformance import check_device, check_store

SIZE = 1 << 20
BLOCK = 4096


@pytest.mark.parametrize("make", [DictDevice, FullDevice, hrl.MemoryDevice])
def test_devices_keep_the_contract(make: type[DictDevice]) -> None:
    check_device(make)


def test_files_overlays_and_protected_volumes_keep_the_contract(tmp_path: Path) -> None:
    check_device(lambda size: hrl.FileDevice(tmp_path / "disk.img", create_bytes=size))
    check_device(lambda size: hrl.Overlay(hrl.MemoryDevice(size), tmp_path / "scratch.img"))
    vault = hrl.Vault(tmp_path / "vault", create=True)
    disk = hrl.MemoryDevice(SIZE)
    with hrl.Protection(disk, vault=vault, state=tmp_path / "state", volume="v", policy=QUICK) as protection:
        check_device(lambda _: protection.volume)
        protection.wait_replicated()
    assert vault.replica("v").view().read(0, SIZE) == disk.read(0, SIZE)


def test_a_store_in_a_dict_keeps_the_contract() -> None:
    check_store(DictStore)


def test_the_contract_check_finds_a_store_that_replaces_objects() -> None:
    class Replaces(DictStore):
        def put_if_absent(self, name: str, data: bytes, /) -> bool:
            self.objects[name] = data
            return True

    with pytest.raises(AssertionError, match="never replaced"):
        check_store(Replaces)


def test_the_contract_check_finds_a_device_that_loses_bytes() -> None:
    class Forgets(DictDevice):
        def write(self, offset: int, data: bytes, /, *, durable: bool) -> None:
            super().write(offset, data[:-1] + b"?", durable=durable)

    with pytest.raises(AssertionError, match="read as left"):
        check_device(Forgets)


def test_calls_of_a_volume_reach_its_device_with_their_options() -> None:
    disk = FullDevice(SIZE)
    with hrl.Volume.unprotected(disk) as volume:
        assert (volume.name, volume.block_bytes, volume.read_only) == ("the disk of a test", 4096, False)
        volume.write(1, b"abc", durable=True)
        volume.zero(0, BLOCK, unmap=False)
        assert volume.discard(0, BLOCK) == "zeroes"
        volume.flush()
        assert volume.read(5, 2) == bytes(2)
    assert disk.calls == [
        ("write", 1, 3, True),
        ("zero", 0, BLOCK, False, False),
        ("discard", 0, BLOCK),
        ("flush",),
        ("read", 5, 2),
    ]


def test_an_exception_of_a_device_is_the_cause_of_the_error() -> None:
    disk = DictDevice(SIZE)
    volume = hrl.Volume.unprotected(disk)
    defect = ZeroDivisionError("a defect of the embedder")
    disk.broken = defect
    with pytest.raises(hrl.SystemFailure, match="a defect of the embedder") as caught:
        volume.read(BLOCK, 1)
    assert caught.value.__cause__ is defect
    assert (caught.value.kind, caught.value.object) == ("io", "DictDevice")
    disk.broken = OSError(errno.ENOSPC, "no room")
    with pytest.raises(hrl.SystemFailure) as caught:
        volume.write(0, b"x")
    assert (caught.value.kind, caught.value.errno) == ("full", errno.ENOSPC)
    disk.broken = hrl.UnavailableError("the link is down", kind="unavailable")
    with pytest.raises(hrl.UnavailableError):
        volume.flush()
    disk.broken = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        volume.read(0, 1)


def test_wrong_answers_of_a_device_are_errors() -> None:
    class Short(FullDevice):
        def read(self, offset: int, length: int, /) -> bytes:
            return b"x"

        def discard(self, offset: int, length: int, /) -> str:
            return "perhaps"

    volume = hrl.Volume.unprotected(Short(SIZE))
    with pytest.raises(hrl.HrlError, match="expected 2 bytes, found 1"):
        volume.read(0, 2)
    with pytest.raises(hrl.HrlError, match="perhaps"):
        volume.discard(0, BLOCK)
    with pytest.raises(TypeError, match="has no size_bytes"):
        hrl.Volume.unprotected(object())  # type: ignore[arg-type]
    with pytest.raises(hrl.HrlError, match="divides the size"):
        hrl.Volume.unprotected(DictDevice(777))


def test_a_failed_write_leaves_replica_and_disk_equal(tmp_path: Path) -> None:
    """Promise 2 when a device fails after half of a write."""

    class Torn(DictDevice):
        def write(self, offset: int, data: bytes, /, *, durable: bool) -> None:
            if data[:1] == b"!":
                self.content[offset : offset + len(data) // 2] = data[: len(data) // 2]
                raise OSError(errno.EIO, "torn")
            super().write(offset, data, durable=durable)

    disk = Torn(SIZE)
    vault = hrl.Vault(store=DictStore(), create=True)
    with hrl.Protection(disk, vault=vault, state=tmp_path / "state", volume="v", policy=QUICK) as protection:
        protection.wait_ordered()
        protection.write(0, b"a" * 2 * BLOCK)
        with pytest.raises(hrl.SystemFailure, match="torn"):
            protection.write(0, b"!" * 2 * BLOCK)
        protection.wait_replicated()
    assert vault.replica("v").view().read(0, SIZE) == disk.content


def test_a_dead_store_never_blocks_the_writer(tmp_path: Path) -> None:
    """Promise 6; everything arrives when the store is back."""
    store = DictStore()
    vault = hrl.Vault(store=store, create=True)
    disk = hrl.MemoryDevice(SIZE)
    with hrl.Protection(disk, vault=vault, state=tmp_path / "state", volume="v", policy=QUICK) as protection:
        protection.wait_ordered()
        store.broken = RuntimeError("the cloud is gone")
        for number in range(64):
            protection.write(number * BLOCK, bytes([number + 1]) * BLOCK)
        with pytest.raises(hrl.UnavailableError):
            protection.wait_replicated(0.3)
        with pytest.raises(hrl.UnavailableError, match="the cloud is gone") as caught:
            vault.volumes()
        assert caught.value.__cause__ is store.broken
        deadline = time.monotonic() + 10
        while protection.stats().vault_available and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not protection.stats().vault_available
        store.broken = None
        protection.wait_replicated()
    assert vault.replica("v").view().read(0, SIZE) == disk.read(0, SIZE)


def test_wrong_answers_of_a_store_are_errors() -> None:
    class Forgetful(DictStore):
        def put_if_absent(self, name: str, data: bytes, /) -> bool:
            super().put_if_absent(name, data)
            return None  # type: ignore[return-value]

    with pytest.raises(hrl.HrlError, match="bool"):
        hrl.Vault(store=Forgetful(), create=True)

    class Cut(DictStore):
        def get(self, name: str, offset: int, length: int, /) -> bytes:
            return b""

    with pytest.raises(hrl.HrlError, match="bytes, found 0"):
        hrl.Vault(store=Cut(), create=True)
    with pytest.raises(TypeError, match="has no put_if_absent"):
        hrl.Vault(store=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hrl.Vault("a", store=DictStore())
    with pytest.raises(hrl.NotFoundError):
        hrl.Vault(store=DictStore()).volumes()


EXIT = """
import sys, time, hrl
from embedder import QUICK, DictDevice, DictStore

class Slow(DictStore):
    def put_if_absent(self, name, data, /):
        time.sleep(0.01)
        return super().put_if_absent(name, data)

vault = hrl.Vault(store=Slow(), create=True)
options = dict(state=sys.argv[1], volume="v", policy=QUICK, on_event=SINK)
protection = hrl.Protection(DictDevice(1 << 22), vault=vault, **options)
protection.wait_ordered()
server = hrl.NbdServer.device(f"unix:{sys.argv[1]}/socket", DictDevice(1 << 20), "disk")
ticket = protection.tap.begin(1 << 21, 1)
for number in range(200):
    protection.write(number * 4096, b"x" * 4096)
"""


@pytest.mark.parametrize("last", ["", "raise SystemExit", "cycle = [protection]; cycle.append(cycle); del protection"])
@pytest.mark.parametrize("sink", ["None", "lambda event: None"])
def test_a_program_that_never_stops_its_handles_exits_cleanly(tmp_path: Path, last: str, sink: str) -> None:
    """Threads of the library are in callbacks when the interpreter shuts down."""
    command = [sys.executable, "-P", "-c", EXIT.replace("SINK", sink) + last, str(tmp_path / "state")]
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": here}
    for _ in range(3):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(tmp_path / "state")


class Application:
    """An application whose data on disk is consistent only while it is quiesced."""

    def __init__(self, volume: hrl.Volume) -> None:
        self.volume = volume
        self.calls: list[str] = []
        self.broken: BaseException | None = None

    def quiesce(self, limit: float, /) -> None:
        self.calls.append("quiesce")
        if self.broken is not None:
            raise self.broken
        self.volume.write(0, b"consistent")

    def release(self) -> None:
        self.calls.append("release")
        self.volume.write(0, b"at work   ")


def test_an_application_is_quiesced_around_its_point(tmp_path: Path) -> None:
    """Promise 8: the application is released each time, and a failed quiesce gives no point."""
    vault = hrl.Vault(tmp_path / "vault", create=True)
    disk = hrl.MemoryDevice(SIZE)
    with hrl.Protection(disk, vault=vault, state=tmp_path / "state", volume="v", policy=QUICK) as protection:
        protection.wait_ordered()
        application = Application(protection.volume)
        point = protection.mark_quiesced(application, "nightly")
        assert point.kind == "app"
        application.broken = RuntimeError("the database says no")
        with pytest.raises(hrl.UnavailableError, match="the database says no") as caught:
            protection.mark_quiesced(application)
        assert caught.value.__cause__ is application.broken
        assert application.calls == ["quiesce", "release"] * 2
        with pytest.raises(TypeError, match="has no quiesce"):
            protection.mark_quiesced(object())  # type: ignore[arg-type]
        protection.wait_replicated()
    replica = vault.replica("v")
    assert [known.id for known in replica.points()] == [point.id]
    assert replica.view("nightly").read(0, 10) == b"consistent"
    assert replica.view().read(0, 10) == b"at work   "
