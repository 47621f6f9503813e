"""Commands that size links and stores from what journals say: churn."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import hrl
from hrl import plot
from hrl.cli.base import EXIT_CODES, Json, KeyFile, Refused, app, human, open_vault, print_json, print_table, progress_bar
from hrl.cli.vault import table_of

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Volumes = Annotated[list[str] | None, typer.Argument(metavar="[VOLUME]...", help="Names of volumes. Default: all.")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Leave out what was written before.")]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Leave out what was written from then on.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: a name ending with .svg or .png.")]


def seconds(text: str) -> float:
    """A time such as 60s, 5m, 1h or 2d in seconds."""
    number, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    try:
        value = float(number) * unit
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise Refused(f"cannot read {text}: expected a time such as 60s, 5m, 1h or 2d", 2)
    return value


def draw(draw_to: Callable[[Path], None], to: Path) -> None:
    """Draws; what is missing for it is told in one line."""
    try:
        draw_to(to)
    except plot.PlotError as error:
        raise Refused(str(error), EXIT_CODES["unsupported"]) from None


@app.command()
def churn(
    vault: Annotated[str, typer.Argument(metavar="VAULT|FILE.hrl", help="A vault, or the first of several journals.")],
    volumes: Annotated[
        list[str] | None, typer.Argument(metavar="[VOLUME]...|[FILE.hrl]...", help="Volumes (default: all) or journals.")
    ] = None,
    bucket: Annotated[str, typer.Option("--bucket", metavar="TIME", help="Length of a bucket: 60s, 5m, 1h.")] = "60s",
    since: From = None,
    until: To = None,
    to: Plot = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows how much volumes are written to over time, as their journals tell. Reads indexes, not data."""
    options: dict[str, Any] = {"bucket": seconds(bucket), "since": since, "until": until}
    found: dict[str, dict[str, Any]] = {}
    if vault.endswith(".hrl"):
        files = [Path(vault), *map(Path, volumes or [])]
        found["journals"] = hrl.churn([hrl.Segment(file) for file in files], **options)
    else:
        opened = open_vault(vault, key_file)
        for name in volumes or [info["name"] for info in opened.volumes()]:
            with progress_bar(f"Reading {name}") as tell:
                found[name] = opened.replica(name).churn(**options, progress=tell)
    if to:
        for name, one in found.items():
            file = to if len(found) == 1 else to.with_stem(f"{to.stem}-{name}")
            draw(partial(plot.churn, one, title=f"Churn of {name}"), file)
    if json:
        return print_json(found)
    show_totals(found)
    for name, one in found.items():
        if one["segments_folded"]:
            print(
                f"note: {name}: {one['segments_folded']} folded segments tell nothing of churn; keep all states for longer"
            )
        if one["is_sampled"]:
            print(f"note: {name}: unique bytes of the busiest buckets are estimates")


def show_totals(found: dict[str, dict[str, Any]]) -> None:
    """A table with a column for each volume."""
    table = table_of("", *found)
    for column in table.columns[1:]:
        column.justify = "right"
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "first write": lambda c: c["buckets"][0]["start"] if c["buckets"] else "-",
        "time looked at": lambda c: plot.span(c["duration_seconds"]),
        "writes": lambda c: f"{c['total']['records']:,}",
        "written": lambda c: human(c["total"]["written_bytes"]),
        "unique in a bucket": lambda c: human(c["total"]["unique_bytes"]),
        "stored": lambda c: human(c["total"]["stored_bytes"]),
        "written per stored": lambda c: ratio(c["total"]["written_bytes"], c["total"]["stored_bytes"]),
        "written per hour": lambda c: human(rate(c, "written_bytes", 3600)),
        "written per day": lambda c: human(rate(c, "written_bytes", 86_400)),
        "stored per hour": lambda c: human(rate(c, "stored_bytes", 3600)),
        "stored per day": lambda c: human(rate(c, "stored_bytes", 86_400)),
        "top bucket": lambda c: f"{human(c['top']['written_bytes'])} at {c['top']['start']}" if c["top"] else "-",
        "half of buckets up to": percentile("50"),
        "90 % of buckets up to": percentile("90"),
        "95 % of buckets up to": percentile("95"),
        "99 % of buckets up to": percentile("99"),
        "copied and resynced": lambda c: human(c["total"]["resync_stored_bytes"]),
    }
    for name, row in rows.items():
        table.add_row(name, *(row(one) for one in found.values()))
    print_table(table)


def percentile(percent: str) -> Callable[[dict[str, Any]], str]:
    """A row of the bytes that so many buckets do not exceed."""
    return lambda c: human(c["percentiles"]["written_bytes"][percent])


def rate(one: dict[str, Any], name: str, per_seconds: float) -> float:
    """Bytes per time, over all of the time looked at."""
    return float(one["total"][name]) / one["duration_seconds"] * per_seconds if one["duration_seconds"] else 0.0


def ratio(a: float, b: float) -> str:
    """How many times `b` fits into `a`."""
    return f"{a / b:.2f}" if b else "-"
