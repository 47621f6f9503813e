"""The command health: what monitoring asks, in its own words and exit codes.

The rules are those of `hrl.health`. The exit code is that of monitoring plugins and not that of the other commands: 0 all is
well, 1 a warning, 2 critical, 3 not known, which is every error of the command itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from hrl import HrlError, Key
from hrl.cli.base import NOT_RUNNING, Json, KeyFile, Refused, app, names_of, open_vault, print_json
from hrl.cli.control import ask
from hrl.cli.key_options import KeyRefused
from hrl.cli.metrics import line
from hrl.cli.sizing import Volumes, seconds
from hrl.health import STATES, Limits, Notice, of_agent, of_replica, worst
from hrl.words import now_nanoseconds

EXIT_CODES = {"good": 0, "warn": 1, "bad": 2}
UNKNOWN = 3
# Errors that say that the question is wrong, or that nobody can tell now; any other is about the volume.
NOT_ABOUT_THE_VOLUME = ("not-found", "wrong-key", "invalid-input", "unavailable")


class Probe(TyperCommand):
    """A command whose errors all end with the code for what is not known."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with unknown():
            return super().make_context(*arguments, **more)

    def invoke(self, context: Any) -> Any:
        with unknown():
            return super().invoke(context)


@contextmanager
def unknown() -> Iterator[None]:
    """Gives errors the code for what is not known."""
    try:
        yield
    except (HrlError, KeyRefused, Refused, OSError) as error:
        refuse(str(error))
    except Exception as error:
        # As `main` tells the errors of the command line.
        if show := getattr(error, "format_message", None):
            refuse(show())
        raise


def refuse(message: str) -> NoReturn:
    """Ends with the code for what is not known."""
    raise Refused(message, UNKNOWN) from None


@app.command(cls=Probe)
def health(
    target: Annotated[
        str, typer.Argument(metavar="VAULT|STATE", help="Vault, or state directory of a running agent.", show_default=False)
    ],
    volumes: Volumes = None,
    rpo: Annotated[
        str | None,
        typer.Option(
            "--rpo",
            metavar="TIME",
            help="Warning when the newest replicated write is older, critical at 4 times. Default: 15m, or the agent's.",
        ),
    ] = None,
    app_point_age: Annotated[
        str,
        typer.Option(
            "--app-point-age",
            metavar="TIME",
            help="Warning when the newest application-consistent point is older; 0 is off.",
        ),
    ] = "1d",
    verified_age: Annotated[
        str,
        typer.Option(
            "--verified-age", metavar="TIME", help="Warning when the newest point that passed a check is older; 0 is off."
        ),
    ] = "0",
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Says of each volume whether it is ok, and why not. Exit code 0 ok, 1 warning, 2 critical, 3 not known."""
    if is_agent(target):
        if volumes:
            raise Refused("an agent has one volume; give no names", UNKNOWN)
        found = of_running(Path(target), rpo)
    else:
        limits = Limits(now_nanoseconds(), seconds(rpo or "15m"), seconds(app_point_age), seconds(verified_age))
        found = of_vault(target, volumes, limits, key_file)
    level = worst([notice for notices in found.values() for notice in notices])
    if json:
        print_json({"state": STATES[level], "volumes": [told(name, notices) for name, notices in found.items()]})
    else:
        for name, notices in found.items():
            print(line(name, notices))
        if not found:
            print("ok: there is no volume")
    raise typer.Exit(EXIT_CODES[level])


def is_agent(target: str) -> bool:
    """Whether it is a state directory: it has the lock of an agent, and no mark of a vault."""
    path = Path(target)
    return "://" not in target and (path / "lock").exists() and not (path / "hrl-vault").exists()


def of_running(state: Path, rpo: str | None) -> dict[str, list[Notice]]:
    """What a running agent says of itself. One that does not run is critical."""
    try:
        status = ask(state, "status")
    except Refused as refused:
        if refused.code != NOT_RUNNING:
            raise
        return {str(state): [Notice("bad", str(refused))]}
    return {status["volume"]: of_agent(status, seconds(rpo) if rpo else status["rpo_threshold_seconds"])}


def of_vault(url: str, volumes: list[str] | None, limits: Limits, key: Key | None) -> dict[str, list[Notice]]:
    """What the catalogs of a vault say. A volume that cannot be read is critical."""
    opened = open_vault(url, key)
    found: dict[str, list[Notice]] = {}
    for name in volumes or names_of(opened, None):
        try:
            with opened.replica(name) as replica:
                found[name] = of_replica(replica, limits)
        except HrlError as error:
            if error.kind in NOT_ABOUT_THE_VOLUME:
                raise
            found[name] = [Notice("bad", f"cannot be read: {error}")]
    return found


def told(name: str, notices: list[Notice]) -> dict[str, Any]:
    """A volume for JSON."""
    levels = STATES | {"note": "note"}
    reasons = [{"state": levels[notice.level], "text": notice.text} for notice in notices]
    return {"volume": name, "state": STATES[worst(notices)], "reasons": reasons}
