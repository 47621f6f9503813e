"""Times on the command line: how long something takes, and when something was.

Every duration is read by `seconds` and every instant by `instant`, so all options take the same forms.
"""

import re
from datetime import UTC, datetime, timedelta

import typer

from hrl import HrlError, parse_duration

EXPECTED = "a duration such as 500ms, 60s, 5m, 2h or 1d"
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
        return datetime.fromisoformat(words).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def is_rfc3339(text: str) -> bool:
    """Reports whether the library reads a text as a time; it keeps more digits of it than Python."""
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", text, re.ASCII))


def rfc3339(moment: datetime) -> str:
    """Returns a moment as the library reads it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def time_option(text: str | None) -> str | None:
    """Reads the value of an option that takes a time."""
    if text is None:
        return None
    found = instant(text)
    if found is None:
        raise typer.BadParameter(f"cannot read {text!r}: expected {EXPECTED_INSTANT}")
    return text if is_rfc3339(text) else rfc3339(found)
