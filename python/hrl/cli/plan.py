"""Commands of recovery plans: hrl plan check, run, resume, approve, status, report."""

import getpass
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hrl import HrlError, Plan, Vault, approve_plan_step, plan_report, plan_runs, resume_plan
from hrl.cli.box import Box
from hrl.cli.commands import group
from hrl.cli.exits import Exit, Refused
from hrl.cli.options import Insecure, Json, KeyFile, Overwrite, VaultUrl, duration_of, open_vault, time_of
from hrl.cli.output import Table, note, print_json, say
from hrl.cli.plan_host import FailoverCommands
from hrl.cli.signals import ended_by_signals
from hrl.cli.targets import published
from hrl.cli.times import Duration
from hrl.words import local, short, span

plan = group("plan", "Recovery plans: many volumes failed over in order.")
FAILURES = ("failed", "timed-out", "rejected")

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The plan.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run; hrl plan status lists them.")]
Test = Annotated[bool, typer.Option("--test", help="Make isolated test failovers, and take them down at the end.")]
FailedAt = Annotated[str | None, time_of("--failed-at", "When the source failed: RPO counts up to here.")]
Show = Annotated[
    list[Path] | None,
    typer.Option("--show", metavar="PATH", help="Let verify steps read this file or directory of here. May be repeated."),
]
Unsandboxed = Annotated[
    bool, typer.Option("--unsandboxed", help="Run verify steps without a box, with all rights of this process.")
]
Commit = Annotated[bool, typer.Option("--commit", help="Commit the failovers once everything went well.")]
Poll = Annotated[Duration, duration_of("--poll", "Look for approvals and other runners this often.")]
SECOND = Duration("1s")


@plan.command()
def check(
    vault: VaultUrl,
    file: PlanFile,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows the state that each volume would come up at, and what that loses. Changes nothing."""
    read = read_plan(file)
    found = read.check(open_vault(vault, key_file))
    found["problems"] += problems_of(read)
    if json:
        print_json(found)
    else:
        print_prediction(read, found)
    refuse(file, found)


@plan.command()
def run(
    context: typer.Context,
    vault: VaultUrl,
    file: PlanFile,
    test: Test = False,
    name: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Id for the run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every step in order, and do none.")] = False,
    planned: Annotated[
        bool,
        typer.Option("--planned", help="The source still runs: take its last writes over first. Nothing is lost."),
    ] = False,
    failed_at: FailedAt = None,
    commit: Commit = False,
    show: Show = None,
    unsandboxed: Unsandboxed = False,
    insecure: Insecure = False,
    poll: Poll = SECOND,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Runs a plan, for real or as a test. What its steps `verify` runs in a box, as the checks of `hrl verify` do.

    The exit code is 18 when a step failed: look at the report, then resume.
    """
    read, opened = read_plan(file), open_vault(vault, key_file)
    mode: Literal["test", "real"] = "test" if test else "real"
    if dry_run or problems_of(read):
        found = read.check(opened)
        found["problems"] += problems_of(read)
        found["steps"] = read.steps(mode)
        if dry_run and json:
            print_json(found)
        elif dry_run:
            print_prediction(read, found)
            print_steps(found["steps"])
        refuse(file, found)
        return
    if not unsandboxed and any(step["kind"] == "verify" for step in read.steps(mode)):
        # Known before anything is done.
        Box(tuple(show or ()))
    host = FailoverCommands(vault, key_options(context), insecure)
    finish(
        lambda stopped: read.run(
            opened,
            host,
            run=name,
            mode=mode,
            planned=planned,
            failed_at=failed_at,
            commit=commit,
            verify_with=box_words(show, unsandboxed),
            poll=poll,
            stopped=stopped,
            on_step=teller(vault),
        ),
        vault,
        json,
    )


@plan.command()
def resume(
    context: typer.Context,
    vault: VaultUrl,
    run: Run,
    plan_file: Annotated[
        Path | None,
        typer.Option(
            "--plan", metavar="PLAN.toml", help="The plan of the run. Needed without a key, where records prove nothing."
        ),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="With --plan: the run is a test.")] = False,
    planned: Annotated[bool, typer.Option("--planned", help="With --plan: the run is a planned one.")] = False,
    commit: Commit = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the run although its runner seems to live. That runner stops.")
    ] = False,
    show: Show = None,
    unsandboxed: Unsandboxed = False,
    insecure: Insecure = False,
    poll: Poll = SECOND,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Goes on with a run whose runner died, of which a step failed, or that waits for its commit.

    The records of a run name its commands. A key proves them; without one, whoever writes to the vault could have written
    them, so the plan's file is needed.
    """
    if plan_file is None and (test or planned):
        raise Refused("--test and --planned say what the run of --plan is: give its file", Exit.INVALID_INPUT)
    read = None if plan_file is None else read_plan(plan_file)
    opened, host = open_vault(vault, key_file), FailoverCommands(vault, key_options(context), insecure)
    finish(
        lambda stopped: resume_plan(
            opened,
            run,
            host,
            plan=read,
            mode="test" if test else "real",
            planned=planned,
            commit=commit,
            take_over=take_over,
            verify_with=box_words(show, unsandboxed),
            poll=poll,
            stopped=stopped,
            on_step=teller(vault),
        ),
        vault,
        json,
    )


@plan.command()
def approve(
    vault: VaultUrl,
    run: Run,
    step: Annotated[str, typer.Argument(metavar="STEP", help="Name or number of a step that waits.")],
    reject: Annotated[bool, typer.Option("--reject", help="Report that it was not done: the step fails.")] = False,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who decides. Default: user and machine.")] = None,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="A remark for the report.")] = "",
    key_file: KeyFile = None,
) -> None:
    """Approves a manual step of a run, or rejects it."""
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    approve_plan_step(open_vault(vault, key_file), run, step, approved=not reject, by=who, note=note)


@plan.command()
def status(
    vault: VaultUrl,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Id of a run. Default: all.")] = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Lists the runs of a vault, or shows how far one of them is."""
    opened = open_vault(vault, key_file)
    if run is not None:
        show(plan_report(opened, run), json)
        return
    found = [summary(opened, name) for name in plan_runs(opened)]
    if json:
        print_json(found)
        return
    if not found:
        return say(f"{vault} has no run of a plan")
    table = Table("run", "plan", "mode", "began", "outcome", "RTO", "RPO", "now")
    for one in found:
        now = one.get("error") or ", ".join(one.get("now", []))
        began = local(one["began"]) if one.get("began") else ""
        words = [one.get("run"), one.get("plan") or "", one.get("mode") or "", began, one.get("outcome") or ""]
        table.add(*words, length(one.get("rto_ms")), length(one.get("rpo_ms")), now)
    table.print()


@plan.command()
def report(
    vault: VaultUrl,
    run: Run,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE.html", help="Write one HTML page.")] = None,
    overwrite: Overwrite = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Shows how a run went: as a table, as JSON, or as one HTML page that needs nothing else."""
    found = plan_report(open_vault(vault, key_file), run)
    if to is None:
        show(found, json)
        return
    from hrl.report.plan import write

    with published(to, overwrite=overwrite) as new:
        write(found, new)


def box_words(show: list[Path] | None, unsandboxed: bool) -> list[str]:
    """Returns the words that go before what a plan's steps verify."""
    if unsandboxed:
        return []
    shown = [word for path in show or () for word in ("--show", str(path.absolute()))]
    return [sys.executable, "-P", "-m", "hrl.cli.box_run", *shown, "--"]


def read_plan(file: Path) -> Plan:
    """Reads the plan of a command."""
    return Plan.from_file(file)


def problems_of(read: Plan) -> list[str]:
    """Returns what keeps `hrl failover` from starting the volumes of a plan."""
    return [f"the plan names no state directory for {m.volume}" for m in read.members if m.state is None]


def refuse(file: Path, found: dict[str, Any]) -> None:
    """Ends the command if a plan cannot run."""
    if found["problems"]:
        raise Refused(f"{file} cannot run: {'; '.join(found['problems'])}", Exit.INVALID_INPUT)


def key_options(context: typer.Context) -> list[str]:
    """Returns the key options of this command line, for the commands that it starts."""
    given = context.params
    options = []
    for suffix in ("file", "command", "env"):
        value = given.get(f"key_file_{suffix}")
        if value is not None:
            options += [f"--key-{suffix}", str(value)]
    return options


def finish(work: Callable[[Callable[[], bool]], dict[str, Any]], vault: str, json: bool) -> None:
    """Does the work of a run, shows its report, and ends with the code of its outcome.

    The work has a thread of its own, because this one receives the signals that stop it.
    """
    stop = ended_by_signals()
    came: list[dict[str, Any] | BaseException] = []

    def do() -> None:
        try:
            came.append(work(stop.is_set))
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    found = came[0]
    if isinstance(found, BaseException):
        raise found
    show(found, json)
    failed = next((s for s in found["steps"] if s["outcome"] in FAILURES), None)
    if found["outcome"] == "stopped":
        raise Refused(f"the run was stopped; go on with hrl plan resume {vault} {found['run']}", Exit.STOPPED)
    if found["outcome"] != "done":
        what = f"{failed['id']} {failed['outcome']}: {failed['message']}" if failed else found["message"]
        raise Refused(f"run {found['run']} {found['outcome']}: {what}", Exit.PLAN_FAILED)


def teller(vault: str) -> Callable[[str, dict[str, Any]], None]:
    """Returns a callback that reports each step on standard error."""

    def line(run: str, step: dict[str, Any]) -> None:
        words = f"{step['id']}: {step['outcome']}"
        if step["outcome"] == "running" and step["kind"] == "manual":
            words = f"{step['id']} waits: {step['text']} (hrl plan approve {vault} {run} {step['id']})"
        elif step["took_ms"] is not None:
            words += f" after {span(step['took_ms'] / 1000)}"
        if step["message"]:
            words += f": {step['message']}"
        note(words)

    return line


def summary(vault: Vault, name: str) -> dict[str, Any]:
    """Returns a run in short; one that cannot be read with its error."""
    try:
        found = plan_report(vault, name)
    except HrlError as error:
        return {"run": name, "error": str(error)}
    kept = ("run", "plan", "mode", "began", "ended", "outcome", "rto_ms", "rpo_ms", "commit_is_due")
    now = [step["id"] for step in found["steps"] if step["outcome"] == "running"]
    return {key: found[key] for key in kept} | {"now": now}


def length(millis: int | None) -> str:
    """Returns a length of time; a dash if it is not known."""
    return "-" if millis is None else span(millis / 1000)


def print_prediction(read: Plan, found: dict[str, Any]) -> None:
    """Prints what a plan would do, volume by volume."""
    table = Table("group", "volume", "asks for", "comes up at", "time", "age")
    for member in found["members"]:
        at = member["at"] + (f" of {member['consistency_group']}" if member["consistency_group"] else "")
        time = local(member["time"]) if member["time"] else ""
        table.add(read.groups[member["group"]], member["volume"], member["asked"], at, time, length(member["age_ms"]))
    table.print()
    for problem in found["problems"]:
        note(f"note: {problem}")


def print_steps(steps: list[dict[str, Any]]) -> None:
    """Prints the steps of a run in order."""
    table = Table("step", "name", "kind", "what")
    for step in steps:
        table.add(step["number"], step["id"], step["kind"], step["text"])
    table.print()


def show(found: dict[str, Any], json: bool) -> None:
    """Prints a report, for people or programs."""
    if json:
        print_json(found)
        return
    steps = Table("step", "name", "outcome", "began", "took", "tries", "message")
    for step in found["steps"]:
        approval = step["approval"]
        message = step["message"] or (f"approved by {approval['by']}" if approval else "")
        began = local(step["began"])[11:] if step["began"] else ""
        took = length(step["took_ms"])
        steps.add(step["number"], step["id"], step["outcome"], began, took, step["tries"], message)
    steps.print()
    say("")
    members = Table("volume", "group", "point", "RPO", "usable", "ready: RTO", "at")
    for member in found["members"]:
        started = member["started"] or {}
        members.add(
            member["volume"],
            member["group"],
            short(started.get("point") or "") or started.get("sequence") or "-",
            length(member["rpo_ms"]),
            length(member["usable_since_run_ms"]),
            length(member["ready_since_run_ms"]),
            started.get("uri", "-"),
        )
    members.print()
    say("")
    due = "; waits for its commit (hrl plan resume --commit)" if found["commit_is_due"] else ""
    totals = f"RTO {length(found['rto_ms'])}, RPO {length(found['rpo_ms'])}"
    say(f"{found['run']} ({found['mode']}): {found['outcome']}, {totals}{due}")
