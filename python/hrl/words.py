"""Numbers, times and foreign text as words for people.

`clean` is the one function that makes foreign text safe to show: the command, the report, mail and metrics pass every
label, name and message through it. HTML is escaped by the template engine as well.
"""

import unicodedata
from datetime import UTC, datetime

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
SHORT_DIGITS = 8


def human(count: float) -> str:
    """Returns a number of bytes with its unit."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Returns a number and its noun: `1 point`, `2 points`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def span(seconds: float) -> str:
    """Returns a length of time in its two largest units."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    words: list[str] = []
    for unit, name in SPANS:
        if left >= unit or words:
            words.append(f"{left // unit} {name}")
            left %= unit
        if len(words) == 2:
            break
    return " ".join(word for at, word in enumerate(words) if at == 0 or not word.startswith("0 "))


def age(seconds: float) -> str:
    """Returns a length of time in its largest unit, for a column of a table."""
    left = max(round(seconds), 0)
    unit, name = next(((unit, name) for unit, name in SPANS if left >= unit), SPANS[-1])
    return f"{left // unit} {name}"


def when(time: str) -> str:
    """Returns a time of the catalog to the second, in UTC."""
    return time[:19].replace("T", " ")


def local(time: str) -> str:
    """Returns a time of the catalog to the second, in the local time zone."""
    try:
        return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        # No calendar of Python's has it. It is shown as it was recorded.
        return when(time)


def zone() -> str:
    """Returns the name of the local time zone."""
    return zone_at(datetime.now())


def zone_at(moment: datetime) -> str:
    """Returns the name of the local time zone at a moment, which differs in summer."""
    return moment.astimezone().tzname() or "local"


def moment(nanos: int) -> str:
    """Returns nanoseconds since 1970 as a time to the second, in UTC."""
    return f"{datetime.fromtimestamp(nanos // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S}"


def nanoseconds(time: str | datetime) -> int:
    """Returns a time as nanoseconds since 1970."""
    parsed = datetime.fromisoformat(time) if isinstance(time, str) else time
    return int(parsed.timestamp()) * 1_000_000_000 + parsed.microsecond * 1000


def now_nanoseconds() -> int:
    """Returns the current time as nanoseconds since 1970."""
    return nanoseconds(datetime.now(UTC))


def clean(text: str) -> str:
    """Returns foreign text as one line without characters that cannot be seen.

    Such characters could hide what the text says, turn it around, or control the terminal.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if c in "\t\n\r" else "�" if unicodedata.category(c) in UNSEEN else c for c in text)


def short(identity: str) -> str:
    """Returns the first digits of an identity."""
    return identity[:SHORT_DIGITS]
