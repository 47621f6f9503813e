"""Results, points, states and events as a Python program sees them."""

import json
import logging
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from embedder import QUICK, DictDevice, DictStore

import hrl

SIZE = 1 << 20
BLOCK = 4096
PYTHON = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[hrl.Replica, hrl.RecoveryPoint, hrl.RecoveryPoint]]:
    """A replica with two points, between which a block changed from `a` to `b`."""
    directory = tmp_path_factory.mktemp("history")
    vault = hrl.Vault(directory / "vault", create=True)
    disk = hrl.MemoryDevice(SIZE)
    with hrl.Protection(disk, vault=vault, state=directory / "state", volume="v", policy=QUICK) as protection:
        protection.wait_ordered()
        protection.write(0, b"a" * BLOCK)
        first = protection.mark("first")
        protection.write(0, b"b" * BLOCK)
        second = protection.mark("second")
        protection.wait_replicated()
    yield vault.replica("v"), first, second


History = tuple[hrl.Replica, hrl.RecoveryPoint, hrl.RecoveryPoint]


# --- recovery states ---


def test_a_state_is_a_point_a_number_a_time_or_text(history: History) -> None:
    replica, first, _ = history
    marked = datetime.fromtimestamp(first.time_ns // 1_000_000_000, UTC) + timedelta(
        microseconds=first.time_ns % 1_000_000_000 // 1000 + 1
    )
    elsewhere = marked.astimezone(timezone(timedelta(hours=-5)))
    for state in (first, first.id, first.sequence, str(first.sequence), "label:first", marked, elsewhere):
        assert replica.resolve(state) == first.sequence, state
        assert replica.view(state).read(0, 1) == b"a"
        assert len(replica.changes(state, "newest")) == 1


def test_every_call_that_takes_a_state_takes_a_point(history: History, tmp_path: Path) -> None:
    replica, first, second = history
    assert replica.restore(first, tmp_path / "restored.img").sequence == first.sequence
    assert (tmp_path / "restored.img").read_bytes()[:1] == b"a"
    assert replica.changes(first, second).runs() == replica.changes(first.sequence, second.id).runs()
    assert replica.pin(first, until=datetime(2100, 1, 1, tzinfo=UTC)).point == first.id
    assert replica.record_verdict(first, "command", True).point == first.id
    replica.unpin(first)
    assert replica.begin_test("trial", first).point == first.id
    replica.end_test("trial")
    with hrl.NbdServer.replica(f"unix:{tmp_path}/socket", replica, first) as server:
        assert server.uri


def test_an_object_that_names_no_state_is_refused(history: History) -> None:
    replica, _, _ = history
    with pytest.raises(ValueError, match="time zone"):
        replica.resolve(datetime(2026, 1, 1))
    for wrong in (True, 1.5, None, b"newest"):
        with pytest.raises(TypeError, match="recovery state"):
            replica.resolve(wrong)  # type: ignore[arg-type]
    for number in (-1, 2**64):
        with pytest.raises(OverflowError):
            replica.resolve(number)


# --- points ---


def test_points_are_equal_and_hash_by_identity(history: History) -> None:
    replica, first, second = history
    again = replica.points()
    assert again == [first, second]
    assert first != second
    assert {first, second, *again} == {first, second}
    assert first != first.id
    replica.pin(first)
    assert replica.points()[0].pins
    assert replica.points()[0] == first, "what is pinned later makes no other point"
    replica.unpin(first)


def test_the_repr_of_a_point_shows_label_and_identity(history: History) -> None:
    _, first, _ = history
    assert repr(first).startswith(
        f"RecoveryPoint(label='first', id='{first.id}', kind='crash', sequence={first.sequence}, time="
    )


def test_the_repr_of_a_handle_shows_what_it_stands_for(history: History, tmp_path: Path) -> None:
    replica, first, _ = history
    assert repr(replica) == "<Replica v, 2 points>"
    assert repr(replica.view(first)) == f"<View {replica.view(first).name}, {SIZE} bytes>"
    assert repr(replica.changes(first, "newest")).endswith(f"{BLOCK} bytes>")
    with hrl.Vault(tmp_path / "vault", create=True) as vault:
        assert str(tmp_path / "vault") in repr(vault)
        with hrl.Protection(hrl.MemoryDevice(SIZE), vault=vault, state=tmp_path / "state", volume="w") as protection:
            protection.wait_ordered()
            assert re.fullmatch(r"<Protection of w, ordered, sequence \d+>", repr(protection))
            assert re.fullmatch(r"<Tap, ordered, sequence \d+>", repr(protection.tap))
            with protection.tap.begin(5, 6) as ticket:
                assert repr(ticket) == "<Ticket for 6 bytes at 5>"
                ticket.cancel()
        assert repr(protection) == "<Protection, stopped>"
    assert repr(vault) == "<Vault, closed>"


# --- results ---


def test_a_result_has_attributes_and_is_read_by_name(history: History) -> None:
    replica, _, _ = history
    report = replica.verify()
    assert report.sound and report["sound"] is True
    assert dict(report) == {**report}
    assert list(dict(report)) == ["segments", "bytes", "points", "findings", "strays", "notes", "sound"]
    assert report == replica.verify()
    with pytest.raises(KeyError, match="speed"):
        report["speed"]
    with pytest.raises(AttributeError):
        report.sound = False  # type: ignore[misc]
    assert repr(report).startswith("VerifyReport(segments=")


def test_a_result_is_written_as_json(history: History) -> None:
    replica, first, _ = history
    found = json.loads(json.dumps(replica.lifecycle(), default=dict))
    assert (found["stage"], found["branches"]) == ("protected", [])
    assert json.loads(json.dumps(first, default=dict))["label"] == "first"


def test_results_that_were_tuples_unpack_like_tuples(history: History) -> None:
    replica, first, second = history
    segments, data, stored = replica.totals
    assert replica.totals == (segments, data, stored) == tuple(replica.totals)
    assert (replica.totals[0], replica.totals[-1], len(replica.totals)) == (segments, stored, 3)
    assert replica.totals.stored_bytes == stored
    with pytest.raises(IndexError):
        replica.totals[3]
    point, why = replica.newest_good()
    assert replica.newest_good() == (point, why)
    assert point in (first, second) and why in ("checked", "newest")
    assert {name for name, _, _ in replica.point_bytes()} == {first.id, second.id}
    for offset, length, zero in replica.changes(first, second):
        assert (offset, length, zero) == (0, BLOCK, False)


def test_the_ranges_with_data_of_a_view_are_listed(history: History) -> None:
    replica, first, _ = history
    view = replica.view(first)
    assert [view.read(offset, length) for offset, length in view.data_extents()] == [b"a" * BLOCK]
    view.close()
    with pytest.raises(ValueError, match="closed"):
        view.data_extents()


def test_a_segment_in_a_vault_is_opened_by_its_name(history: History) -> None:
    replica, _, _ = history
    kinds = [record.kind for entry in replica.segments() for record in replica.open_segment(entry.object)]
    assert kinds.count("mark") == 2
    with pytest.raises(hrl.NotFoundError):
        replica.open_segment("volumes/v/absent.hrl")


def test_a_replica_is_refreshed(tmp_path: Path) -> None:
    vault = hrl.Vault(store=DictStore(), create=True)
    with hrl.Protection(DictDevice(SIZE), vault=vault, state=tmp_path / "state", volume="v", policy=QUICK) as protection:
        protection.wait_ordered()
        protection.mark("first")
        protection.wait_replicated()
        replica = vault.replica("v")
        protection.mark("second")
        protection.wait_replicated()
        assert [point.label for point in replica.points()] == ["first"]
        replica.refresh()
        assert [point.label for point in replica.points()] == ["first", "second"]
    assert vault.volume("v") == replica.info
    assert replica.retention_plan("2h all").points_dropped == []


def test_an_exception_in_a_progress_call_comes_out_of_the_work(history: History, tmp_path: Path) -> None:
    replica, first, _ = history

    def broken(done: int, total: int) -> None:
        raise ZeroDivisionError("a defect of the embedder")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        replica.restore(first, tmp_path / "restored.img", progress=broken)
    with pytest.raises(hrl.UnavailableError):
        replica.restore(first, tmp_path / "other.img", progress=lambda done, total: False)


# --- events ---


def test_events_go_to_logging_unless_a_sink_is_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hrl")
    store = DictStore()
    vault = hrl.Vault(store=store, create=True)
    with hrl.Protection(DictDevice(SIZE), vault=vault, state=tmp_path / "state", volume="v", policy=QUICK) as protection:
        protection.wait_ordered()
        store.broken = OSError("the link\n is \x1b[2Jdown")
        protection.write(0, b"x")
        with pytest.raises(hrl.UnavailableError):
            protection.wait_replicated(1)
        store.broken = None
        protection.wait_replicated()
    events = {record.hrl_event["kind"]: record for record in caplog.records if record.name == "hrl"}  # type: ignore[attr-defined]
    assert events["vault-unavailable"].levelno == logging.WARNING
    assert events["vault-available"].levelno == logging.INFO
    assert events["mode-changed"].levelno == logging.INFO
    message = events["vault-unavailable"].getMessage()
    assert message.startswith("v: ") and "the link" in message
    assert message.isprintable(), "a line that controls no terminal"
    caplog.clear()
    told: list[dict[str, str]] = []
    with hrl.Protection(
        DictDevice(SIZE), vault=vault, state=tmp_path / "other", volume="w", policy=QUICK, on_event=told.append
    ) as protection:
        protection.wait_ordered()
    assert told and not caplog.records


def test_a_wait_for_order_that_ends_says_what_is_in_the_way(tmp_path: Path) -> None:
    class Broken(DictDevice):
        def read(self, offset: int, length: int, /) -> bytes:
            raise OSError("the cable is out")

    vault = hrl.Vault(store=DictStore(), create=True)
    protection = hrl.Protection(Broken(SIZE), vault=vault, state=tmp_path / "state", volume="v", policy=QUICK)
    with pytest.raises(hrl.UnavailableError, match=r"bytes left to read; .*the cable is out"):
        protection.wait_ordered(2)


# --- the package ---


def test_the_version_is_that_of_the_package() -> None:
    assert hrl.__version__ == tomllib.loads((PYTHON / "pyproject.toml").read_text())["project"]["version"]


def test_every_name_of_the_extension_is_a_name_of_the_package() -> None:
    assert set(hrl._hrl.__all__) - {"RecordIterator", "run_watchdog"} <= set(hrl.__all__) | {"RecordIterator"}
    for name in hrl.__all__:
        assert hasattr(hrl, name)


def test_source_files_use_earlier_ones_only() -> None:
    """`lib.rs` lists the files in the order in which they build on each other."""
    listed = re.findall(r"^mod (\w+);", (PYTHON / "src" / "lib.rs").read_text(), re.MULTILINE)
    assert {f"{name}.rs" for name in listed} | {"lib.rs"} == {path.name for path in (PYTHON / "src").glob("*.rs")}
    for at, name in enumerate(listed):
        text = (PYTHON / "src" / f"{name}.rs").read_text()
        later = set(re.findall(r"\bcrate::(\w+)", text)) - set(listed[: at + 1])
        assert not later, f"{name}.rs uses {', '.join(later)}"
