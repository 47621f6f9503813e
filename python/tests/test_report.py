"""The report of a vault: what it says, that foreign text stays text, and how it looks in a browser."""

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from browser import Browser
from conftest import hrl

import hrl as package
from hrl import report
from hrl.health import Limits
from hrl.words import clean, span

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
TURNED = "invoice\u202efdp.exe\x07"
LONG = "x" * 255
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
POLICY = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "region_bytes": "65536", "retention": "none"}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> package.Vault:
    """A vault with everything that a report can show, and a volume that nobody can read."""
    directory = tmp_path_factory.mktemp("report")
    opened = package.Vault(str(directory / "vault"), create=True)
    for name in ("db", "web"):
        disk = package.MemoryDevice(4 << 20)
        with package.Protection(disk, vault=opened, state=directory / name, volume=name, policy=POLICY) as protection:
            protection.wait_ordered()
            for number in range(12):
                protection.write(number * 4096, bytes([number + 1]) * 4096)
                protection.mark(f"p{number}")
            if name == "db":
                protection.resync()
                protection.wait_ordered()
                for label in (HOSTILE, TURNED, LONG):
                    protection.mark(label)
            protection.wait_replicated()
    replica = opened.replica("db")
    replica.pin("p1", hold=True, reason=HOSTILE)
    replica.record_verdict("p2", "application", False, HOSTILE)
    replica.record_verdict("p3", "file-system", True, "clean")
    opened.replica("web").compact("0s all; grace 1s", fold_all=True, scratch=directory / "scratch")
    shutil.copytree(directory / "vault/volumes/web", directory / "vault/volumes/torn")
    for version in (directory / "vault/volumes/torn/catalog").iterdir():
        version.write_bytes(version.read_bytes()[:40])
    return opened


@pytest.fixture(scope="module")
def file(vault: package.Vault, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("page") / "report.html"
    report.write(vault, to, title=f"{HOSTILE} vault")
    return to


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.skip("chromium not installed (make packages)")
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


def test_what_needs_attention_is_said_first(file: Path) -> None:
    text = file.read_text()
    health = text[text.index('class="card health') : text.index('class="card volume"')]
    assert 'class="card health bad"' in health
    for words in (
        "the application check of",
        "1 point is under legal hold",
        "cannot be read",
    ):
        assert words in health
    db = text[text.index('id="v0"') : text.index('id="v1"')]
    assert "requested" in db and "initial-replication" in db, "the gaps and their causes"
    assert "file-system passed" in db and "application failed" in db
    assert "This volume cannot be read" in text[text.index('id="v1"') : text.index('id="v2"')]


def test_foreign_text_stays_text(file: Path) -> None:
    text = file.read_text()
    assert "<script>alert" not in text and "<img" not in text
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert "\u202e" not in text and "\x07" not in text and "invoice\ufffdfdp.exe\ufffd" in text
    assert not re.search(r"(src|href)=.(https?:|//)", text)
    assert clean("a\u2028\u0000é\U0001f600") == "a\ufffd\ufffdé\U0001f600"


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(file: Path, browser: Browser, tmp_path: Path, width: int) -> None:
    browser.open(file, width=width, dark=width == 1280)
    assert browser.requests == [file.resolve().as_uri()] + [r for r in browser.requests if r.startswith("data:")]
    assert browser.value(OVERFLOW) == 0, "nothing reaches beyond the window"
    assert browser.value("document.querySelectorAll('svg path[d]').length") > 4
    hidden = "[...document.querySelectorAll('#v0 .points tbody tr')].filter(row => row.hidden).length"
    rows = browser.value("document.querySelectorAll('#v0 .points tbody tr').length")
    browser.value(
        "{const f = document.querySelector('#v0 .filter input'); f.value = 'P11'; f.dispatchEvent(new Event('input'))}"
    )
    assert (rows, browser.value(hidden)) == (15, 14)
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(17, 22, 28)" if width == 1280 else "rgb(244, 246, 248)")
    browser.picture(tmp_path / "page.png")
    assert not browser.complaints


def test_ten_thousand_points_and_a_thousand_gaps_stay_a_small_page(browser: Browser, tmp_path: Path) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    def time(at: int) -> str:
        return (begin + timedelta(minutes=at)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def nanos(at: int) -> int:
        return int((begin + timedelta(minutes=at)).timestamp()) * 10**9

    points = [
        SimpleNamespace(
            id=f"{at:032x}", kind="app" if at % 60 == 0 else "crash", sequence=at, time=time(at), time_ns=nanos(at),
            label="", pins=[], verdicts=[],
        )
        for at in range(10_000)
    ]  # fmt: skip
    stretches = [
        SimpleNamespace(
            first=at,
            last=at + 9,
            from_time=time(at),
            to_time=time(at + 10),
            unordered="crash" if at % 20 else None,
            folded=False,
        )
        for at in range(0, 10_000, 10)
    ]
    segments = [
        {
            "object": "o", "kind": "log", "first_sequence": at, "last_sequence": at, "first_time_ns": nanos(at),
            "last_time_ns": nanos(at), "records": 1, "data_bytes": 4096, "stored_bytes": 4096, "arrived_ns": None,
        }
        for at in range(10_000)
    ]  # fmt: skip
    info = {"name": "big", "size_bytes": 1 << 40, "encrypted": True}
    replica = SimpleNamespace(
        info=info, segments=lambda: segments, points=lambda: points, timeline=lambda: stretches,
        lifecycle=lambda: {"branches": []},
    )  # fmt: skip
    volume = report.Volume("big")
    report.fill(volume, cast(Any, replica), Limits(nanos(10_000), 900, 86_400))
    text = report.page("big", [volume], begin)
    assert len(text) < 1 << 20
    assert len(volume.points) == report.POINTS_MAX
    assert volume.points_total == sum(count for _, count in volume.points_by_day) + report.POINTS_MAX == 10_000
    assert sum(row["point"].kind == "app" for row in volume.points) == 167, "those that stand out are listed"
    assert "The newest 50 of 500" in text and "at least: the vault does not record" in text
    to = tmp_path / "big.html"
    to.write_text(text)
    browser.open(to, width=360)
    assert browser.value(OVERFLOW) == 0
    assert not browser.complaints


def test_the_command_writes_a_file_and_replaces_none(tmp_path: Path) -> None:
    source = tmp_path / "empty"
    package.Vault(str(source), create=True)
    to = tmp_path / "report.html"
    hrl("report", source, "--to", to)
    assert "All is well" in to.read_text()
    assert "--overwrite replaces it" in hrl("report", source, "--to", to, code=4)
    hrl("report", source, "--to", to, "--overwrite", "--rpo-threshold", "1h", "--app-within", "2d")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 ms"), (0.25, "250 ms"), (2.5, "2.5 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_000, "1 d 1 h"), (86_460, "1 d")],
)
def test_times_are_shown_in_two_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_branches_count_as_stored() -> None:
    segments: Any = [{"kind": "log", "stored_bytes": 20 << 20}, {"kind": "log", "stored_bytes": 10 << 20}]
    branches: Any = [{"stored_bytes": 180 << 20}, {"stored_bytes": 30 << 20}]
    found = report.sizes(segments, branches)
    assert [(size["kind"], size["bytes"] >> 20, size["in"]) for size in found] == [
        ("log", 30, "2 segments"),
        ("branch", 210, "2 branches"),
    ]
    assert sum(size["share"] for size in found) == pytest.approx(100)
