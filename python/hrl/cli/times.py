"""Times on the command line: how long something takes, and when something was.

Every duration is read by `seconds` and every instant by `instant`, so all options take the same forms.
"""

import re
from datetime import UTC, datetime, timedelta

import typer

from hrl import HrlError, parse_duration
from hrl.cli.output import note
from hrl.words import local, zone_at

EXPECTED = "a duration such as 500ms, 60s, 5m, 2h or 1d"
RFC3339 = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)"
LOOKS_LIKE_TIME = r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?)?([Zz]|[+-]\d\d:?\d\d)?"
EXPECTED_INSTANT = "a time such as 2026-11-21T09:30:00Z, 2026-11-21 09:30 (local) or '10m ago'"


def seconds(text: str) -> float:
    """Returns a duration such as 500ms, 60s, 5m, 2h, 1d or 1w in seconds; a bare number is seconds.

    Raises `ValueError` for anything else.
    """
    try:
        return parse_duration(text, bare="s").total_seconds()
    except (HrlError, OverflowError):
        raise ValueError(f"cannot read {text!r}: expected {EXPECTED}") from None


class Duration(float):
    """A duration in seconds that is shown as it was written."""

    def __new__(cls, text: "str | float") -> "Duration":
        if isinstance(text, Duration):
            return text
        try:
            return super().__new__(cls, seconds(str(text)))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    def __init__(self, text: "str | float") -> None:
        self._text = str(text)

    def __str__(self) -> str:
        return self._text


def instant(text: str) -> datetime | None:
    """Returns the moment that a text names, or `None` if it is no time at all.

    It is a date, or date and time, in local time unless it has an offset; or a duration and `ago`.
    """
    words = text.strip()
    if words.endswith(" ago"):
        try:
            return datetime.now(UTC) - timedelta(seconds=seconds(words.removesuffix(" ago")))
        except (ValueError, OverflowError):
            return None
    if not re.match(r"\d{4}-\d\d-\d\d", words):
        return None
    try:
        return read(words)
    except (ValueError, OverflowError):
        return None


def read(text: str) -> datetime:
    """Returns the moment of a date, or date and time. Raises `ValueError` or `OverflowError` for any other text.

    Of a local time that was twice, in autumn, it is the first.
    """
    found = datetime.fromisoformat(text.strip().upper())
    moment = found.astimezone(UTC)
    if found.tzinfo is None and moment.astimezone().replace(tzinfo=None) != found:
        raise ValueError("local clocks skip it")
    return moment


def problem_of(text: str) -> str:
    """Returns why a text that looks like a time is none, such as the 30th of February; else an empty text."""
    if not re.fullmatch(LOOKS_LIKE_TIME, text.strip(), re.ASCII):
        return ""
    try:
        read(text)
    except (ValueError, OverflowError) as error:
        return str(error)
    return ""


def is_rfc3339(text: str) -> bool:
    """Reports whether the library reads a text as a time; it keeps more digits of it than Python."""
    return bool(re.fullmatch(RFC3339, text, re.ASCII)) and instant(text) is not None


def has_zone(text: str) -> bool:
    """Reports whether a time says its own time zone, so that nobody can take it for another."""
    return bool(re.search(r"([Zz]|[+-]\d\d:?\d\d)$", text.strip()[len("2026-11-21") :]))


def shown(moment: datetime) -> str:
    """Returns a moment in local time, with its zone, and in UTC."""
    exact = rfc3339(moment)
    return f"{local(exact)} {zone_at(moment)} ({exact})"


def rfc3339(moment: datetime) -> str:
    """Returns a moment as the library reads it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def time_option(text: str | None) -> str | None:
    """Reads the value of an option that takes a time."""
    if text is None:
        return None
    found = instant(text)
    if found is None:
        why = f" ({problem})" if (problem := problem_of(text)) else ""
        raise typer.BadParameter(f"cannot read {text!r}{why}: expected {EXPECTED_INSTANT}")
    if not has_zone(text):
        note(f"note: {text} is {shown(found)}")
    return text if is_rfc3339(text) else rfc3339(found)
