"""A report of a vault: one HTML page that needs nothing else, for people who look after it.

`write` reads catalogs and nothing else. The template engine escapes names, labels, reasons and messages, which come from
anywhere. A Content-Security-Policy in the page refuses every request, and every script but the page's own. A volume that
cannot be read is shown with its error.
"""

import base64
import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hrl import Branch, DeletedVolume, HrlError, RecoveryPoint, Replica, SegmentEntry, Vault
from hrl.health import APP_KINDS, OBSERVED, RPO_SECONDS, Limits, Notice, of_catalog, worst
from hrl.report import charts
from hrl.report.charts import COLUMNS, COLUMNS_MIN, Span
from hrl.words import clean, count, human, moment, nanoseconds, short, span, when

POINTS_MAX = 500
"""Points listed one by one for a volume: points that stand out, then the newest. The others are counted by day."""
GAPS_MAX = 50
"""Gaps listed for a volume, newest first."""
SPANS_MAX = 400
"""Stretches drawn in a timeline. Beyond it, neighbours are joined."""
POINT_KINDS = ("app", "group-app", "declared", "group-crash", "crash")
SEGMENT_KINDS = (("log", "journal, in full"), ("merged", "folded"), ("image", "image"))
BRANCHES = "branch"


@dataclass
class Volume:
    """A volume as the page shows it."""

    name: str
    info: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    is_shredded: bool = False
    notices: list[Notice] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    newest: list[tuple[str, RecoveryPoint]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    points_total: int = 0
    points_by_day: list[tuple[str, int]] = field(default_factory=list)
    gaps: list[dict[str, str]] = field(default_factory=list)
    gaps_total: int = 0
    timeline: Markup | None = None
    axis: list[str] = field(default_factory=list)
    rpo: dict[str, Any] | None = None
    churn: dict[str, Any] | None = None
    sizes: list[dict[str, Any]] = field(default_factory=list)
    stored_bytes: int = 0

    @property
    def level(self) -> str:
        """Returns how urgently the volume needs somebody."""
        return worst(self.notices)


def write(
    vault: Vault,
    to: str | Path,
    *,
    title: str,
    volumes: Sequence[str] | None = None,
    rpo_threshold: float = RPO_SECONDS,
    app_within: float = 0,
    verified_within: float = 0,
    now: datetime | None = None,
    check: Callable[[Replica], Exception | None] | None = None,
    lost: Sequence[str] = (),
    restorable: Sequence[DeletedVolume] = (),
) -> list[str]:
    """Writes the page for a vault (or some of its volumes) to a file. Returns the volumes that could not be read.

    The page asks for attention beyond three ages in seconds: `rpo_threshold` of the newest replicated write, `app_within` of
    the newest application-consistent point, `verified_within` of the newest point that passed a check. Zero switches a rule
    off. `check` returns why a volume has less than was seen of it before; `lost` are volumes that were seen and are gone.
    Both are critical. `restorable` is what was deleted and can be brought back.
    """
    at = now or datetime.now(UTC)
    limits = Limits(nanoseconds(at), rpo_threshold, app_within, verified_within)
    names = [name for name in volumes or vault.volume_names() if name not in lost]
    shown = [collect(vault, name, limits, check) for name in names] + [gone(name) for name in lost]
    for volume in shown:
        volume.facts += [
            ("Deleted, can be brought back", human(entry.bytes), f"the first of it until {entry.next_due[:10]}")
            for entry in restorable
            if entry.volume == volume.name
        ]
    Path(to).write_text(page(title, shown, at), encoding="utf-8", newline="\n")
    return [volume.name for volume in shown if volume.error and not volume.is_shredded]


def page(title: str, volumes: Sequence[Volume], at: datetime) -> str:
    """Returns the page as text."""
    environment = Environment(
        loader=PackageLoader("hrl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(human=human, when=when, clean=clean, short=short)
    files = {name: environment.get_template(name).render() for name in ("style.css", "filter.js")}
    order = {"bad": 0, "warn": 1, "note": 2, "good": 3}
    notices = [(volume, notice) for volume in volumes for notice in volume.notices]
    return environment.get_template("page.html").render(
        title=title,
        made=moment(nanoseconds(at)),
        volumes=volumes,
        notices=sorted(notices, key=lambda pair: order[pair[1].level]),
        level=worst([notice for _, notice in notices]),
        stored_bytes=sum(volume.stored_bytes for volume in volumes),
        size_bytes=sum(volume.info.get("size_bytes", 0) for volume in volumes),
        points=sum(volume.points_total for volume in volumes),
        style=Markup(files["style.css"]),
        script=Markup(files["filter.js"]),
        script_hash=base64.b64encode(hashlib.sha256(files["filter.js"].encode()).digest()).decode(),
    )


def gone(name: str) -> Volume:
    """Returns what the page shows of a volume that was seen in the vault before."""
    error = "it was seen here before, and is no longer in the vault"
    return Volume(name, error=error, notices=[Notice("bad", error)])


def collect(vault: Vault, name: str, limits: Limits, check: Callable[[Replica], Exception | None] | None = None) -> Volume:
    """Returns what the page shows of a volume."""
    volume = Volume(name)
    try:
        with vault.replica(name) as replica:
            fill(volume, replica, limits)
            if problem := check(replica) if check else None:
                volume.notices.insert(0, Notice("bad", str(problem)))
    except (HrlError, ValueError, OverflowError) as error:
        volume.error = str(error)
        volume.is_shredded = is_shredded(vault, name)
        volume.notices.insert(0, Notice("bad", f"cannot be read: {error}"))
    return volume


def is_shredded(vault: Vault, name: str) -> bool:
    """Reports whether a volume that cannot be read was shredded, as far as its record can be read."""
    with contextlib.suppress(HrlError):
        return bool(vault.volume(name)["shredded"])
    return False


def fill(volume: Volume, replica: Replica, limits: Limits) -> None:
    """Reads the catalog of a volume."""
    volume.info = dict(replica.info)
    segments, points, stretches = replica.segments(), replica.points(), replica.timeline()
    gaps = [entry for entry in stretches if entry.unordered and entry.unordered != OBSERVED]
    branches = replica.lifecycle()["branches"]
    volume.stored_bytes = sum(segment["stored_bytes"] for segment in [*segments, *branches])
    volume.points_total = len(points)
    is_open = bool(stretches) and stretches[-1].unordered not in (None, OBSERVED)
    last = segments[-1]["last_time_ns"] if segments else None
    volume.notices = of_catalog(points, gaps[-1].unordered if is_open else None, last, limits)
    volume.facts = facts(volume, segments, branches, last, limits)
    volume.newest = [(kind, next(p for p in reversed(points) if p.kind == kind)) for kind in kinds_of(points)]
    list_points(volume, points)
    list_gaps(volume, gaps, is_open)
    volume.sizes = sizes(segments, branches)
    if segments:
        begin, end = segments[0]["first_time_ns"], max(segment["last_time_ns"] for segment in segments)
        middle = (begin + end) // 2
        volume.axis = [moment(begin), moment(middle), moment(end)]
        ticks = ((p.time_ns, "app" if p.kind in APP_KINDS else "crash") for p in points)
        volume.timeline = charts.strip(f"timeline of {volume.name}", spans(stretches), ticks, begin, end)
        volume.rpo = rpo(segments, begin, end)
        volume.churn = churn(segments, gaps, begin, end)


def kinds_of(points: Sequence[RecoveryPoint]) -> list[str]:
    """Returns the kinds of points there are, the best first."""
    found = {point.kind for point in points}
    return [kind for kind in POINT_KINDS if kind in found]


def facts(
    volume: Volume,
    segments: Sequence[SegmentEntry],
    branches: Sequence[Branch],
    last: int | None,
    limits: Limits,
) -> list[tuple[str, str, str]]:
    """Returns the figures at the top of a volume: name, value, and a remark."""
    arrived = [s for s in segments if s["kind"] == "log" and s["arrived_ns"] is not None]
    rpo = [max(s["arrived_ns"] - s["first_time_ns"], 0) / 1e9 for s in arrived]
    data = sum(segment["data_bytes"] for segment in segments)
    remarks = [f"for {human(data)} of writes"] if data else []
    if branches:
        kept = human(sum(branch["stored_bytes"] for branch in branches))
        remarks.append(f"{kept} of it in {count(len(branches), 'branch', 'branches')}")
    age = span((limits.now - last) / 1e9) + " ago" if last is not None else ""
    return [
        ("Newest replicated write", moment(last) if last is not None else "none", age),
        ("RPO of the newest segment", span(rpo[-1]) if rpo else "not known", f"highest {span(max(rpo))}" if rpo else ""),
        ("Recovery points", f"{volume.points_total:,}", ""),
        ("Volume", human(volume.info["size_bytes"]), "encrypted" if volume.info["encrypted"] else "not encrypted"),
        ("Stored", human(volume.stored_bytes), "; ".join(remarks)),
    ]


def list_points(volume: Volume, points: Sequence[RecoveryPoint]) -> None:
    """Lists points one by one, newest first, as far as there is room. Counts the others by day."""
    stands_out = [p for p in points if p.pins or p.verdicts or p.label or p.kind in APP_KINDS]
    chosen = {p.id for p in stands_out[-POINTS_MAX:]}
    room = POINTS_MAX - len(chosen)
    others = [p.id for p in points if p.id not in chosen]
    chosen.update(others[len(others) - room :] if room > 0 else [])
    days: Counter[str] = Counter()
    for point in reversed(points):
        if point.id not in chosen:
            days[point.time[:10]] += 1
            continue
        kept = ["legal hold" if pin.hold else f"until {when(pin.until) if pin.until else 'unpinned'}" for pin in point.pins]
        reasons = [pin.reason for pin in point.pins if pin.reason]
        volume.points.append({"point": point, "kept": kept, "reasons": reasons, "checks": point.verdicts})
    volume.points_by_day = list(days.items())


def list_gaps(volume: Volume, gaps: Sequence[Any], is_open: bool) -> None:
    """Lists gaps with their causes, newest first."""
    volume.gaps_total = len(gaps)
    for number, gap in enumerate(reversed(gaps[-GAPS_MAX:])):
        ends = is_open and number == 0
        lasted = (nanoseconds(gap.to_time) - nanoseconds(gap.from_time)) / 1e9
        until = "still open" if ends else when(gap.to_time)
        volume.gaps.append({"cause": str(gap.unordered), "from": when(gap.from_time), "to": until, "lasted": span(lasted)})


def spans(stretches: Sequence[Any]) -> list[Span]:
    """Returns the stretches of the timeline to draw. If there are many, neighbours are joined, but gaps never."""
    found: list[Span] = []
    join = len(stretches) > SPANS_MAX
    for entry in stretches:
        is_gap = entry.unordered not in (None, OBSERVED)
        style = "gap" if is_gap else "folded" if entry.folded or entry.unordered else "ordered"
        begin, end = nanoseconds(entry.from_time), nanoseconds(entry.to_time)
        word = "folded: its end is left" if entry.folded else "points only" if entry.unordered else "every state"
        word = f"gap: {entry.unordered}" if is_gap else word
        if join and found and found[-1].style == style:
            found[-1] = Span(found[-1].begin, end, style, word)
        else:
            found.append(Span(begin, end, style, f"{word}, {when(entry.from_time)} to {when(entry.to_time)}"))
    # Each gap is a rectangle, so only the newest are drawn of too many.
    return [s for s in found if s.style != "gap"][-SPANS_MAX:] + [s for s in found if s.style == "gap"][-SPANS_MAX:]


def rpo(segments: Sequence[SegmentEntry], begin: int, end: int) -> dict[str, Any] | None:
    """Returns the chart of the RPO over time. Without times of arrival it shows what each segment spans, which is less."""
    logs = [segment for segment in segments if segment["kind"] == "log"]
    known = any(segment["arrived_ns"] is not None for segment in logs)
    stop = "arrived_ns" if known else "last_time_ns"
    ages = [
        (segment["last_time_ns"], max(segment[stop] - segment["first_time_ns"], 0) / 1e9)
        for segment in logs
        if segment[stop] is not None
    ]
    if not ages:
        return None
    found = charts.columns(ages, begin, end, add=False, count=columns_for(len(ages)))
    top = max(age for _, age in ages)
    drawn = charts.bars("RPO over time", top, ("rpo", found))
    return {"svg": drawn, "top": span(top), "half": span(top / 2), "known": known}


def columns_for(values: int) -> int:
    """Returns the number of columns of a chart of so many values."""
    return min(max(values, COLUMNS_MIN), COLUMNS)


def churn(segments: Sequence[SegmentEntry], gaps: Sequence[Any], begin: int, end: int) -> dict[str, Any] | None:
    """Returns the chart of bytes written over time, apart from what a first copy or a resync read."""
    written: list[tuple[int, float]] = []
    copied: list[tuple[int, float]] = []
    intervals = [(gap.first, gap.last) for gap in gaps]
    at = 0
    for segment in segments:
        if segment["kind"] != "log" or not segment["data_bytes"]:
            continue
        while at < len(intervals) and intervals[at][1] < segment["first_sequence"]:
            at += 1
        in_gap = at < len(intervals) and intervals[at][0] <= segment["last_sequence"]
        (copied if in_gap else written).append((segment["last_time_ns"], float(segment["data_bytes"])))
    if not written and not copied:
        return None
    many = columns_for(len(written) + len(copied))
    series = [charts.columns(values, begin, end, add=True, count=many) for values in (written, copied)]
    top = max((a or 0) + (b or 0) for a, b in zip(*series, strict=True))
    drawn = charts.bars("bytes written over time", top, ("write", series[0]), ("copy", series[1]))
    width = span((end - begin) / 1e9 / many)
    folded = any(segment["kind"] != "log" for segment in segments)
    scale = {"top": human(top), "half": human(top / 2)}
    return {"svg": drawn, "width": width, "copied": bool(copied), "folded": folded} | scale


def sizes(segments: Sequence[SegmentEntry], branches: Sequence[Branch]) -> list[dict[str, Any]]:
    """Returns stored bytes by kind of segment, and those of branches, with their share."""
    total = sum(segment["stored_bytes"] for segment in segments) + sum(branch["stored_bytes"] for branch in branches)
    found = []
    for kind, words in SEGMENT_KINDS:
        own = [segment["stored_bytes"] for segment in segments if segment["kind"] == kind]
        found.append((kind, words, own, count(len(own), "segment")))
    kept = [branch["stored_bytes"] for branch in branches]
    found.append((BRANCHES, "branches", kept, count(len(kept), "branch", "branches")))
    return [
        {"kind": kind, "words": words, "bytes": sum(own), "in": many, "share": sum(own) / total * 100 if total else 0}
        for kind, words, own, many in found
        if own
    ]
