"""Commands that size links and stores from journals: churn, plan-capacity."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import hrl
from hrl import plot
from hrl.cli.commands import command
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import Json, KeyFile, PolicyFile, VaultUrl, Volumes, duration_of, open_vault, time_of
from hrl.cli.output import Table, fields, print_json, progress_bar, say
from hrl.cli.policy import policy_of, read_policy
from hrl.cli.targets import published
from hrl.cli.times import Duration
from hrl.cli.volumes import EachVolume
from hrl.words import count, human, local

From = Annotated[str | None, time_of("--from", "Leave out what was written before.")]
To = Annotated[str | None, time_of("--to", "Leave out what was written from then on.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw it to a file whose name ends with .svg or .png.")
]


def draw(draw_to: Callable[[Path], None], to: Path) -> None:
    """Draws to a file, and refuses if that is not possible."""
    try:
        with published(to, overwrite=True) as new:
            draw_to(new)
    except plot.PlotError as error:
        raise Refused(str(error), Exit.UNSUPPORTED) from None


@command("churn")
def churn(
    vault: Annotated[str, typer.Argument(metavar="VAULT|FILE.hrl", help="A vault, or the first of several journals.")],
    volumes: Annotated[
        list[str] | None, typer.Argument(metavar="[VOLUME]...|[FILE.hrl]...", help="Volumes (default: all) or journals.")
    ] = None,
    bucket: Annotated[Duration, duration_of("--bucket", "Count in buckets of this length.")] = Duration("60s"),
    since: From = None,
    until: To = None,
    to: Plot = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows how much volumes are written to over time, from their journals. Reads indexes, not data."""
    options: dict[str, Any] = {"bucket": bucket, "since": since, "until": until}
    found: dict[str, dict[str, Any]] = {}
    each: EachVolume | None = None
    if vault.endswith(".hrl"):
        files = [Path(vault), *map(Path, volumes or [])]
        found["journals"] = fields(hrl.churn([hrl.Segment(file) for file in files], **options))
    else:
        opened = open_vault(vault, key_file)
        each = EachVolume(opened, volumes)

        def work(name: str) -> dict[str, Any]:
            with progress_bar(f"Reading {name}") as progress:
                return fields(opened.replica(name).churn(**options, progress=progress))

        found = each.do(work)
    if to:
        for name, one in found.items():
            file = to if len(found) == 1 else to.with_stem(f"{to.stem}-{name}")
            draw(partial(plot.churn, one, title=f"Churn of {name}"), file)
    if json:
        print_json(found)
    else:
        show_churn(found)
    if each is not None:
        each.end()


def show_churn(found: dict[str, dict[str, Any]]) -> None:
    """Prints how much was written, and what the figures leave out."""
    show_totals(found)
    for name, one in found.items():
        if one["segments_folded"]:
            folded = count(one["segments_folded"], "folded segment")
            say(f"note: {name}: churn does not count {folded}; keep all states for longer")
        if one["is_sampled"]:
            say(f"note: {name}: unique bytes of the busiest buckets are estimates")


def show_totals(found: dict[str, dict[str, Any]]) -> None:
    """Prints a table with a column for each volume."""
    names = [f"volume {name}" for name in found] if len(found) == 1 else list(found)
    table = Table("", *names, right=tuple(names))
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "first write": lambda c: local(c["buckets"][0]["start"]) if c["buckets"] else "-",
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
        "top bucket": lambda c: f"{human(c['top']['written_bytes'])} at {local(c['top']['start'])}" if c["top"] else "-",
        "half of buckets up to": percentile("50"),
        "90 % of buckets up to": percentile("90"),
        "95 % of buckets up to": percentile("95"),
        "99 % of buckets up to": percentile("99"),
        "copied and resynced": lambda c: human(c["total"]["resync_stored_bytes"]),
    }
    for name, row in rows.items():
        table.add(name, *(row(one) for one in found.values()))
    table.print()


def percentile(percent: str) -> Callable[[dict[str, Any]], str]:
    """Returns the row of the bytes that so many percent of the buckets do not exceed."""
    return lambda c: human(c["percentiles"]["written_bytes"][percent])


def rate(one: dict[str, Any], name: str, per_seconds: float) -> float:
    """Returns bytes per time, over all of the time looked at."""
    return float(one["total"][name]) / one["duration_seconds"] * per_seconds if one["duration_seconds"] else 0.0


def ratio(a: float, b: float) -> str:
    """Returns how many times `b` fits into `a`."""
    return f"{a / b:.2f}" if b else "-"


@command("plan-capacity")
def plan_capacity(
    vault: VaultUrl,
    volumes: Volumes = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            "--bandwidth", metavar="RATE", help="What the link carries: bytes a second, such as 8M. Default: no limit."
        ),
    ] = None,
    policy: PolicyFile = None,
    rpo_target: Annotated[
        Duration | None, duration_of("--rpo-target", "Find the slowest link that keeps this RPO 99 % of the time.")
    ] = None,
    latency: Annotated[Duration, duration_of("--latency", "Time of a request to the store.")] = Duration("20ms"),
    days: Annotated[
        int | None,
        typer.Option("--days", help="Days of the vault. Default: until it no longer grows, 30 if it always does."),
    ] = None,
    deletion_delay: Annotated[
        Duration, duration_of("--deletion-delay", "Time for which deleted objects take space; 14d behind a gateway.")
    ] = Duration("0"),
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

    The journals may have been made with another policy and link. The guide says what is assumed.
    """
    opened = open_vault(vault, key_file)
    each = EachVolume(opened, volumes)
    replicas = each.do(opened.replica)
    link = bytes_per_second(bandwidth) if bandwidth else None
    with progress_bar("Reading journals") as progress, policy_of(policy):
        planned = hrl.plan_capacity(
            list(replicas.values()),
            policy=read_policy(policy),
            link=link,
            latency=latency,
            since=since,
            until=until,
            days=days,
            rpo_target=rpo_target,
            progress=progress,
            deletion_delay=deletion_delay,
        )
    found = fields(planned)
    found["from"], found["to"] = found.pop("from_time"), found.pop("to_time")
    found["month"] = month(found, price_put, price_get, price_gb)
    if to:
        draw(partial(plot.plan, found, link=link, title=", ".join(replicas)), to)
    if json:
        print_json(found)
    else:
        show_plan(found, rpo_target)
    each.end()


def bytes_per_second(text: str) -> int:
    """Returns a rate such as 8M in bytes a second."""
    power = "KMG".find(text[-1:].upper()) + 1 if text else 0
    digits = text[:-1] if power else text
    if not digits.isdigit() or not 64 <= int(digits) << 10 * power <= 1 << 40:
        expected = "bytes a second such as 500K, 8M or 1G"
        raise Refused(f"cannot read --bandwidth {text}: expected {expected}", Exit.INVALID_INPUT)
    return int(digits) << 10 * power


def month(found: dict[str, Any], put: float, get: float, gib: float) -> dict[str, float]:
    """Returns what 30 days like the last one cost: requests and bytes."""
    day = found["days"][-1]
    requests = ((day["put"] + day["list"]) * put + (day["get"] + day["head"]) * get) / 1000 * 30
    return {"requests": requests, "bytes": day["vault_bytes"] / 2**30 * gib}


def show_plan(found: dict[str, Any], rpo_target: Duration | None) -> None:
    """Prints the plan: volumes, then what they need together."""
    columns = ("RPO max", "p99", "median", "spool max", "spool full", "written", "shipped", "vault")
    table = Table("volume", *columns, right=columns)
    for v in found["volumes"]:
        rpo = (plot.span(v[f"rpo_{name}_seconds"]) for name in ("max", "p99", "median"))
        sizes = (human(v["written_bytes"]), human(v["shipped_bytes"]), human(v["days"][-1]["vault_bytes"]))
        full = local(v["spool_full_at"]) if v["spool_full_at"] else "never"
        table.add(v["name"], *rpo, human(v["spool_bytes_max"]), full, *sizes)
    table.print()
    last = found["days"][-1]
    rows = {"journals": f"{local(found['from'])} to {local(found['to'])}"}
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
    rows["vault"] = f"{human(last['vault_bytes'])} after {count(len(found['days']), 'day')}" + f" ({steady})"
    verbs = ("put", "get", "list", "head", "delete")
    rows["requests a day"] = ", ".join(f"{last[verb]:,.0f} {verb}" for verb in verbs)
    if any(found["month"].values()):
        rows["cost of a month"] = f"{found['month']['requests']:,.2f} requests, {found['month']['bytes']:,.2f} bytes"
    for name, row in rows.items():
        say(f"{name + ':':<18} {row}")
    for v in found["volumes"]:
        if v["spool_full_at"]:
            at = local(v["spool_full_at"])
            say(f"note: {v['name']}: the policy's spool is full at {at}: no points from then until a resync")
