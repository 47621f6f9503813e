"""The command health: what monitoring asks, in its own words and exit codes.

The rules are those of `hrl.health`. The exit codes are those of monitoring plugins, not of the other commands: 0 ok, 1
warning, 2 critical, 3 unknown, which is every error of the command itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from hrl import HrlError, Key, Replica, certificate_rights
from hrl.cli.commands import Command, command
from hrl.cli.control import ask
from hrl.cli.exits import Exit, Refused
from hrl.cli.key_options import KeyRefused
from hrl.cli.memory import Memory, Reader
from hrl.cli.options import Json, KeyFile, PolicyFile, Volumes, duration_of
from hrl.cli.output import flush_output, print_json, say
from hrl.cli.policy import read_policy, seconds_of
from hrl.cli.reading_options import DEFAULT, ExpectingReading, ReadingOptions
from hrl.cli.rights import open_to_others
from hrl.cli.times import Duration
from hrl.cli.volumes import names_of
from hrl.health import (
    HEARTBEAT_SECONDS,
    RPO_SECONDS,
    STATES,
    Limits,
    Notice,
    app_seconds,
    line,
    of_agent,
    of_expiry,
    of_replica,
    of_volumes,
    worst,
)
from hrl.words import now_nanoseconds

CODES = {"good": 0, "warn": 1, "bad": 2}
UNKNOWN = 3
CERTIFICATES = ("client", "server", "authority")
"""Files of certificates, without their ending."""
# Errors that may be about the question, or about the vault as a whole; any other is about the volume.
NOT_ABOUT_THE_VOLUME = ("not-found", "wrong-key", "invalid-input", "unavailable")


class Probe(Command):
    """A command whose errors all end with the code for unknown."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with unknown():
            return super().make_context(*arguments, **more)

    def invoke(self, context: Any) -> Any:
        with unknown():
            return super().invoke(context)


@contextmanager
def unknown() -> Iterator[None]:
    """Gives errors the code for unknown."""
    try:
        yield
    except (HrlError, KeyRefused, Refused, OSError) as error:
        refuse(str(error))
    except Exception as error:
        # An error of the command line, as `main` shows it.
        if show := getattr(error, "format_message", None):
            refuse(show())
        raise


def refuse(message: str) -> NoReturn:
    """Ends with the code for unknown."""
    raise Refused(message, UNKNOWN) from None


@command("health", cls=Probe)
def health(
    target: Annotated[
        str,
        typer.Argument(
            metavar="VAULT|STATE|CERTIFICATES",
            help="Vault, state directory of a running agent, or directory of certificates (hrl enroll).",
            show_default=False,
        ),
    ],
    volumes: Volumes = None,
    policy: PolicyFile = None,
    rpo: Annotated[
        Duration | None,
        duration_of(
            "--rpo", "Warn when the newest replicated write is older; critical at 4 times. Default: the policy's, or 15m."
        ),
    ] = None,
    app_point_age: Annotated[
        Duration | None,
        duration_of(
            "--app-point-age",
            "Warn when the newest application-consistent point is older. Default: twice the policy's interval, else off.",
        ),
    ] = None,
    verified_age: Annotated[
        Duration, duration_of("--verified-age", "Warn when the newest point that passed a check is older; 0 is off.")
    ] = Duration("0"),
    heartbeat: Annotated[
        Duration | None,
        duration_of(
            "--heartbeat", "Warn when the newest catalog version is 3 times older. Default: the policy's, or 1h; 0 is off."
        ),
    ] = None,
    reading: ExpectingReading = DEFAULT,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Reports for each volume whether it is ok, and why not.

    The exit code is 0 for ok, 1 for a warning, 2 for critical, 3 for unknown. Application-consistent points are asked for if
    --policy names a file that makes them, or --app-point-age is given.
    """
    chosen = read_policy(policy)
    general: list[Notice] = []
    if identity := identity_of(target):
        found = {target: of_identity(identity)}
    elif is_agent(target):
        if volumes:
            raise Refused("an agent has one volume; give no names", UNKNOWN)
        found = of_running(Path(target), rpo)
    else:
        limits = Limits(
            now_nanoseconds(),
            seconds_of(chosen, "rpo_threshold", RPO_SECONDS) if rpo is None else rpo,
            app_seconds(seconds_of(chosen, "app_point_interval", 0)) if app_point_age is None else app_point_age,
            verified_age,
            seconds_of(chosen, "heartbeat_interval", HEARTBEAT_SECONDS) if heartbeat is None else heartbeat,
        )
        general, found = of_reading(reading, target, key_file, volumes, limits)
        _, _, bundle = target.partition("?identity=")
        if target.startswith("gateway://") and bundle:
            general += [notice for notice in of_identity(Path(bundle)) if notice.level != "note"]
    if "://" not in target:
        general += of_rights(Path(target))
    level = worst([*general, *(notice for notices in found.values() for notice in notices)])
    if json:
        of_each = [as_json(name, notices) for name, notices in found.items()]
        print_json({"state": STATES[level], "reasons": reasons_of(general), "volumes": of_each})
    else:
        for notice in general:
            say(f"{(STATES | {'note': 'note'})[notice.level]}: {notice.text}")
        for name, notices in found.items():
            say(line(name, notices))
    flush_output()
    raise typer.Exit(CODES[level])


def of_rights(directory: Path) -> list[Notice]:
    """Returns the notice of a directory that others than its owner have rights to, as earlier versions made them."""
    mode = open_to_others(directory)
    if not mode:
        return []
    return [Notice("note", f"others than its owner have rights to {directory} (mode {mode}): chmod -R go= takes them away")]


def is_agent(target: str) -> bool:
    """Reports whether the target is a state directory: it has an agent's lock, and is no vault."""
    path = Path(target)
    return "://" not in target and (path / "lock").exists() and not (path / "hrl-vault").exists()


def identity_of(target: str) -> Path | None:
    """Returns the directory of certificates that the target is; None if it is something else."""
    path = Path(target)
    is_one = "://" not in target and any((path / f"{name}.pem").exists() for name in CERTIFICATES)
    return path if is_one and not (path / "hrl-vault").exists() else None


def of_identity(path: Path) -> list[Notice]:
    """Returns the notices of a directory of certificates: when each expires."""
    files = [(name, path / f"{name}.pem") for name in CERTIFICATES]
    now = now_nanoseconds()
    lasts = {name: (certificate_rights(file).expires_ns - now) / 1e9 for name, file in files if file.exists()}
    return [of_expiry(f"of the {name}", left) for name, left in lasts.items()]


def of_running(state: Path, rpo: float | None) -> dict[str, list[Notice]]:
    """Returns the notices of an agent. One that does not run is critical."""
    try:
        status = ask(state, "status")
    except Refused as refused:
        if refused.code != Exit.NOT_RUNNING:
            raise
        return {str(state): [Notice("bad", str(refused))]}
    return {status["volume"]: of_agent(status, status["rpo_threshold_seconds"] if rpo is None else rpo)}


def of_reading(
    reading: ReadingOptions, url: str, key: Key | None, volumes: list[str] | None, limits: Limits
) -> tuple[list[Notice], dict[str, list[Notice]]]:
    """Returns the notices of a vault as a whole, and of its volumes.

    A place where volumes were seen, and that is no vault any more, is critical.
    """
    try:
        reader = reading.open(url, key)
    except HrlError as error:
        seen = [] if error.kind != "not-found" or reading.no_memory else Memory(url).names()
        if not seen:
            raise
        return [*of_volumes([], seen), Notice("bad", f"{error}: is its file system mounted?")], {}
    lost = reader.lost(volumes)
    names = [name for name in volumes or names_of(reader.vault) if name not in lost]
    return of_volumes(names, lost), of_vault(reader, names, limits)


def of_vault(reader: Reader, names: list[str], limits: Limits) -> dict[str, list[Notice]]:
    """Returns the notices of volumes in a vault. One that cannot be read, or that went back, is critical.

    Raises the error of the first if none can be read, and it may be the question that is wrong, such as the key.
    """
    found: dict[str, list[Notice]] = {}
    errors: list[HrlError] = []
    for name in names:
        try:
            with reader.vault.replica(name) as replica:
                found[name] = of_history(reader, replica) + of_replica(replica, limits)
        except HrlError as error:
            errors.append(error)
            found[name] = [Notice("bad", f"cannot be read: {error}")]
    if errors and len(errors) == len(names) and errors[0].kind in NOT_ABOUT_THE_VOLUME:
        raise errors[0]
    return found


def of_history(reader: Reader, replica: Replica) -> list[Notice]:
    """Returns the notice of a volume that has less than was seen of it, or than is expected."""
    problem = reader.problem(replica)
    return [Notice("bad", str(problem))] if problem else []


def as_json(name: str, notices: list[Notice]) -> dict[str, Any]:
    """Returns a volume as JSON can hold it."""
    return {"volume": name, "state": STATES[worst(notices)], "reasons": reasons_of(notices)}


def reasons_of(notices: list[Notice]) -> list[dict[str, str]]:
    """Returns notices as JSON can hold them."""
    levels = STATES | {"note": "note"}
    return [{"state": levels[notice.level], "text": notice.text} for notice in notices]
