"""Commands that size links and stores from what journals say: churn, plan-capacity."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import hrl
from hrl import plot
from hrl.cli.base import EXIT_CODES, Json, KeyFile, Refused, app, human, open_vault, print_json, print_table, progress_bar
from hrl.cli.protect import read_policy
from hrl.cli.vault import VaultUrl, table_of

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
Volumes = Annotated[list[str] | None, typer.Argument(metavar="[VOLUME]...", help="Names of volumes. Default: all.")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Leave out what was written before.")]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Leave out what was written from then on.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: a name ending with .svg or .png.")]


def seconds(text: str) -> float:
    """A time such as 60s, 5m, 1h or 2d in seconds."""
    name = next((name for name in UNITS if text.endswith(name)), "")
    number, unit = text.removesuffix(name), UNITS.get(name, 1)
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


@app.command("plan-capacity")
def plan_capacity(
    vault: VaultUrl,
    volumes: Volumes = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            "--bandwidth", metavar="RATE", help="What the link carries: bytes a second, with K, M or G. Default: no limit."
        ),
    ] = None,
    policy: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="TOML with policy values.")] = None,
    rpo_target: Annotated[
        str | None,
        typer.Option("--rpo-target", metavar="TIME", help="Find the slowest link that keeps it 99 % of the time."),
    ] = None,
    latency: Annotated[str, typer.Option("--latency", metavar="TIME", help="What the store takes for a request.")] = "20ms",
    days: Annotated[
        int | None,
        typer.Option("--days", help="Days of the vault. Default: until it no longer grows, 30 if it always does."),
    ] = None,
    price_put: Annotated[float, typer.Option("--price-put", help="Price of 1,000 puts or lists.")] = 0.0,
    price_get: Annotated[float, typer.Option("--price-get", help="Price of 1,000 gets or heads.")] = 0.0,
    price_gb: Annotated[float, typer.Option("--price-gb", help="Price of a GiB for a month.")] = 0.0,
    since: From = None,
    until: To = None,
    to: Plot = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Plays the journals of volumes that share a link, and predicts RPO, spool, vault and requests.

    The journals may have been made with another policy and link. What is assumed is said in the README.
    """
    opened = open_vault(vault, key_file)
    names = volumes or [info["name"] for info in opened.volumes()]
    link = bytes_per_second(bandwidth) if bandwidth else None
    with progress_bar("Reading journals") as tell:
        found = hrl.plan_capacity(
            [opened.replica(name) for name in names],
            policy=read_policy(policy),
            link=link,
            latency=seconds(latency),
            since=since,
            until=until,
            days=days,
            rpo_target=seconds(rpo_target) if rpo_target else None,
            progress=tell,
        )
    found["month"] = month(found, price_put, price_get, price_gb)
    if to:
        draw(partial(plot.plan, found, link=link, title=", ".join(names)), to)
    if json:
        return print_json(found)
    show_plan(found, rpo_target)


def bytes_per_second(text: str) -> int:
    """A rate such as 8M in bytes a second."""
    power = "KMG".find(text[-1:].upper()) + 1 if text else 0
    digits = text[:-1] if power else text
    if not digits.isdigit() or not 64 <= int(digits) << 10 * power <= 1 << 40:
        raise Refused(f"cannot read {text}: expected bytes a second such as 500K, 8M or 1G", 2)
    return int(digits) << 10 * power


def month(found: dict[str, Any], put: float, get: float, gib: float) -> dict[str, float]:
    """What 30 days as the last one cost: requests and bytes."""
    day = found["days"][-1]
    requests = ((day["put"] + day["list"]) * put + (day["get"] + day["head"]) * get) / 1000 * 30
    return {"requests": requests, "bytes": day["vault_bytes"] / 2**30 * gib}


def show_plan(found: dict[str, Any], rpo_target: str | None) -> None:
    """The plan for people: volumes, then what they need together."""
    table = table_of("volume", "RPO max", "p99", "median", "spool max", "spool full", "written", "shipped", "vault")
    for column in table.columns[1:]:
        column.justify = "right"
    for v in found["volumes"]:
        rpo = (plot.span(v[f"rpo_{name}_seconds"]) for name in ("max", "p99", "median"))
        sizes = (human(v["written_bytes"]), human(v["shipped_bytes"]), human(v["days"][-1]["vault_bytes"]))
        table.add_row(v["name"], *rpo, human(v["spool_bytes_max"]), v["spool_full_at"] or "never", *sizes)
    print_table(table)
    last = found["days"][-1]
    rows = {"journals": f"{found['from']} to {found['to']}"}
    if found["link_use"] is not None:
        rows["link"] = f"{found['link_use']:.0%} used" + ("" if found["is_sustainable"] else "; too slow: the backlog grows")
    elif not found["is_sustainable"]:
        rows["bandwidth"] = "the policy allows too little: the backlog grows"
    if rpo_target:
        least = found["least_bytes_per_second"]
        rows[f"RPO below {rpo_target}"] = (
            f"a link of {human(least)}/s" if least else "no link keeps it: see policy and latency"
        )
    steady = f"{human(found['steady_bytes'])}, and no longer grows" if found["steady_bytes"] else "still growing"
    rows["vault"] = f"{human(last['vault_bytes'])} after {len(found['days'])} days" + f" ({steady})"
    verbs = ("put", "get", "list", "head", "delete")
    rows["requests a day"] = ", ".join(f"{last[verb]:,.0f} {verb}" for verb in verbs)
    if any(found["month"].values()):
        rows["cost of a month"] = f"{found['month']['requests']:,.2f} requests, {found['month']['bytes']:,.2f} bytes"
    for name, row in rows.items():
        print(f"{name + ':':<18} {row}")
    for v in found["volumes"]:
        if v["spool_full_at"]:
            print(f"note: {v['name']}: the policy's spool is full at {v['spool_full_at']}: no points then until a resync")
