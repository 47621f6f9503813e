"""Commands of consistency groups: hrl group create, run, join, leave, remove, status, point, points."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hrl import GroupCoordinator
from hrl.cli.base import Json, KeyFile, Refused, app, fields, open_vault, out, print_json, print_table
from hrl.cli.control import ControlServer, ask
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.protect import StateDirectory, tell_event
from hrl.cli.signals import ended_by_signals

CONFIGURATION = "group.toml"
group = typer.Typer(name="group", help="Consistency groups: one cut across many machines.", no_args_is_help=True)
app.add_typer(group)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the coordinator.")]
Limit = Annotated[float, typer.Option("--limit", metavar="SECONDS", help="Give up after this.")]


@group.command()
def create(
    directory: Directory,
    name: Annotated[str, typer.Option("--name", help="Name of the group.")],
    pki: Annotated[Path, typer.Option("--pki", metavar="DIR", help="Certificates and enrolled clients; see hrl enroll.")],
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where members reach it.")] = "0.0.0.0:20004",
    budget_ms: Annotated[int, typer.Option("--budget-ms", help="Writers are never held longer than this.")] = 300,
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", help="Crash points; 0 is never.")] = 60,
    app_interval: Annotated[
        float,
        typer.Option("--app-interval", metavar="SECONDS", help="Application-consistent points; 0 is never."),
    ] = 0,
    quiesce_limit: Annotated[
        float, typer.Option("--quiesce-limit", metavar="SECONDS", help="Applications are quiesced within this.")
    ] = 10,
) -> None:
    """Makes a group: writes DIR/group.toml for `hrl group run`. Members join by themselves."""
    path = directory / CONFIGURATION
    if path.exists():
        raise Refused(f"there is a group in {directory}; edit {path} to change it", 4)
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"name = {quoted(name)}\npki = {quoted(str(pki.resolve()))}\nlisten = {quoted(listen)}\n"
        f"budget_ms = {budget_ms}\ninterval_seconds = {interval}\napp_interval_seconds = {app_interval}\n"
        f"quiesce_limit_seconds = {quiesce_limit}\n"
    )


def quoted(text: str) -> str:
    """A text as a TOML string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_configuration(directory: Path) -> dict[str, Any]:
    """The group file of a directory."""
    path = directory / CONFIGURATION
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Refused(f"{path} is not there; make the group with hrl group create", 3) from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"cannot read {path}: {error}", 2) from None


def coordinator_of(
    directory: Path, chosen: dict[str, Any], on_event: Callable[[dict[str, str]], object]
) -> GroupCoordinator:
    """Starts the coordinator that a directory describes."""
    try:
        return GroupCoordinator(
            chosen["name"],
            state=directory,
            pki=chosen["pki"],
            listen=chosen.get("listen", "0.0.0.0:20004"),
            budget=chosen.get("budget_ms", 300) / 1000,
            interval=chosen.get("interval_seconds", 60),
            app_interval=chosen.get("app_interval_seconds", 0),
            quiesce_limit=chosen.get("quiesce_limit_seconds", 10),
            on_event=on_event,
        )
    except (KeyError, TypeError) as error:
        raise Refused(f"cannot read {directory / CONFIGURATION}: {error}", 2) from None


@group.command()
def run(
    directory: Directory,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Coordinates the group of DIR until SIGTERM or SIGINT."""
    ended = ended_by_signals()
    chosen = read_configuration(directory)
    settings = chosen.get("events", {})
    if not isinstance(settings, dict):
        raise Refused(f"cannot read {directory / CONFIGURATION}: events is not a table", 2)
    with open_sinks(settings, events, tell_event) as sinks, coordinator_of(directory, chosen, sinks) as coordinator:
        control = ControlServer(
            directory,
            {
                "group-point": lambda request: fields(
                    coordinator.point(str(request.get("label", "")), app=bool(request.get("app")))
                ),
                "group-remove": lambda request: coordinator.remove(str(request["volume"])),
                "group-status": lambda _: status_of(coordinator),
            },
        )
        try:
            print(coordinator.address, flush=True)
            ended.wait()
        finally:
            control.close()


def status_of(coordinator: GroupCoordinator) -> dict[str, Any]:
    """The coordinator's status for JSON."""
    found = coordinator.status()
    return {**found, "newest": fields(found["newest"]) if found["newest"] else None}


@group.command()
def join(
    state: StateDirectory,
    name: Annotated[str, typer.Option("--name", help="Name of the group.")],
    coordinator: Annotated[
        list[str], typer.Option("--coordinator", metavar="HOST[:PORT]", help="Its coordinator; again for the next to try.")
    ],
    identity: Annotated[Path, typer.Option("--identity", metavar="DIR", help="The client's bundle; see hrl enroll.")],
    limit: Limit = 30,
) -> None:
    """Makes the volume of a running agent a member; the agent remembers it over restarts."""
    where = {"coordinators": coordinator, "identity": str(identity.resolve())}
    ask(state, "group-join", group=name, limit=limit, **where)


@group.command()
def leave(state: StateDirectory, limit: Limit = 30) -> None:
    """Takes the volume of a running agent out of its group."""
    ask(state, "group-leave", limit=limit)


@group.command()
def remove(directory: Directory, volume: Annotated[str, typer.Argument(help="A member that is not coming back.")]) -> None:
    """Takes a member out whose agent cannot leave any more."""
    ask(directory, "group-remove", volume=volume)


@group.command()
def point(
    directory: Directory,
    label: Annotated[str, typer.Option("--label", help="Text to find the point by.")] = "",
    app: Annotated[bool, typer.Option("--app", help="Quiesce the members' applications first.")] = False,
    json: Json = False,
) -> None:
    """Makes a point of the group now: one cut across all of its members."""
    made = ask(directory, "group-point", label=label, app=app)
    if json:
        print_json(made)
    else:
        print(f"{made['id']} of {made['members']} members, writers held for {made['held_seconds'] * 1000:.1f} ms at most")


@group.command()
def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR|STATE", help="The coordinator's directory, or an agent's.")],
    json: Json = False,
) -> None:
    """Shows how a group or a membership is doing. Exit code 16 when neither runs there."""
    found = ask(directory, "group-status")
    if json:
        print_json(found)
        return
    table = Table(show_header=False, box=None)
    if "group" in found:
        table.add_row("group", found["group"])
        table.add_row("connected", "yes" if found["connected"] else f"no: {found['problem']}")
        table.add_row("points", f"{found['points']} in {found['rounds']} rounds")
        table.add_row("longest hold", f"{found['held_max_seconds'] * 1000:.1f} ms")
    else:
        for member in found["members"]:
            table.add_row(f"member {member['volume']}", member["address"] or "not connected")
        table.add_row("points", f"{found['points']} made, {found['failures']} not")
        held = [f"{found[f'held_{name}_seconds'] * 1000:.1f}" for name in ("p50", "p99", "max")]
        table.add_row("writers held", f"p50 {held[0]} ms, p99 {held[1]} ms, max {held[2]} ms")
        if found["problem"]:
            table.add_row("last failure", found["problem"])
    out.print(table)


@group.command()
def points(
    vault: Annotated[str, typer.Argument(metavar="VAULT", help="URL or directory of the vault.")],
    name: Annotated[str | None, typer.Option("--name", help="Of this group alone.")] = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Lists the points of groups in a vault, each once, with its members."""
    found = [p for p in open_vault(vault, key_file).group_points() if name in (None, p.group)]
    if json:
        print_json([fields(p) for p in found])
        return
    table = Table("id", "group", "kind", "time", "members", "label")
    for p in found:
        members = ", ".join(f"{mark.volume}@{mark.sequence}" for mark in p.marks)
        missing = "" if p.complete else f" ({p.members - len(p.marks)} not in this vault)"
        table.add_row(p.id, p.group, p.kind, p.time, members + missing, p.label)
    print_table(table)
