"""Commands of consistency groups: hrl group create, run, join, leave, remove, status, point, points."""

import json as json_text
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import GroupCoordinator, GroupPoint, HrlError
from hrl.cli.commands import group as group_of_commands
from hrl.cli.control import ControlServer, ask
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import Json, KeyFile, Limit, StateDirectory, VaultUrl, duration_of
from hrl.cli.output import Table, fields, note, print_address, print_json, say
from hrl.cli.protect import print_event
from hrl.cli.reading_options import DEFAULT, Reading
from hrl.cli.rights import private_directory
from hrl.cli.signals import ended_by_signals
from hrl.cli.states import short_ids
from hrl.cli.targets import published
from hrl.cli.times import Duration
from hrl.words import count, local, zone

CONFIGURATION = "group.toml"
ADDRESS = "0.0.0.0:20004"
LIMIT = Duration("30s")
group = group_of_commands("group", "Consistency groups: one cut across many machines.")

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the coordinator.")]


@group.command()
def create(
    directory: Directory,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the group.")],
    pki: Annotated[Path, typer.Option("--pki", metavar="DIR", help="Certificates and enrolled clients; see hrl enroll.")],
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Address to serve members at.")] = ADDRESS,
    member: Annotated[
        list[str] | None, typer.Option("--member", metavar="VOLUME", help="A volume that may be a member. May be repeated.")
    ] = None,
    any_member: Annotated[
        bool, typer.Option("--any-member", help="Let every enrolled client join. No point is made without one that did.")
    ] = False,
    budget_ms: Annotated[
        int, typer.Option("--budget-ms", metavar="MS", min=1, help="Hold writers no longer than so many milliseconds.")
    ] = 300,
    interval: Annotated[
        Duration, duration_of("--interval", "Make a crash-consistent point this often; 0 is never.")
    ] = Duration("1m"),
    app_interval: Annotated[
        Duration, duration_of("--app-interval", "Make an application-consistent point this often; 0 is never.")
    ] = Duration("0"),
    quiesce_limit: Annotated[Duration, duration_of("--quiesce-limit", "Quiesce applications within this.")] = Duration(
        "10s"
    ),
) -> None:
    """Makes a group: writes DIR/group.toml for `hrl group run`. The volumes that it lists join by themselves."""
    if bool(member) == any_member:
        problem = "give --member VOLUME for each volume that may join, or --any-member"
        raise Refused(f"cannot make the group: {problem}", Exit.INVALID_INPUT)
    path = directory / CONFIGURATION
    if path.exists():
        raise Refused(f"there is a group in {directory}; edit {path} to change it", Exit.ALREADY_EXISTS)
    private_directory(directory)
    text = (
        f"name = {quoted(name)}\npki = {quoted(str(pki.resolve()))}\nlisten = {quoted(listen)}\n"
        f"budget_ms = {budget_ms}\ninterval_seconds = {float(interval)!r}\napp_interval_seconds = {float(app_interval)!r}\n"
        f"quiesce_limit_seconds = {float(quiesce_limit)!r}\n"
    )
    if member:
        text += f"members = [{', '.join(map(quoted, member))}]\n"
    with published(path) as new:
        new.touch(mode=0o600)
        new.write_text(text)


def quoted(text: str) -> str:
    """Returns a text as a TOML string, whose escapes are those of JSON."""
    return json_text.dumps(text, ensure_ascii=False)


def read_configuration(directory: Path) -> dict[str, Any]:
    """Reads the group file of a directory."""
    path = directory / CONFIGURATION
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Refused(f"{path} is not there; make the group with hrl group create", Exit.NOT_FOUND) from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"cannot read {path}: {error}", Exit.INVALID_INPUT) from None


def coordinator_of(
    directory: Path, chosen: dict[str, Any], on_event: Callable[[dict[str, str]], object]
) -> GroupCoordinator:
    """Starts the coordinator that a directory describes."""
    try:
        return GroupCoordinator(
            chosen["name"],
            state=directory,
            pki=chosen["pki"],
            listen=chosen.get("listen", ADDRESS),
            members=chosen.get("members"),
            budget=chosen.get("budget_ms", 300) / 1000,
            interval=chosen.get("interval_seconds", 60),
            app_interval=chosen.get("app_interval_seconds", 0),
            quiesce_limit=chosen.get("quiesce_limit_seconds", 10),
            on_event=on_event,
        )
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise Refused(f"cannot read {directory / CONFIGURATION}: {problem}", Exit.INVALID_INPUT) from None
    except HrlError as error:
        if error.kind != "invalid-input":
            raise
        raise Refused(f"{directory / CONFIGURATION}: {error}", Exit.INVALID_INPUT) from error


@group.command()
def run(
    directory: Directory,
    json: Json = False,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Coordinates the group of DIR. Prints its address once it serves. Runs until SIGTERM or SIGINT."""
    ended = ended_by_signals()
    chosen = read_configuration(directory)
    settings = chosen.get("events", {})
    if not isinstance(settings, dict):
        raise Refused(f"cannot read {directory / CONFIGURATION}: events is not a table", Exit.INVALID_INPUT)
    with open_sinks(settings, events, print_event) as sinks, coordinator_of(directory, chosen, sinks) as coordinator:
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
        if "members" not in chosen:
            where = directory / CONFIGURATION
            note(f'note: every enrolled client may join; list members in {where}, such as members = ["db"]')
        try:
            print_address(coordinator.address, json=json, key="address")
            ended.wait()
        finally:
            control.close()


def status_of(coordinator: GroupCoordinator) -> dict[str, Any]:
    """Returns the coordinator's status as JSON can hold it."""
    return fields(coordinator.status())


@group.command()
def join(
    state: StateDirectory,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the group.")],
    coordinator: Annotated[
        list[str],
        typer.Option("--coordinator", metavar="HOST[:PORT]", help="Its coordinator. May be repeated."),
    ],
    identity: Annotated[Path, typer.Option("--identity", metavar="DIR", help="The client's bundle; see hrl enroll.")],
    hold_percent: Annotated[
        int,
        typer.Option("--hold-percent", metavar="N", min=1, max=100, help="Let it hold writers for that share of the time."),
    ] = 10,
    limit: Limit = LIMIT,
) -> None:
    """Makes the volume of a running agent a member. The agent remembers it over restarts."""
    where = {"coordinators": coordinator, "identity": str(identity.resolve()), "hold_percent": hold_percent}
    ask(state, "group-join", group=name, limit=limit, **where)


@group.command()
def leave(state: StateDirectory, limit: Limit = LIMIT) -> None:
    """Takes the volume of a running agent out of its group."""
    ask(state, "group-leave", limit=limit)


@group.command()
def remove(directory: Directory, volume: Annotated[str, typer.Argument(help="A member that is not coming back.")]) -> None:
    """Takes a member out of the group whose agent cannot leave any more."""
    ask(directory, "group-remove", volume=volume)


@group.command()
def point(
    directory: Directory,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Text to find the point by.")] = "",
    app: Annotated[bool, typer.Option("--app", help="Quiesce the members' applications first.")] = False,
    json: Json = False,
) -> None:
    """Makes a point of the group now: one cut across all of its members."""
    made = ask(directory, "group-point", label=label, app=app)
    if json:
        print_json(made)
    else:
        members = count(made["members"], "member")
        say(f"{made['id']} of {members}, writers held for {made['held_seconds'] * 1000:.1f} ms at most")


@group.command()
def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR|STATE", help="The coordinator's directory, or an agent's.")],
    json: Json = False,
) -> None:
    """Shows how a group or a membership is doing. The exit code is 16 when neither runs there."""
    found = ask(directory, "group-status")
    if json:
        print_json(found)
        return
    table = Table("name", "value", header=False)
    if "group" in found:
        table.add("group", found["group"])
        table.add("connected", "yes" if found["connected"] else f"no: {found['problem']}")
        table.add("points", f"{found['points']} in {count(found['rounds'], 'round')}")
        table.add("longest hold", f"{found['held_max_seconds'] * 1000:.1f} ms")
    else:
        for member in found["members"]:
            table.add(f"member {member['volume']}", member["address"] or "not connected")
        table.add("points", f"{found['points']} made, {found['failures']} failed")
        held = [f"{found[f'held_{name}_seconds'] * 1000:.1f}" for name in ("p50", "p99", "max")]
        table.add("writers held", f"p50 {held[0]} ms, p99 {held[1]} ms, max {held[2]} ms")
        if found["problem"]:
            table.add("last failure", found["problem"])
    table.print()


@group.command()
def points(
    vault: VaultUrl,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="List the points of this group alone.")] = None,
    key_file: KeyFile = None,
    json: Json = False,
    reading: Reading = DEFAULT,
) -> None:
    """Lists the points of groups in a vault, each once, with its members."""
    reader = reading.open(vault, key_file)
    listed = reader.vault.group_points()
    unread = {volume: str(error) for volume, error in listed.unread}
    unread |= {volume: "it was seen here before, and is no longer in the vault" for volume in reader.lost()}
    for volume in reader.vault.volume_names():
        if volume not in unread and (problem := reader.problem_of(volume)):
            unread[volume] = str(problem)
    for volume, why in unread.items():
        note(f"{volume} cannot be read: {why}")
    print_group_points(vault, [p for p in listed.points if name in (None, p.group)], json=json)
    if unread:
        raise Refused(f"{count(len(unread), 'volume')} cannot be read: {', '.join(unread)}", Exit.PARTLY)


def print_group_points(vault: str, found: list[GroupPoint], *, json: bool) -> None:
    """Prints the points of groups with their members."""
    if json:
        print_json([fields(p) for p in found])
        return
    say(f"{vault}: {count(len(found), 'point')} of groups")
    table = Table("point", f"time ({zone()})", "group", "kind", "label", "members")
    ids = short_ids(p.id for p in found)
    for p in found:
        members = ", ".join(mark.volume for mark in p.marks)
        missing = "" if p.complete else f" ({p.members - len(p.marks)} not in this vault)"
        table.add(ids[p.id], local(p.time), p.group, p.kind, p.label, members + missing)
    table.print()
