"""Bar charts as SVG, for light and dark pages: horizontal bars of medians with whiskers from the lowest to the
highest round.

Text, not paths, so that a reader can search it; the colours follow the page's scheme. Each panel has an axis of its
own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, LABELS, VALUES, MARGIN = 860, 300, 90, 16
ROW, BAR, TITLE, PANEL_TITLE, AXIS = 22, 13, 36, 26, 34
TICKS = 5

STYLE = """
svg {
  --back: #ffffff; --text: #1f2328; --faint: #59636e; --grid: #d1d9e0; --ours: #0969da; --theirs: #8c959f;
}
@media (prefers-color-scheme: dark) {
  svg { --back: #0d1117; --text: #f0f6fc; --faint: #9198a1; --grid: #3d444d; --ours: #4493f8; --theirs: #656c76; }
}
text { font: 12px system-ui, sans-serif; fill: var(--text); }
.title { font-size: 15px; font-weight: 600; }
.panel { font-weight: 600; }
.tick { fill: var(--faint); font-size: 11px; }
.back { fill: var(--back); }
.grid { stroke: var(--grid); }
.ours { fill: var(--ours); }
.theirs { fill: var(--theirs); }
.whisker { stroke: var(--text); stroke-width: 1.5; fill: none; }
"""


@dataclass(frozen=True)
class Bar:
    """A contender's median, lowest and highest, in the chart's unit, and the median as it is written."""

    name: str
    low: float
    median: float
    high: float
    text: str
    ours: bool


@dataclass(frozen=True)
class Panel:
    """Bars on one axis."""

    title: str
    bars: Sequence[Bar]


def draw(path: Path, title: str, unit: str, panels: Sequence[Panel]) -> None:
    """Writes a chart."""
    parts = [text(MARGIN, MARGIN + 12, title, "title")]
    top = float(TITLE)
    for panel in panels:
        drawn, top = draw_panel(panel, unit, top)
        parts += drawn
    height = top + MARGIN
    size = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    back = f'<rect class="back" width="{WIDTH}" height="{height:.0f}"/>'
    path.write_text("\n".join([head, f"<style>{STYLE}</style>", back, *parts, "</svg>"]) + "\n")


def draw_panel(panel: Panel, unit: str, top: float) -> tuple[list[str], float]:
    """A panel below `top`, and where it ends."""
    parts = []
    if panel.title:
        parts.append(text(MARGIN, top + 14, panel.title, "panel"))
        top += PANEL_TITLE
    step = tick_step(max((bar.high for bar in panel.bars), default=1.0))
    most = step * TICKS
    across = WIDTH - LABELS - VALUES - MARGIN
    bottom = top + ROW * len(panel.bars)

    def x(value: float) -> float:
        return LABELS + across * value / most

    for tick in range(TICKS + 1):
        at = x(step * tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {top:.1f}V{bottom:.1f}"/>')
        label = f"{step * tick:,.10g}" + (f" {unit}" if tick == TICKS else "")
        parts.append(text(at, bottom + 15, label, "tick", "middle"))
    for row, bar in enumerate(panel.bars):
        middle = top + ROW * row + ROW / 2
        parts.append(text(LABELS - 8, middle + 4, bar.name, "", "end"))
        kind = "ours" if bar.ours else "theirs"
        place = f'x="{LABELS}" y="{middle - BAR / 2:.1f}" width="{x(bar.median) - LABELS:.1f}" height="{BAR}"'
        parts.append(f'<rect class="{kind}" {place}/>')
        low, high = x(bar.low), x(bar.high)
        cap = f"M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"
        parts.append(f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}{cap}"/>')
        parts.append(text(max(high, x(bar.median)) + 8, middle + 4, bar.text))
    return parts, bottom + AXIS


def tick_step(most: float) -> float:
    """A round step of which five reach `most`."""
    rough = max(most, 1e-9) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= rough * 0.999)


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text."""
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes} text-anchor="{anchor}">{escape(content)}</text>'
