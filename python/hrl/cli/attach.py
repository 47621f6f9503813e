"""The command `attach`: disks in use are protected by points at intervals."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import Attachment
from hrl.cli.commands import command
from hrl.cli.event_options import EventOptions, open_sinks
from hrl.cli.exits import Exit, Refused
from hrl.cli.key_options import KeyFile
from hrl.cli.options import Json, MetricsAddress, PolicyFile, duration_of, open_vault
from hrl.cli.output import fields, print_json, progress_bar, say
from hrl.cli.policy import policy_of, read_events
from hrl.cli.protect import agent_control, choices_of, name_of, print_event, served_metrics, watch
from hrl.cli.rights import private_directory
from hrl.cli.scheduled_checks import checks_by_policy
from hrl.cli.signals import Ending, ended_by_signals
from hrl.cli.times import Duration
from hrl.words import local


@command("attach")
def attach(
    disks: Annotated[list[Path], typer.Argument(metavar="DISK...", help="Block devices in use; several are one cut.")],
    state: Annotated[
        Path,
        typer.Option("--state", metavar="DIR", help="State directory of this agent, on another disk; of several: DIR/NAME."),
    ],
    vault: Annotated[
        str | None, typer.Option("--vault", metavar="URL|DIR", help="Vault for the journal and its points, on another disk.")
    ] = None,
    volume: Annotated[
        str | None, typer.Option("--volume", metavar="NAME", help="Name of one disk in the vault. Default: the disk's name.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="NAME", help="Name of the group of several. Default: the host's name.")
    ] = None,
    key_file: KeyFile = None,
    policy: PolicyFile = None,
    every: Annotated[
        Duration | None, duration_of("--every", "Make a point this often, at least 5s. Default: the policy's, 60s.")
    ] = None,
    quiesce: Annotated[
        list[str] | None,
        typer.Option(
            "--quiesce",
            metavar="SPEC",
            help="Application for application-consistent points: such as fs:/mnt or postgresql:dbname=app. May be repeated.",
        ),
    ] = None,
    app_point_interval: Annotated[
        Duration | None, duration_of("--app-point-interval", "Make an application-consistent point this often.")
    ] = None,
    cut_limit: Annotated[
        Duration | None, duration_of("--cut-limit", "Try cuts without a freeze for this long. Default: the policy's, 10s.")
    ] = None,
    freeze_limit: Annotated[
        Duration | None,
        duration_of("--freeze-limit", "Then freeze the file systems for at most this long; 0 never. Default: 500ms."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Make one point, ship it, and end. The next run reads what changed.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Take the programs out of the kernel, and do nothing else.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the volume from another source, which must be gone for good.")
    ] = False,
    adopt_disk: Annotated[
        bool,
        typer.Option("--adopt-disk", help="Go on with another disk than the one that was protected; compare all of it."),
    ] = False,
    suspicion: Annotated[
        bool,
        typer.Option("--suspicion/--no-suspicion", help="Notice when data is suddenly encrypted, and judge later points."),
    ] = True,
    metrics: MetricsAddress = None,
    json: Json = False,
    events: EventOptions = {},  # noqa: B006  (its options take its place)
) -> None:
    """Protects DISK while it is in use: no driver, no remount, no freeze.

    Each point is a clean, audited cut of the disk. Between points nothing can be restored. Runs until SIGTERM or SIGINT,
    then makes a last point and stops cleanly. Its programs stay in the kernel and go on marking what changes, until
    --detach or the next boot. After those the whole disk is compared with the vault.

    Several disks are one cut: no disk has a write whose cause another one lacks. Each is a volume of its own, with the state
    directory DIR/NAME. hrl group points lists the points of all.
    """
    names = names_of(disks, volume)
    states = [state / name for name in names] if len(disks) > 1 else [state]
    if detach:
        for one in states:
            Attachment.detach(one)
        return
    if vault is None:
        raise Refused("name the vault with --vault", Exit.INVALID_INPUT)
    ended = ended_by_signals()
    times = {
        "crash_point_interval": Duration("0s") if once else every,
        "app_point_interval": app_point_interval,
        "cut_limit": cut_limit,
        "freeze_limit": freeze_limit,
    }
    chosen, check_options = choices_of(policy, quiesce, times)
    for directory in dict.fromkeys((state, *states)):
        private_directory(directory)
    with ExitStack() as stack:
        sinks = stack.enter_context(open_sinks(read_events(policy), events, print_event))
        given: dict[str, Any] = {
            "vault": open_vault(vault, key_file, state=states[0]),
            "state": state,
            "policy": chosen,
            "take_over": take_over,
            "adopt_disk": adopt_disk,
            "on_event": sinks,
            "suspicion": suspicion,
        }
        with policy_of(policy):
            if len(disks) == 1:
                attachments = [Attachment(disks[0], volume=names[0], **given)]
            else:
                attachments = Attachment.together(group or socket.gethostname(), disks, **given)
        for attachment in attachments:
            stack.enter_context(attachment)
        statuses: list[Callable[[], dict[str, Any]]] = []
        for attachment, name, directory in zip(attachments, names, states, strict=True):
            statuses.append(stack.enter_context(agent_control(attachment, directory, name, chosen, ended)))
            stack.enter_context(checks_by_policy(check_options, vault, name, sinks))
        stack.enter_context(served_metrics(metrics, statuses, sinks))
        if once:
            make_point(attachments, ended, json=json)
            return
        with progress_bar("Initial replication") as progress:
            for attachment in attachments:
                watch(attachment, progress, ended)
        ended.wait()


def names_of(disks: list[Path], volume: str | None) -> list[str]:
    """Returns the names of the disks as those of their volumes. Refuses two disks with one name."""
    if volume is not None:
        if len(disks) > 1:
            raise Refused("--volume names one disk; several have the names of their devices", Exit.INVALID_INPUT)
        return [volume]
    names = [name_of(disk) for disk in disks]
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"two disks have the name {name}, by which their volumes are known", Exit.INVALID_INPUT)
    return names


def make_point(attachments: list[Attachment], ended: Ending, *, json: bool) -> None:
    """Makes one point of all disks, ships it and prints it."""
    while any(one.stats().resync_bytes_left for one in attachments) and not ended.wait(0.2):
        pass
    point = attachments[0].mark()
    for attachment in attachments:
        attachment.wait_replicated()
    if json:
        print_json(fields(point))
    else:
        say(f"{point.id} at sequence {point.sequence}, {local(point.time)}")
