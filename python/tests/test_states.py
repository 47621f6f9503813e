"""Which state of a volume a text means: labels first, and nothing is read as something else without a word."""

import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from conftest import hrl, hrl_json
from hypothesis import given
from hypothesis import strategies as st

import hrl as package
from hrl.cli.exits import Exit, Refused
from hrl.cli.states import state_of
from hrl.cli.times import has_zone, instant, is_rfc3339, problem_of, time_option

LABELS = ("a", "3", "1003", "2026-11-21", "2026-11-21T09:30:00Z", "newest", "[/x]", "deadbeef", "twice", "twice")


def replica_of(*labels: str) -> Any:
    """A replica of which only the points are asked for."""
    points = [
        SimpleNamespace(id=f"{n:04x}" * 8, group=None, label=label, sequence=10 * n) for n, label in enumerate(labels, 1)
    ]
    return cast(Any, SimpleNamespace(info={"name": "v"}, points=lambda: points))


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault whose labels look like something else. The point of label n holds n + 1 in its first byte."""
    directory = tmp_path_factory.mktemp("labels")
    opened = package.Vault(directory / "vault", create=True)
    policy = {"segment_interval_ms": "50", "crash_point_interval_ms": "0"}
    disk = package.MemoryDevice(1 << 20)
    with package.Protection(disk, vault=opened, state=directory / "s", volume="db", policy=policy) as protection:
        protection.wait_ordered()
        for number, label in enumerate(LABELS):
            protection.write(0, bytes([number + 1]) * 4096)
            protection.mark(label)
        protection.wait_replicated()
    return directory / "vault"


@pytest.mark.parametrize("label", [label for label in dict.fromkeys(LABELS) if label != "newest"])
def test_a_label_that_exists_wins_in_every_command(vault: Path, tmp_path: Path, label: str) -> None:
    number = len(LABELS) - LABELS[::-1].index(label)
    hrl("restore", vault, "db", "--at", label, "--to", tmp_path / "image")
    assert (tmp_path / "image").read_bytes()[0] == number
    point = next(p for p in reversed(hrl_json("points", vault)) if p["label"] == label)
    assert hrl_json("changes", vault, "db", "--from", label, "--to", label)["to"] == point["sequence"]
    assert hrl_json("pin", vault, "db", label, "--until", "1d")["point"] == point["id"]
    hrl("unpin", vault, "db", label)
    checked = hrl_json("verify", vault, "db", "--at", label, "--command", "true", "--no-record")["checks"]
    assert checked[0]["point"] == point["id"]


def test_what_else_was_meant_has_a_form_of_its_own(vault: Path, tmp_path: Path) -> None:
    to = ["--to", tmp_path / "image", "--overwrite"]
    assert hrl_json("restore", vault, "db", "--at", "sequence:3", *to)["sequence"] == 3
    newest = hrl_json("restore", vault, "db", *to)["sequence"]
    assert newest == hrl_json("restore", vault, "db", "--at", "newest", *to)["sequence"], "a label does not hide it"
    assert hrl_json("restore", vault, "db", "--at", "label:newest", *to)["sequence"] < newest
    assert hrl_json("restore", vault, "db", "--at", "time:0s ago", *to)["sequence"] == newest
    assert "after sequence:" in hrl("restore", vault, "db", "--at", "sequence:x", *to, code=Exit.INVALID_INPUT)
    assert "after time:" in hrl("restore", vault, "db", "--at", "time:soon", *to, code=Exit.INVALID_INPUT)


def test_every_reading_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def said(at: str, *labels: str) -> str:
        state_of(replica_of(*labels), at)
        return capsys.readouterr().err

    assert said("a", "a", "b") == "" == said("newest", "a") == said("point:ab", "a")
    assert "12 is read as sequence 12" in said("12", "a")
    assert "12 is the label of point" in said("12", "12") and "sequence:12 means that" in said("12", "12")
    assert "the newest of 2 points with it" in said("a", "a", "a")
    assert "(2026-11-21T09:30:00" in said("2026-11-21T09:30:00Z", "a")
    assert "time:2026-11-21 means that" in said("2026-11-21", "2026-11-21")
    assert "is read as" in said("10m ago", "a")
    assert "label:newest means that" in said("newest", "newest")
    told = said("000a", *"abcdefghij", "000a")
    assert "the beginning of the id 000a" in told and "point:000a means that" in told


@pytest.mark.parametrize(
    "text", ["2026-02-30", "2026-02-29 10:00", "2026-11-21T09:30:60Z", "2026-11-21T24:30:00Z", "2026-13-01"]
)
def test_a_time_that_no_calendar_has_is_refused(vault: Path, tmp_path: Path, text: str) -> None:
    assert instant(text) is None and problem_of(text) and not is_rfc3339(text)
    told = hrl("restore", vault, "db", "--at", text, "--to", tmp_path / "x", code=Exit.INVALID_INPUT)
    assert f"{text} is no time" in told
    with pytest.raises(typer.BadParameter, match="cannot read"):
        time_option(text)
    with pytest.raises(package.HrlError) as error:
        package.Vault(vault).replica("db").churn(since=text)
    assert error.value.kind == "invalid-input"


def test_a_time_without_a_zone_is_local_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert time_option("2026-11-21T09:30:00Z") == "2026-11-21T09:30:00Z"
    assert capsys.readouterr().err == ""
    there = datetime(2026, 11, 21, 9, 30).astimezone(UTC)
    assert time_option("2026-11-21 09:30") == f"{there:%Y-%m-%dT%H:%M:%S}.000000Z"
    assert (
        f"2026-11-21 09:30 is 2026-11-21 09:30:00 {datetime(2026, 11, 21).astimezone().tzname()}" in capsys.readouterr().err
    )
    assert has_zone("2026-11-21T09:30+01:00") and has_zone("2026-11-21 09:30z") and not has_zone("2026-11-21")


def test_a_time_that_local_clocks_skip_is_refused_and_of_one_twice_the_first_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        with pytest.raises(typer.BadParameter, match="local clocks skip it"):
            time_option("2026-03-29 02:30")
        assert time_option("2026-10-25 02:30") == "2026-10-25T00:30:00.000000Z"
        assert "2026-10-25 02:30:00 CEST" in capsys.readouterr().err
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=24), st.booleans())
def test_any_text_that_is_a_label_means_that_label(text: str, others: bool) -> None:
    kind = text.partition(":")[0]
    if text in ("newest", "newest-good") or (":" in text and kind in ("point", "label", "sequence", "time")):
        return
    assert state_of(replica_of("a", text) if others else replica_of(text), text) == f"label:{text}"


@given(st.text(max_size=24))
def test_any_text_is_a_state_or_refused(text: str) -> None:
    if text in ("a", "newest-good"):
        return
    try:
        state = state_of(replica_of("a"), text)
    except Refused as refused:
        assert refused.code in (Exit.NOT_FOUND, Exit.INVALID_INPUT)
    else:
        assert state and state != "label:a"
