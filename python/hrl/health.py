"""The rules that `hrl health`, `hrl report` and the /healthz of an agent share.

A rule gives a `Notice`: "bad" if data is not protected as promised, "warn" if somebody should look, "note" for what is worth
knowing. The rules for a volume in a vault read its catalog, the rules for a running agent its statistics. A limit of zero
switches its rule off.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from hrl import CatalogVersion, RecoveryPoint, Replica, Verdict
from hrl.words import clean, count, human, span, when

RPO_SECONDS = 900.0
APP_INTERVALS = 2
"""The newest application-consistent point may be as old as so many intervals of the policy."""
BAD_RPO_FACTOR = 4
"""A replicated write that is older than so many times the RPO is bad instead of a warning."""
APP_KINDS = ("app", "group-app")
HEARTBEAT_SECONDS = 3600.0
HEARTBEATS = 3
"""The newest catalog version may be as old as so many heartbeats of an idle agent."""
EXPIRES_WARN_SECONDS = 30 * 86400.0
EXPIRES_BAD_SECONDS = 7 * 86400.0
"""A certificate that expires within these times needs a renewal."""
OBSERVED = "observed"
"""Cause of the stretches of an attached disk, in which there are states at points only."""
STATES = {"good": "ok", "warn": "warning", "bad": "critical"}
"""Levels in the words of monitoring."""


@dataclass(frozen=True)
class Notice:
    """Something that a person should know."""

    level: str  # "bad", "warn" or "note"
    text: str


@dataclass(frozen=True)
class Limits:
    """The current time in nanoseconds since 1970, and the ages in seconds beyond which something is wrong."""

    now: int
    rpo_threshold: float = RPO_SECONDS
    app_within: float = 0
    verified_within: float = 0
    heartbeat_interval: float = 0


def app_seconds(interval: float) -> float:
    """Returns the limit for application-consistent points of a policy that makes them at an interval; 0 is off."""
    return APP_INTERVALS * interval


def worst(notices: Sequence[Notice]) -> str:
    """Returns the level of the most urgent notice; "good" if there is nothing to do."""
    levels = {notice.level for notice in notices}
    return next((level for level in ("bad", "warn") if level in levels), "good")


def line(volume: str, notices: Sequence[Notice]) -> str:
    """Returns a volume in one line: its state, and why."""
    why = "; ".join(notice.text for notice in notices if notice.level != "note")
    return clean(f"{volume}: {STATES[worst(notices)]}" + (f": {why}" if why else ""))


def of_volumes(names: Collection[str], seen: Collection[str] = ()) -> list[Notice]:
    """Applies the rules for a vault as a whole: what is in it, and what was `seen` in it before."""
    if gone := [name for name in seen if name not in names]:
        return [Notice("bad", f"the vault has lost {count(len(gone), 'volume')}: {', '.join(gone)}")]
    return [] if names else [Notice("warn", "there is no volume in the vault")]


def of_replica(replica: Replica, limits: Limits) -> list[Notice]:
    """Returns the notices of a volume, from its catalog."""
    segments, stretches = replica.segments(), replica.timeline()
    last = segments[-1]["last_time_ns"] if segments else None
    found = of_catalog(replica.points(), stretches[-1].unordered if stretches else None, last, limits)
    ignored = [Notice("note", f"ignored: {text}") for text in replica.notes()]
    return found + of_version(replica.version(), limits) + ignored


def of_version(version: CatalogVersion, limits: Limits) -> list[Notice]:
    """Applies the rule for the newest catalog version, which a copy of a vault that no longer grows breaks."""
    if version.time_ns is None:
        return []
    old = (limits.now - version.time_ns) / 1e9
    what = f"the newest catalog version, {version.number}, is {span(old)} old"
    if not limits.heartbeat_interval or old <= HEARTBEATS * limits.heartbeat_interval:
        return [Notice("note", what)]
    interval = span(limits.heartbeat_interval)
    return [Notice("warn", f"{what}: an agent gives a sign of life every {interval} even if nothing is written")]


def of_catalog(points: Sequence[RecoveryPoint], open_gap: str | None, last: int | None, limits: Limits) -> list[Notice]:
    """Applies the rules for a catalog.

    `open_gap` is the cause of the gap that is still open, `last` the time of the newest replicated write in nanoseconds.
    """
    found: list[Notice] = []
    # The changes of an attached disk come with the point that ends them.
    if open_gap and open_gap != OBSERVED:
        found.append(Notice("bad", f"a gap is open ({open_gap}): there are no new recovery points until it ends"))
    if last is None:
        found.append(Notice("warn", "nothing has been replicated yet"))
    else:
        found += of_rpo((limits.now - last) / 1e9, limits.rpo_threshold)
    if not points:
        found.append(Notice("warn", "there is no recovery point"))
    found += of_app_points(points, limits)
    found += of_checks(points, limits)
    if held := sum(any(pin.hold for pin in point.pins) for point in points):
        found.append(Notice("note", f"{count(held, 'point is', 'points are')} under legal hold"))
    return sorted(found, key=lambda notice: ("bad", "warn", "note").index(notice.level))


def of_rpo(age: float, limit: float) -> list[Notice]:
    """Applies the rule for the age of the newest write in the vault."""
    if not limit or age <= limit:
        return []
    level = "bad" if age > BAD_RPO_FACTOR * limit else "warn"
    return [Notice(level, f"the newest replicated write is {span(age)} old, more than {span(limit)}")]


def of_app_points(points: Sequence[RecoveryPoint], limits: Limits) -> list[Notice]:
    """Applies the rule for application-consistent points, which is off unless a policy makes them."""
    app = next((point for point in reversed(points) if point.kind in APP_KINDS), None)
    if not limits.app_within:
        return []
    if app is None:
        return [Notice("warn", "there is no application-consistent point")]
    age = (limits.now - app.time_ns) / 1e9
    if age <= limits.app_within:
        return []
    return [Notice("warn", f"the newest application-consistent point is {span(age)} old")]


def of_checks(points: Sequence[RecoveryPoint], limits: Limits) -> list[Notice]:
    """Applies the rules for checks: the newest check of each kind decides, and a point must have passed one lately."""
    newest: dict[str, tuple[str, RecoveryPoint, Verdict]] = {}
    for point in points:
        for verdict in point.verdicts:
            if verdict.kind not in newest or newest[verdict.kind][0] <= verdict.time:
                newest[verdict.kind] = (verdict.time, point, verdict)
    found = []
    for _, point, verdict in newest.values():
        if not verdict.ok:
            text = f": {verdict.text}" if verdict.text else ""
            if verdict.kind == "suspicious":
                found.append(Notice("bad", f"{title_of(first_suspicious(points))} and later points are suspicious{text}"))
                continue
            found.append(Notice("bad", f"the {verdict.kind} check of {title_of(point)} failed{text}"))
    return found + of_verified(points, limits)


def first_suspicious(points: Sequence[RecoveryPoint]) -> RecoveryPoint:
    """Returns the oldest point that a sudden change made suspicious and nobody trusts; one must be there."""
    return next(point for point in points if any(v.kind == "suspicious" and not v.ok for v in point.verdicts))


def of_verified(points: Sequence[RecoveryPoint], limits: Limits) -> list[Notice]:
    """Applies the rule for the newest point that passed a check."""
    sound = [point for point in points if any(verdict.ok for verdict in point.verdicts)]
    if limits.verified_within and sound:
        age = (limits.now - sound[-1].time_ns) / 1e9
        if age > limits.verified_within:
            return [Notice("warn", f"the newest point that passed a check is {span(age)} old")]
    if points and not any(point.verdicts for point in points):
        return [Notice("warn" if limits.verified_within else "note", "no point was ever checked")]
    return []


def of_agent(stats: dict[str, Any], rpo_threshold: float) -> list[Notice]:
    """Returns the notices of a running agent, from its statistics (the fields of `Stats`)."""
    found: list[Notice] = []
    if stats["fenced"]:
        found.append(Notice("bad", "fenced: another source has the volume, and nothing is replicated any more"))
    if stats["mode"] == "dirty":
        found.append(Notice("bad", "writes are not captured (mode dirty): there are no new recovery points until a resync"))
    found += [notice for notice in of_rpo(stats["rpo_seconds"], rpo_threshold) if notice.level == "bad"]
    if stats["mode"] == "resync":
        left = human(stats["resync_bytes_left"])
        found.append(Notice("warn", f"a resync is under way, {left} left: there are no new recovery points until it ends"))
    if not stats["vault_available"]:
        away = "has not answered since the start, nothing counts as replicated"
        since = away if stats["vault_away"] else "does not answer"
        found.append(Notice("warn", f"the vault {since}, {human(stats['backlog_bytes'])} wait"))
    return found + [notice for notice in of_rpo(stats["rpo_seconds"], rpo_threshold) if notice.level == "warn"]


def of_expiry(what: str, left: float) -> Notice:
    """Applies the rule for a certificate that expires in `left` seconds."""
    if left <= 0:
        return Notice("bad", f"the certificate {what} has expired")
    level = "bad" if left < EXPIRES_BAD_SECONDS else "warn" if left < EXPIRES_WARN_SECONDS else "note"
    return Notice(level, f"the certificate {what} expires in {span(left)}")


def title_of(point: RecoveryPoint) -> str:
    """Returns a point as a part of a sentence."""
    return f"“{point.label}” ({when(point.time)})" if point.label else f"the point of {when(point.time)}"
