"""The charts of the report: inline SVG without text, so that they stretch to any width.

Titles and axes are HTML around them (see page.html). A chart has at most `COLUMNS` columns, whatever the vault holds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLUMNS = 240
HEIGHT = 100.0
COLUMNS_MIN = 24
# A span is drawn at least as wide as this share of the time.
SLIVER = 0.002
DRAWING = '<svg viewBox="0 0 1000 {height:g}" preserveAspectRatio="none" role="img" aria-label="{label}">'


@dataclass(frozen=True)
class Span:
    """A stretch of time in nanoseconds, drawn in the style of a CSS class, with a tooltip."""

    begin: int
    end: int
    style: str
    title: str = ""


def columns(values: Iterable[tuple[int, float]], begin: int, end: int, *, add: bool, count: int) -> list[float | None]:
    """Returns values by time as `count` columns: their sum, or their highest. A column without a value is `None`."""
    found: list[float | None] = [None] * count
    width = max(end - begin, 1)
    for time, value in values:
        at = min(max((time - begin) * count // width, 0), count - 1)
        old = found[at]
        found[at] = value if old is None else old + value if add else max(old, value)
    return found


def bars(label: str, top: float, *series: tuple[str, Sequence[float | None]]) -> Markup:
    """Draws bars on top of each other, up to `top`. Each series is one path in the style of a CSS class."""
    parts = [Markup(DRAWING).format(height=HEIGHT, label=label)]
    below = [0.0] * max(len(values) for _, values in series)
    for style, values in series:
        path = []
        width = 1000 / len(values)
        for at, value in enumerate(values):
            if value:
                height = max(value / top * HEIGHT, 0.8) if top else 0.8
                y = max(HEIGHT - below[at] - height, 0.0)
                path.append(f"M{at * width:.2f} {y:.2f}h{width * 0.86:.2f}v{height:.2f}h-{width * 0.86:.2f}z")
                below[at] += height
        parts.append(Markup('<path class="{}" d="{}"/>').format(style, "".join(path)))
    return Markup("").join([*parts, Markup("</svg>")])


def strip(label: str, spans: Sequence[Span], ticks: Iterable[tuple[int, str]], begin: int, end: int) -> Markup:
    """Draws a line of time: spans as a band, and ticks above it, at most one in each column."""
    width = max(end - begin, 1)

    def x(time: int) -> float:
        return min(max((time - begin) / width, 0.0), 1.0) * 1000

    parts = [Markup(DRAWING).format(height=40, label=label)]
    marks: dict[str, set[int]] = {}
    for time, style in ticks:
        marks.setdefault(style, set()).add(round(x(time) / 1000 * 500))
    for style, places in marks.items():
        path = "".join(f"M{place * 2 - 0.6:g} 0h1.2v10h-1.2z" for place in sorted(places))
        parts.append(Markup('<path class="{}" d="{}"/>').format(style, path))
    for span in spans:
        long = max(x(span.end) - x(span.begin), SLIVER * 1000)
        start = min(x(span.begin), 1000 - long)
        box = '<rect class="{}" x="{:.2f}" y="14" width="{:.2f}" height="26"><title>{}</title></rect>'
        parts.append(Markup(box).format(span.style, start, long, span.title))
    return Markup("").join([*parts, Markup("</svg>")])
