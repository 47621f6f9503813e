"""Pictures of churn and of capacity plans, as SVG or PNG by the ending of the file's name.

Needs matplotlib: `pip install 'hrl[plot]'`. Nothing is shown on a screen; no display is needed.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrl import CapacityPlan, Churn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".svg", ".png")
INK, QUIET, GRID = "#1f2933", "#616e7c", "#e4e7eb"
SKY, BLUE, TEAL, AMBER, RED = "#a9c5e3", "#2563a8", "#2a9d8f", "#c77d0a", "#c0392b"
# Label of charts whose values are seconds; the others are bytes.
SECONDS = "seconds"
BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class PlotError(Exception):
    """A picture cannot be drawn: matplotlib is missing, or the file's ending is not known."""


def churn(found: Churn | Mapping[str, Any], to: str | Path, *, title: str = "Churn") -> None:
    """Draws what `Replica.churn` or `hrl.churn` gave: bytes written, unique and stored in each bucket."""
    figure = _figure(1, to)
    axes = figure.axes[0]
    width = found["bucket_seconds"]
    times, columns = _dense(found["buckets"], width)
    _bars(axes, times, columns, width, [("written_bytes", "written", SKY), ("unique_bytes", "unique", TEAL)])
    axes.step(times, [c["stored_bytes"] for c in columns], where="post", color=AMBER, lw=1.4, label="stored (shipped)")
    p95 = found["percentiles"]["written_bytes"]["95"]
    axes.axhline(p95, color=INK, lw=0.9, ls=(0, (4, 3)), label=f"95 % of buckets: {human(p95)}")
    _finish(figure, [f"{title}: bytes per {span(width)}"], to)


def plan(
    found: CapacityPlan | Mapping[str, Any], to: str | Path, *, link: float | None = None, title: str = "Capacity"
) -> None:
    """Draws what `hrl.plan_capacity` gave: RPO, spool, shipping against the link, and the vault over the days.

    `link` is the capacity that was planned with, in bytes a second.
    """
    figure = _figure(4, to)
    samples = found["samples"]
    starts = [_seconds(sample["start"]) for sample in samples]
    width = (starts[-1] - starts[0]) / max(len(starts) - 1, 1)
    times = [_time(start) for start in [*starts, starts[-1] + width]]

    def steps(name: str, scale: float = 1) -> list[float]:
        values = [sample[name] * scale for sample in samples]
        return [*values, values[-1]]

    rpo, spool, shipping, vault = figure.axes
    rpo.set_label(SECONDS)
    rpo.fill_between(times, steps("rpo_max_seconds"), step="post", color=SKY, lw=0, label="RPO")
    p99 = max(volume["rpo_p99_seconds"] for volume in found["volumes"])
    rpo.axhline(p99, color=INK, lw=0.9, ls=(0, (4, 3)), label=f"99 % of the time: {span(p99)}")
    spool.fill_between(times, steps("spool_bytes_max"), step="post", color=TEAL, lw=0, label="waiting in the spool")
    full = [volume["spool_full_at"] for volume in found["volumes"] if volume["spool_full_at"]]
    if full:
        spool.axvline(_time(_seconds(min(full))), color=RED, lw=1.4, label="spool full: dirty mode")
    shipping.fill_between(times, steps("sealed_bytes", 1 / width), step="post", color=SKY, lw=0, label="written, as stored")
    shipping.step(times, steps("sent_bytes", 1 / width), where="post", color=BLUE, lw=1.2, label="on the link")
    if link:
        shipping.axhline(link, color=RED, lw=1.2, ls=(0, (4, 3)), label=f"link: {human(link)}/s")
    days = [day["vault_bytes"] for day in found["days"]]
    vault.bar(range(1, len(days) + 1), days, width=0.8, color=AMBER, label="vault at the end of the day")
    _finish(figure, [f"{title}: RPO", "Spool", "Bytes a second", "Vault, days from the begin"], to, numbered=vault)


def human(count: float, _position: object = None) -> str:
    """Returns a number of bytes for people."""
    unit = 0
    while abs(count) >= 1024 and unit < len(BYTES) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {BYTES[unit]}" if unit == 0 or count >= 100 or count == int(count) else f"{count:.1f} {BYTES[unit]}"


def span(seconds: float, _position: object = None) -> str:
    """Returns a time for people."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:.3g} ms"


def _figure(rows: int, to: str | Path) -> "Figure":
    """Makes an empty figure of charts above each other, on the backend that draws to files."""
    if Path(to).suffix.lower() not in ENDINGS:
        raise PlotError(f"cannot draw {to}: expected a name that ends with {' or '.join(ENDINGS)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotError("cannot draw without matplotlib: pip install 'hrl[plot]'") from None
    figure = Figure(figsize=(10, 0.6 + 2.9 * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.subplots(rows, 1, squeeze=False)
    return figure


def _dense(buckets: Sequence[Mapping[str, Any]], width: float) -> tuple[list[float], list[Mapping[str, Any]]]:
    """Returns times and buckets, with an empty bucket around each quiet interval, so that a line falls to zero there."""
    times: list[float] = []
    columns: list[Mapping[str, Any]] = []
    empty = {"written_bytes": 0, "unique_bytes": 0, "stored_bytes": 0}
    after = None
    for bucket in buckets:
        start = _seconds(bucket["start"])
        if after is not None and start > after:
            times.append(_time(after))
            columns.append(empty)
        times.append(_time(start))
        columns.append(bucket)
        after = start + width
    if after is not None:
        times.append(_time(after))
        columns.append(empty)
    return times, columns


def _bars(
    axes: "Axes",
    times: Sequence[float],
    columns: Sequence[Mapping[str, Any]],
    width: float,
    series: Sequence[tuple[str, str, str]],
) -> None:
    """Draws filled steps: bars without gaps, which are one path however many there are."""
    for name, label, color in series:
        axes.fill_between(times, [c[name] for c in columns], step="post", color=color, lw=0, label=label)


def _finish(figure: "Figure", titles: Sequence[str], to: str | Path, numbered: "Axes | None" = None) -> None:
    """Finishes axes and legends, and writes the file. The chart `numbered` has no times."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    for axes, title in zip(figure.axes, titles, strict=True):
        axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        if axes.get_label() == SECONDS:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 3, 6, 10]))
            axes.yaxis.set_major_formatter(FuncFormatter(span))
        else:
            top = max(axes.get_ylim()[1], 1.0)
            axes.yaxis.set_major_locator(MultipleLocator(2.0 ** math.floor(math.log2(top / 2.5))))
            axes.yaxis.set_major_formatter(FuncFormatter(human))
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(QUIET)
        axes.tick_params(colors=QUIET, labelcolor=QUIET, length=0, labelsize=9)
        if axes.get_legend_handles_labels()[0]:
            # Above the chart, so that no curve is hidden.
            look: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handlelength": 1.4}
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1.0), borderaxespad=0.2, ncols=4, columnspacing=1.2, **look)
        if axes is numbered:
            axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
            continue
        locator = AutoDateLocator(minticks=3, maxticks=9, tz=UTC)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
        axes.xaxis.get_offset_text().set_color(QUIET)
        axes.set_xlabel("UTC", loc="left", color=QUIET, fontsize=9)
    # No date inside, so that the same figures give the same file.
    kind = Path(to).suffix.lower()
    figure.savefig(to, dpi=150, metadata={"Date": None} if kind == ".svg" else {"Software": None})


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _time(seconds: float) -> float:
    """Returns days since 1970, which matplotlib calls a date."""
    return seconds / 86_400
