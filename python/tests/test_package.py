"""A volume's life through the classes of the package, in one process."""

import errno
import hashlib
import io
import os
import pickle
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import DISK_BYTES
from hypothesis import given, settings
from hypothesis import strategies as st

import hrl
from hrl.cli.exits import Exit
from hrl.errors import BY_KIND

BLOCK = 4096
QUICK = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "region_bytes": "65536"}


def protect(directory: Path, vault: hrl.Vault, **options: Any) -> hrl.Protection:
    """Protects a disk in a directory, which is created unless it exists."""
    disk = directory / "disk.img"
    if not disk.exists():
        disk.touch()
        os.truncate(disk, DISK_BYTES)
    return hrl.Protection(disk, vault=vault, state=directory / "state", volume="v", policy=QUICK, **options)


def test_every_point_is_a_prefix(tmp_path: Path) -> None:
    """Promise 3, seen through views, restores and change sets."""
    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    with protect(tmp_path, vault) as protection:
        protection.wait_ordered()
        protection.write(0, b"a" * BLOCK)
        first = protection.mark("first")
        protection.write(0, b"b" * BLOCK)
        protection.write(1 << 20, b"c" * 2 * BLOCK)
        second = protection.mark("second")
        assert protection.read(0, BLOCK) == b"b" * BLOCK
        protection.wait_replicated()
        assert protection.stats().mode == "ordered"
    replica = vault.replica("v")
    assert [point.label for point in replica.points()] == ["first", "second"]
    assert replica.view(first.id).read(0, BLOCK) == b"a" * BLOCK
    assert replica.view(first.id).read(1 << 20, BLOCK) == bytes(BLOCK)
    assert replica.view("label:second").read(0, BLOCK) == b"b" * BLOCK
    assert replica.changes(first.id, second.id).runs() == [(0, BLOCK, False), (1 << 20, 2 * BLOCK, False)]
    restored = tmp_path / "restored.img"
    seen: list[tuple[int, int]] = []
    replica.restore(second.id, restored, progress=lambda done, total: seen.append((done, total)))
    assert restored.read_bytes() == (tmp_path / "disk.img").read_bytes()
    assert seen and seen[-1][0] <= seen[-1][1]
    assert replica.verify()["sound"]


def test_a_stopped_protection_refuses_calls_and_may_be_stopped_again(tmp_path: Path) -> None:
    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    protection = protect(tmp_path, vault)
    protection.stop()
    protection.stop()
    with pytest.raises(ValueError, match="stopped"):
        protection.mark()


def test_events_reach_the_callback(tmp_path: Path) -> None:
    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    told: list[dict[str, str]] = []
    with protect(tmp_path, vault, on_event=told.append) as protection:
        protection.wait_ordered()
        protection.mark("one")
        protection.wait_replicated()
    assert told
    for event in told:
        more = {"mode", "cause"} if event["kind"] == "mode-changed" else set()
        assert set(event) == {"time", "volume", "kind", "message"} | more
    assert [event["mode"] for event in told if event["kind"] == "mode-changed"][-1] == "ordered"


def test_an_exception_in_an_event_callback_does_not_disturb_capture(tmp_path: Path) -> None:
    def broken(_: dict[str, str]) -> None:
        raise RuntimeError("a defect of the embedder")

    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    with pytest.MonkeyPatch.context() as patch:
        lost: list[Any] = []
        patch.setattr("sys.unraisablehook", lost.append)
        with protect(tmp_path, vault, on_event=broken) as protection:
            protection.wait_ordered()
            protection.write(0, b"x" * BLOCK)
            protection.mark()
            protection.wait_replicated()
    assert lost, "the exceptions are reported"
    assert vault.replica("v").view().read(0, BLOCK) == b"x" * BLOCK


def test_an_error_names_kind_operation_and_object(tmp_path: Path) -> None:
    with pytest.raises(hrl.HrlError) as caught:
        hrl.Vault(str(tmp_path / "absent"))
    assert caught.value.kind == "not-found"
    assert caught.value.operation
    assert "absent" in str(caught.value)
    with pytest.raises(hrl.HrlError) as caught:
        hrl.Vault("ftp://host/vault")
    assert caught.value.kind == "invalid-input"
    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    (tmp_path / "disk.img").write_bytes(bytes(BLOCK))
    with pytest.raises(hrl.HrlError) as caught:
        hrl.Protection(tmp_path / "disk.img", vault=vault, state=tmp_path / "state", policy={"speed": "9"})
    assert caught.value.kind == "invalid-input"
    assert "speed" in str(caught.value)


def test_an_error_of_the_operating_system_is_also_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        hrl.Vault(str(tmp_path / "absent"))
    assert isinstance(caught.value, hrl.NotFoundError)
    hrl.Vault(str(tmp_path / "vault"), create=True)
    with pytest.raises(OSError) as failed:
        hrl.Vault(str(tmp_path / "vault"), key_file=tmp_path)
    assert isinstance(failed.value, hrl.SystemFailure)
    assert failed.value.errno == errno.EISDIR
    assert str(tmp_path) in str(failed.value)


def test_an_error_survives_pickling() -> None:
    error = hrl.CorruptError("bad bytes", kind="corrupt", object="a.hrl", offset=7)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.kind, again.object, again.offset) == (hrl.CorruptError, "corrupt", "a.hrl", 7)


def test_each_kind_has_an_exit_code_and_a_class() -> None:
    assert all(Exit.of_kind(kind).kind == kind for kind in BY_KIND)
    for kind, known in BY_KIND.items():
        assert isinstance(known("text", kind=kind), hrl.HrlError)


def test_lengths_of_time_are_read_in_one_way_everywhere(tmp_path: Path) -> None:
    assert hrl.parse_duration("1.5h") == hrl.parse_duration("90", bare="m") == timedelta(minutes=90)
    for text, bare in (("90", None), ("soon", "s"), ("-1s", "s"), ("1s", "fortnight")):
        with pytest.raises(hrl.HrlError):
            hrl.parse_duration(text, bare=bare)
    options: dict[str, Any] = {
        "volume": "disk",
        "vault": hrl.Vault(tmp_path / "vault", create=True),
        "state": tmp_path / "state",
    }
    with pytest.raises(hrl.HrlError, match="catalog_interval: expected 0s to 1h, found 2h"):
        hrl.Protection(hrl.MemoryDevice(1 << 20), policy={"catalog_interval": "2h"}, **options)


def test_a_disk_is_protected_by_one_agent_at_a_time(tmp_path: Path) -> None:
    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    with protect(tmp_path, vault), pytest.raises(hrl.HrlError):
        protect(tmp_path, vault)


def test_an_encrypted_volume_is_unreadable_without_its_key(tmp_path: Path) -> None:
    """Promise 10: nothing is readable without the key, or with another one."""
    right, wrong = tmp_path / "right.key", tmp_path / "wrong.key"
    for key in (right, wrong):
        key.write_text(hrl.generate_key())
        key.chmod(0o600)
    secret = b"the secret of this test " * 200
    secret = secret[:BLOCK]
    vault = hrl.Vault(str(tmp_path / "vault"), key_file=right, create=True)
    with protect(tmp_path, vault) as protection:
        protection.wait_ordered()
        protection.write(0, secret)
        protection.mark()
        protection.wait_replicated()
    assert vault.replica("v").view().read(0, BLOCK) == secret
    for key_file in (None, wrong):
        with pytest.raises(hrl.HrlError) as caught:
            hrl.Vault(str(tmp_path / "vault"), key_file=key_file).replica("v").view().read(0, BLOCK)
        assert caught.value.kind == "wrong-key"
    for stored in (tmp_path / "vault").rglob("*"):
        assert not stored.is_file() or secret[:24] not in stored.read_bytes()


def test_requests_past_the_end_are_errors(tmp_path: Path) -> None:
    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    with protect(tmp_path, vault) as protection:
        protection.wait_ordered()
        protection.mark()
        protection.wait_replicated()
        with pytest.raises((hrl.HrlError, ValueError)):
            protection.read(DISK_BYTES - 1, BLOCK)
        with pytest.raises((hrl.HrlError, OverflowError)):
            protection.write(2**64 - 1, b"x" * BLOCK)
    view = vault.replica("v").view()
    with pytest.raises((hrl.HrlError, ValueError)):
        view.read(0, DISK_BYTES + 1)


def test_a_view_is_read_as_a_file(tmp_path: Path) -> None:
    vault = hrl.Vault(str(tmp_path / "vault"), create=True)
    with protect(tmp_path, vault) as protection:
        protection.wait_ordered()
        protection.write(DISK_BYTES - BLOCK, b"end!" * (BLOCK // 4))
        protection.mark()
        protection.wait_replicated()
    with hrl.ViewFile(vault.replica("v").view()) as raw, io.BufferedReader(raw) as file:
        assert file.seek(-6, os.SEEK_END) == DISK_BYTES - 6
        assert file.read() == b"d!end!"
        assert file.read() == b""
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").digest() == digest(tmp_path / "disk.img")
        with pytest.raises(ValueError):
            raw.seek(-1)
    with pytest.raises(ValueError):
        raw.tell()


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@st.composite
def writes(draw: st.DrawFn) -> tuple[int, bytes]:
    """An aligned write in the first MiB, so that writes overlap."""
    offset = draw(st.integers(0, 250)) * BLOCK
    return offset, bytes([draw(st.integers(0, 255))]) * (draw(st.integers(1, 5)) * BLOCK)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.one_of(writes(), st.just(None)), min_size=1, max_size=40))
def test_the_view_of_each_point_matches_a_model(steps: list[tuple[int, bytes] | None]) -> None:
    """Promise 3: each point shows exactly what the volume held when it was taken."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        vault = hrl.Vault(str(directory / "vault"), create=True)
        model = bytearray(2 << 20)
        expected = {}
        with protect(directory, vault) as protection:
            protection.wait_ordered()
            for step in [*steps, None]:
                if step is None:
                    expected[protection.mark().id] = bytes(model)
                else:
                    offset, data = step
                    protection.write(offset, data)
                    model[offset : offset + len(data)] = data
            protection.wait_replicated()
        replica = vault.replica("v")
        assert [point.id for point in replica.points()] == list(expected)
        for point, content in expected.items():
            assert replica.view(point).read(0, len(content)) == content
        everything = replica.changes("0", "newest")
        untouched = bytearray(b"\1" * len(model))
        for offset, length, _ in everything.runs():
            untouched[offset : offset + length] = bytes(length)
        assert all(not model[i] for i, flag in enumerate(untouched) if flag), "what is not listed never changed"
