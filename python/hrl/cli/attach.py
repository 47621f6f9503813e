"""The command `attach`: a disk in use is protected by points at intervals."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

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
from hrl.cli.signals import ended_by_signals
from hrl.cli.times import Duration
from hrl.words import local

CUT_LIMIT = Duration("10s")
FREEZE_LIMIT = Duration("500ms")


@command("attach")
def attach(
    disk: Annotated[Path, typer.Argument(metavar="DISK", help="Block device in use.")],
    state: Annotated[Path, typer.Option("--state", metavar="DIR", help="State directory of this agent, on another disk.")],
    vault: Annotated[
        str | None, typer.Option("--vault", metavar="URL|DIR", help="Vault for the journal and its points, on another disk.")
    ] = None,
    volume: Annotated[
        str | None, typer.Option("--volume", metavar="NAME", help="Name in the vault. Default: the disk's name.")
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
    cut_limit: Annotated[Duration, duration_of("--cut-limit", "Try cuts without a freeze for this long.")] = CUT_LIMIT,
    freeze_limit: Annotated[
        Duration, duration_of("--freeze-limit", "After that freeze the disk's file systems for at most this long; 0 never.")
    ] = FREEZE_LIMIT,
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
    """
    if detach:
        Attachment.detach(state)
        return
    if vault is None:
        raise Refused("name the vault with --vault", Exit.INVALID_INPUT)
    ended = ended_by_signals()
    name = volume or name_of(disk)
    intervals = {"crash_point_interval": Duration("0s") if once else every, "app_point_interval": app_point_interval}
    chosen, check_options = choices_of(policy, quiesce, intervals)
    private_directory(state)
    with ExitStack() as stack:
        sinks = stack.enter_context(open_sinks(read_events(policy), events, print_event))
        with policy_of(policy):
            attachment = Attachment(
                disk,
                vault=open_vault(vault, key_file, state=state),
                state=state,
                volume=name,
                policy=chosen,
                take_over=take_over,
                adopt_disk=adopt_disk,
                on_event=sinks,
                suspicion=suspicion,
                cut_limit=cut_limit,
                freeze_limit=freeze_limit,
            )
        stack.enter_context(attachment)
        status = stack.enter_context(agent_control(attachment, state, name, chosen, ended))
        stack.enter_context(checks_by_policy(check_options, vault, name, sinks))
        stack.enter_context(served_metrics(metrics, status, sinks))
        if once:
            while attachment.stats().resync_bytes_left and not ended.wait(0.2):
                pass
            point = attachment.mark()
            attachment.wait_replicated()
            if json:
                print_json(fields(point))
            else:
                say(f"{point.id} at sequence {point.sequence}, {local(point.time)}")
            return
        with progress_bar("Initial replication") as progress:
            watch(attachment, progress, ended)
        ended.wait()
