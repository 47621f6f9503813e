"""Numbers, times and foreign text as words for people."""

import unicodedata
from datetime import UTC, datetime

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def human(count: float) -> str:
    """A number of bytes."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def span(seconds: float) -> str:
    """A length of time, to its two largest units."""
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


def when(time: str) -> str:
    """A time as the catalog has it, to the second."""
    return time[:19].replace("T", " ")


def moment(nanos: int) -> str:
    """Nanoseconds since 1970 as such a time."""
    return f"{datetime.fromtimestamp(nanos // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S}"


def nanoseconds(time: str | datetime) -> int:
    """A time as nanoseconds since 1970."""
    parsed = datetime.fromisoformat(time) if isinstance(time, str) else time
    return int(parsed.timestamp()) * 1_000_000_000 + parsed.microsecond * 1000


def now_nanoseconds() -> int:
    """Now, as nanoseconds since 1970."""
    return nanoseconds(datetime.now(UTC))


def clean(text: str) -> str:
    """Text of others without characters that cannot be seen: they could hide what it says, or turn it around."""
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def short(identity: str) -> str:
    """The first digits of an identity."""
    return identity[:8]
