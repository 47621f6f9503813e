"""The command `verify`: reads what is stored, or checks recovery points and keeps the verdicts on them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import HrlError, RecoveryPoint, Replica, VerifyReport
from hrl.cli.boot import PATTERN, QEMU, Machine, check_boot, pattern_of
from hrl.cli.box import Box
from hrl.cli.checks import Kind, Outcome, check_command, check_file_systems, check_integrity
from hrl.cli.commands import command as register
from hrl.cli.exits import Exit, Refused
from hrl.cli.memory import Reader
from hrl.cli.options import Json, KeyFile, VaultUrl, VolumeName, duration_of
from hrl.cli.output import note, print_json, progress_bar, say
from hrl.cli.reading_options import DEFAULT, ExpectingReading
from hrl.cli.scan import Scan
from hrl.cli.served_point import served
from hrl.cli.states import NEWEST, point_of
from hrl.cli.times import Duration
from hrl.cli.volumes import EachVolume, names_of
from hrl.words import count, human


@dataclass(frozen=True)
class Checks:
    """What is checked of a point. Without any choice it is the integrity of its volume."""

    mount: bool
    fsck: bool
    command: str | None
    machine: Machine | None
    limit: float
    box: Box | None
    scan: Scan | None

    @property
    def kinds(self) -> list[Kind]:
        """Returns the kinds of verdicts that the checks give."""
        wanted: dict[Kind, bool] = {
            "file-system": self.mount,
            "scan": self.scan is not None,
            "command": self.command is not None,
            "application": self.machine is not None,
        }
        return [kind for kind, asked in wanted.items() if asked] or ["integrity"]

    def of(self, replica: Replica, point: RecoveryPoint, due: list[Kind]) -> list[Outcome]:
        """Makes the checks that are due, each on a disk of its own."""
        outcomes = []
        if "integrity" in due:
            outcomes.append(check_integrity(replica))
        if self.mount and {"file-system", "scan", "command"} & set(due):
            with served(replica, point, self.box) as disk:
                scan = partial(self.scan.check, disk, self.limit) if self.scan else None
                outcomes += check_file_systems(disk, fsck=self.fsck, command=self.command, limit=self.limit, scan=scan)
        elif self.command is not None and "command" in due:
            with served(replica, point, self.box) as disk:
                outcomes.append(check_command(disk, self.command, self.limit))
        if self.machine and "application" in due:
            with served(replica, point, self.box) as disk:
                outcomes.append(check_boot(disk, self.machine))
        return [outcome.bounded() for outcome in outcomes]


@register("verify")
def verify(
    vault: VaultUrl,
    volume: Annotated[str | None, typer.Argument(metavar="[VOLUME]", help="Name of the volume. Default: all.")] = None,
    named: VolumeName = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="POINT|TIME", help="The point to check. Default: newest.")
    ] = None,
    mount: Annotated[bool, typer.Option("--mount", help="Check and mount the file systems of a point (root).")] = False,
    fsck: Annotated[bool, typer.Option("--fsck/--no-fsck", help="With --mount: their own checkers, too.")] = True,
    scan: Annotated[
        Path | None,
        typer.Option("--scan", metavar="RULES", help="Scan the files of a point by YARA rules. Implies --mount."),
    ] = None,
    command: Annotated[
        str | None, typer.Option("--command", metavar="CMD", help="A shell command; exit status 0 is good.")
    ] = None,
    boot: Annotated[bool, typer.Option("--boot", help="Boot a point in QEMU.")] = False,
    qemu: Annotated[str, typer.Option("--qemu", metavar="CMD", help="The program that boots it.")] = QEMU,
    boot_args: Annotated[str, typer.Option("--boot-args", metavar="ARGS", help="More arguments for it.")] = "",
    boot_pattern: Annotated[
        str, typer.Option("--boot-pattern", metavar="REGEX", help="What the serial console shows when it is up.")
    ] = PATTERN,
    limit: Annotated[Duration, duration_of("--limit", "Time for a scan, a command or a boot.")] = Duration("5m"),
    show: Annotated[
        list[Path] | None,
        typer.Option("--show", metavar="PATH", help="Let checks read this file or directory of here. May be repeated."),
    ] = None,
    unsandboxed: Annotated[
        bool, typer.Option("--unsandboxed", help="Run checks without a box, with all rights of this process.")
    ] = False,
    due: Annotated[bool, typer.Option("--due", help="Check only if the newest verdict is older than --every.")] = False,
    every: Annotated[Duration, duration_of("--every", "With --due: how old a verdict may be.")] = Duration("1d"),
    no_record: Annotated[bool, typer.Option("--no-record", help="Do not keep the verdicts.")] = False,
    reading: ExpectingReading = DEFAULT,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Reads and checks everything that is stored. With --mount, --scan, --command, --boot or --due checks points.

    What reads the content of a point runs in a box: without network, without rights, and without files of this machine but
    its programs (/usr) and what --show names.

    The exit code is 5 when something stored is wrong, 21 when a volume went back since it was seen here, 17 when a check of
    a point failed. Verdicts are kept on the points.
    """
    if volume and named and volume != named:
        raise Refused(f"two volumes are named, {volume} and {named}: give one", Exit.INVALID_INPUT)
    machine = Machine(qemu, boot_args, pattern_of(boot_pattern), limit) if boot else None
    scanned = Scan(scan) if scan is not None else None
    mount = mount or scanned is not None
    is_boxed = (mount or boot or command is not None) and not unsandboxed
    checks = Checks(mount, fsck, command, machine, limit, Box(tuple(show or ())) if is_boxed else None, scanned)
    reader = reading.open(vault, key_file)
    if not (due or mount or boot or command is not None):
        if at is not None:
            raise Refused(
                "cannot check a point by reading all that is stored: add --mount, --scan, --command or --boot",
                Exit.INVALID_INPUT,
            )
        return verify_stored(reader, volume or named, json=json)
    run = Run(reader, checks, at or NEWEST, timedelta(seconds=every) if due else None, record=not no_record, quiet=json)
    run.check(names_of(reader.vault, volume or named))
    if json:
        print_json({"ok": run.ok, "checks": run.rows, "failures": run.failures})
    elif not run.rows and not run.failures:
        say("nothing is due" if due else "there is no volume")
    if run.code:
        raise typer.Exit(run.code)


def verify_stored(reader: Reader, volume: str | None, *, json: bool) -> None:
    """Reads and checks everything that is stored of a volume, or of all. What is damaged beyond reading is not sound.

    A volume that has less than it should is a finding of its own: what there is of it is checked all the same.
    """
    each = EachVolume(reader.vault, volume)
    too_old: dict[str, str] = {}

    def work(name: str) -> VerifyReport:
        replica = reader.vault.replica(name)
        if problem := reader.problem(replica):
            too_old[name] = str(problem)
        with progress_bar(f"Verifying {name}") as progress:
            return replica.verify(progress=progress)

    reports = each.do(work)
    is_sound = all(report["sound"] for report in reports.values())
    is_damaged = any(error.kind == "corrupt" for error in each.failures.values())
    if json:
        failures = {name: str(error) for name, error in each.failures.items()}
        sound = is_sound and not failures and not too_old
        print_json({"sound": sound, "volumes": reports, "failures": failures, "went_back": too_old})
    else:
        for name, report in reports.items():
            verdict = "sound" if report["sound"] else count(len(report["findings"]), "finding")
            verdict += ", but not what was seen or expected of it" if name in too_old else ""
            counts = f"{count(report['segments'], 'segment')}, {count(report['points'], 'point')}"
            say(f"{name}: {verdict}, {counts}, {human(report['bytes'])}")
            if name in too_old:
                say(f"  {too_old[name]}")
            for _, finding in report["findings"]:
                say(f"  {finding}")
            for stray in report["strays"]:
                say(f"  note: {stray} is not in the catalog")
            for note in report["notes"]:
                say(f"  note: {note}")
    if not is_sound or is_damaged:
        raise typer.Exit(Exit.CORRUPT)
    if too_old:
        raise typer.Exit(Exit.DIVERGED)
    each.end()


class Run:
    """Checks volume after volume. One that cannot be checked does not hold up the others.

    The exit code is that of a failed check; if none failed, that of the first volume that could not be checked.
    """

    def __init__(
        self, reader: Reader, checks: Checks, at: str, every: timedelta | None, *, record: bool, quiet: bool
    ) -> None:
        self._reader = reader
        self._checks = checks
        self._at = at
        self._every = every
        self._record = record
        self._quiet = quiet
        self.rows: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def code(self) -> int:
        """Returns the exit code of the command."""
        if not all(row["ok"] for row in self.rows):
            return Exit.CHECK_FAILED
        return int(self.failures[0]["code"]) if self.failures else 0

    def check(self, names: list[str]) -> None:
        """Checks each volume that is due."""
        for name in names:
            try:
                self._check_volume(name)
            except HrlError as error:
                self._failed(name, str(error), Exit.of_kind(error.kind))
            except Refused as error:
                self._failed(name, str(error), error.code)
            except OSError as error:
                self._failed(name, str(error), Exit.IO)

    def _check_volume(self, name: str) -> None:
        replica = self._reader.replica(name)
        kinds = self._checks.kinds
        if self._every is not None:
            kinds = due_kinds(replica.points(), kinds, datetime.now(UTC) - self._every)
        if not kinds:
            return
        point = point_of(replica, self._at)
        for outcome in self._outcomes(replica, point, kinds):
            self._add(name, point, outcome)
            if self._record:
                replica.record_verdict(f"point:{point.id}", outcome.kind, outcome.ok, outcome.text)

    def _outcomes(self, replica: Replica, point: RecoveryPoint, kinds: list[Kind]) -> list[Outcome]:
        """Returns what the checks found. A point that is stored with errors is bad, whatever the check."""
        try:
            return self._checks.of(replica, point, kinds)
        except HrlError as error:
            if error.kind != "corrupt":
                raise
            return [Outcome(kind, False, str(error)).bounded() for kind in kinds]

    def _add(self, name: str, point: RecoveryPoint, outcome: Outcome) -> None:
        row = {"volume": name, "point": point.id, "sequence": point.sequence, "label": point.label}
        self.rows.append(row | {"kind": outcome.kind, "ok": outcome.ok, "text": outcome.text, "recorded": self._record})
        if not self._quiet:
            say(f"{name} {point.id}: {outcome.kind} {'ok' if outcome.ok else 'failed'}: {outcome.text}")

    def _failed(self, name: str, message: str, code: int) -> None:
        self.failures.append({"volume": name, "error": message, "code": int(code)})
        note(f"{name}: {message}")


def due_kinds(points: list[RecoveryPoint], kinds: list[Kind], since: datetime) -> list[Kind]:
    """Returns the kinds of which no point has a verdict of that time or later."""
    fresh = {verdict.kind for point in points for verdict in point.verdicts if datetime.fromisoformat(verdict.time) >= since}
    return [kind for kind in kinds if kind not in fresh]
