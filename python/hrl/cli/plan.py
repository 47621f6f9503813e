"""Commands of recovery plans: hrl plan check, run, resume, approve, status, report."""

import getpass
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from hrl import HrlError, Plan, Vault, approve_plan_step, plan_report, plan_runs, resume_plan
from hrl.cli.base import (
    EXIT_CODES,
    PLAN_FAILED,
    STOPPED,
    Json,
    KeyFile,
    Refused,
    app,
    err,
    open_vault,
    print_json,
    print_table,
)
from hrl.cli.plan_host import FailoverCommands
from hrl.cli.signals import ENDING, ended_by_signals
from hrl.cli.vault import VaultUrl
from hrl.words import clean, span

plan = typer.Typer(name="plan", help="Recovery plans: many volumes failed over in order.", no_args_is_help=True)
app.add_typer(plan)

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The plan.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Identity of the run; hrl plan status lists them.")]
Test = Annotated[bool, typer.Option("--test", help="Isolated test failovers, which are taken down at the end.")]
FailedAt = Annotated[
    str | None, typer.Option("--failed-at", metavar="TIME", help="When the source failed: RPO counts up to here.")
]
Commit = Annotated[bool, typer.Option("--commit", help="Commit the failovers once everything went well.")]
Poll = Annotated[
    float, typer.Option("--poll", metavar="SECONDS", help="How often approvals and other runners are looked for.")
]


@plan.command()
def check(
    vault: VaultUrl,
    file: PlanFile,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Reads a plan and finds the state that each volume would come up at, and what that loses. Changes nothing."""
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
    name: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Identity of the run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every step in order, and do none.")] = False,
    planned: Annotated[
        bool, typer.Option("--planned", help="The source is there still: its last writes come first, nothing is lost.")
    ] = False,
    failed_at: FailedAt = None,
    commit: Commit = False,
    poll: Poll = 1.0,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Runs a plan: for real, or as a test. Exit code 18 when a step failed; look at the report, then resume."""
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
    host = FailoverCommands(vault, key_options(context))
    finish(
        lambda stopped: read.run(
            opened,
            host,
            run=name,
            mode=mode,
            planned=planned,
            failed_at=failed_at,
            commit=commit,
            poll=poll,
            stopped=stopped,
            on_step=tell(vault),
        ),
        vault,
        json,
    )


@plan.command()
def resume(
    context: typer.Context,
    vault: VaultUrl,
    run: Run,
    commit: Commit = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the run although its runner seems to live; that one stops.")
    ] = False,
    poll: Poll = 1.0,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Goes on with a run where it was: its runner died, a step failed, or it waits for its commit."""
    opened, host = open_vault(vault, key_file), FailoverCommands(vault, key_options(context))
    finish(
        lambda stopped: resume_plan(
            opened, run, host, commit=commit, take_over=take_over, poll=poll, stopped=stopped, on_step=tell(vault)
        ),
        vault,
        json,
    )


@plan.command()
def approve(
    vault: VaultUrl,
    run: Run,
    step: Annotated[str, typer.Argument(metavar="STEP", help="Name or number of a step that waits.")],
    reject: Annotated[bool, typer.Option("--reject", help="It was not done: the step fails.")] = False,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who decides. Default: user and machine.")] = None,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What there is to say.")] = "",
    key_file: KeyFile = None,
) -> None:
    """Approves a manual step of a run, or rejects it."""
    who = by or f"{getpass.getuser()}@{socket.gethostname()}"
    approve_plan_step(open_vault(vault, key_file), run, step, approved=not reject, by=who, note=note)


@plan.command()
def status(
    vault: VaultUrl,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Identity of a run; without it all are listed.")] = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Lists the runs of a vault, or shows where one is."""
    opened = open_vault(vault, key_file)
    if run is not None:
        show(plan_report(opened, run), json)
        return
    found = [summary(opened, name) for name in plan_runs(opened)]
    if json:
        print_json(found)
        return
    table = Table("run", "plan", "mode", "began", "outcome", "RTO", "RPO", "now")
    for one in found:
        now = one.get("error") or ", ".join(one.get("now", []))
        words = [str(one.get(key) or "") for key in ("run", "plan", "mode", "began", "outcome")]
        table.add_row(*map(clean, words), length(one.get("rto_ms")), length(one.get("rpo_ms")), clean(str(now)))
    print_table(table)


@plan.command()
def report(
    vault: VaultUrl,
    run: Run,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE.html", help="Write one HTML page.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Tells how a run went: a table, JSON, or one HTML page that needs nothing else."""
    found = plan_report(open_vault(vault, key_file), run)
    if to is None:
        show(found, json)
        return
    if to.exists() and not overwrite:
        raise Refused(f"{to} exists; --overwrite replaces it", EXIT_CODES["already-exists"])
    from hrl.report.plan import write

    write(found, to)


def read_plan(file: Path) -> Plan:
    """Reads the plan of a command."""
    return Plan.from_file(file)


def problems_of(read: Plan) -> list[str]:
    """What keeps `hrl failover` from bringing the volumes of a plan up."""
    return [f"the plan names no state directory for {m.volume}" for m in read.members if m.state is None]


def refuse(file: Path, found: dict[str, Any]) -> None:
    """Ends the command when a plan cannot run."""
    if found["problems"]:
        raise Refused(f"{file} cannot run: {'; '.join(found['problems'])}", EXIT_CODES["invalid-input"])


def key_options(context: typer.Context) -> list[str]:
    """The options of the key as this command was given them, for the commands that it starts."""
    given = context.params
    options = []
    for suffix in ("file", "command", "env"):
        value = given.get(f"key_file_{suffix}")
        if value is not None:
            options += [f"--key-{suffix}", str(value)]
    return options


def finish(work: Callable[[Callable[[], bool]], dict[str, Any]], vault: str, json: bool) -> None:
    """Does work that signals stop, on a thread, because signals arrive at this one; shows its report and ends as it went."""
    stop = ended_by_signals((*ENDING, signal.SIGHUP))
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
        raise Refused(f"the run was stopped; go on with hrl plan resume {vault} {found['run']}", STOPPED)
    if found["outcome"] != "done":
        what = f"{failed['id']} {failed['outcome']}: {failed['message']}" if failed else found["message"]
        raise Refused(f"run {found['run']} {found['outcome']}: {what}", PLAN_FAILED)


FAILURES = ("failed", "timed-out", "rejected")


def tell(vault: str) -> Callable[[str, dict[str, Any]], None]:
    """Tells steps on standard error while they run."""

    def line(run: str, step: dict[str, Any]) -> None:
        words = f"{step['id']}: {step['outcome']}"
        if step["outcome"] == "running" and step["kind"] == "manual":
            words = f"{step['id']} waits: {step['text']} (hrl plan approve {vault} {run} {step['id']})"
        elif step["took_ms"] is not None:
            words += f" after {span(step['took_ms'] / 1000)}"
        if step["message"]:
            words += f": {step['message']}"
        print(f"hrl: {clean(words)}", file=sys.stderr, flush=True)

    return line


def summary(vault: Vault, name: str) -> dict[str, Any]:
    """A run in one line; one that cannot be read with its error."""
    try:
        found = plan_report(vault, name)
    except HrlError as error:
        return {"run": name, "error": str(error)}
    kept = ("run", "plan", "mode", "began", "ended", "outcome", "rto_ms", "rpo_ms", "commit_is_due")
    now = [step["id"] for step in found["steps"] if step["outcome"] == "running"]
    return {key: found[key] for key in kept} | {"now": now}


def length(millis: int | None) -> str:
    """A length of time, or a dash."""
    return "-" if millis is None else span(millis / 1000)


def print_prediction(read: Plan, found: dict[str, Any]) -> None:
    """What a plan would do, volume by volume."""
    table = Table("group", "volume", "asks for", "comes up at", "time", "age")
    for member in found["members"]:
        at = member["at"] + (f" of {member['consistency_group']}" if member["consistency_group"] else "")
        words = [read.groups[member["group"]], member["volume"], member["asked"], at, member["time"]]
        table.add_row(*map(clean, words), length(member["age_ms"]))
    print_table(table)
    for problem in found["problems"]:
        err.print(f"hrl: note: {clean(problem)}", highlight=False, markup=False)


def print_steps(steps: list[dict[str, Any]]) -> None:
    """Every step of a run in its order."""
    table = Table("step", "name", "kind", "what")
    for step in steps:
        table.add_row(str(step["number"]), clean(step["id"]), step["kind"], clean(step["text"]))
    print_table(table)


def show(found: dict[str, Any], json: bool) -> None:
    """A report, for people or programs."""
    if json:
        print_json(found)
        return
    steps = Table("step", "name", "outcome", "began", "took", "tries", "told")
    for step in found["steps"]:
        approval = step["approval"]
        told = step["message"] or (f"approved by {approval['by']}" if approval else "")
        words = [str(step["number"]), step["id"], step["outcome"], (step["began"] or "")[:19]]
        steps.add_row(*map(clean, words), length(step["took_ms"]), str(step["tries"]), clean(told))
    print_table(steps)
    members = Table("volume", "group", "point", "RPO", "usable", "ready: RTO", "at")
    for member in found["members"]:
        started = member["started"] or {}
        point = started.get("point") or started.get("sequence") or "-"
        members.add_row(
            *map(clean, (member["volume"], member["group"], str(point))),
            length(member["rpo_ms"]),
            length(member["usable_since_run_ms"]),
            length(member["ready_since_run_ms"]),
            clean(started.get("uri", "-")),
        )
    print_table(members)
    due = "; waits for its commit (hrl plan resume --commit)" if found["commit_is_due"] else ""
    totals = f"RTO {length(found['rto_ms'])}, RPO {length(found['rpo_ms'])}"
    print(f"{found['run']} ({found['mode']}): {found['outcome']}, {totals}{due}")
