"""Where a command's events go besides standard error: `--events-file`, `--events-command`, `--events-mail`.

A command has a parameter of the type `EventOptions` and receives the options that were given. `open_sinks` joins them with
an `[events]` table of the same names (`file`, `command`, `mail`, …) from the policy or the group file. An option wins over
its setting.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hrl.cli.exits import Exit, Refused
from hrl.cli.option_groups import OptionGroup
from hrl.cli.secrets_taken import take
from hrl.events.kinds import MAIL_KINDS

if TYPE_CHECKING:
    from hrl.events import EventMail


OPTIONS: dict[str, Any] = {
    "file": Annotated[
        Path | None,
        typer.Option("--events-file", metavar="FILE", help="Append events as lines of JSON; 5 files of 10 MiB at most."),
    ],
    "command": Annotated[
        str | None,
        typer.Option(
            "--events-command",
            metavar="CMD",
            help="Run this shell command for each event: JSON on standard input, HRL_EVENT_KIND and others as environment.",
        ),
    ],
    "mail": Annotated[
        list[str] | None,
        typer.Option("--events-mail", metavar="TO", help="Mail events that need a person to this address. May be repeated."),
    ],
    "smtp": Annotated[
        str | None,
        typer.Option("--smtp", metavar="HOST[:PORT]", help="Mail server, port 25. STARTTLS when offered; TLS on port 465."),
    ],
    "mail_from": Annotated[str | None, typer.Option("--mail-from", metavar="A", help="Sender of the mail.")],
    "mail_kinds": Annotated[
        str | None,
        typer.Option(
            "--events-mail-kinds", metavar="KINDS", help=f"Kinds to mail, or all. Default: {', '.join(MAIL_KINDS)}"
        ),
    ],
    "smtp_user": Annotated[str | None, typer.Option("--smtp-user", metavar="NAME", help="Log in as. Default: the sender.")],
    "smtp_password_env": Annotated[
        str | None,
        typer.Option("--smtp-password-env", metavar="NAME", help="Environment variable with the mail server's password."),
    ],
    "smtp_password_file": Annotated[
        Path | None,
        typer.Option("--smtp-password-file", metavar="FILE", help="File with the mail server's password in its first line."),
    ],
}


class EventParameter(OptionGroup):
    """Marks the parameter that becomes the options."""

    def options(self, name: str) -> dict[str, tuple[Any, Any]]:
        return {f"events_{option}": (annotation, None) for option, annotation in OPTIONS.items()}

    def value(self, given: dict[str, Any]) -> dict[str, Any]:
        return {option: value for option, value in zip(OPTIONS, given.values(), strict=True) if value not in (None, [])}


EventOptions = Annotated[dict[str, Any], EventParameter()]


@dataclass
class Sinks:
    """All destinations of an agent's events, called as one. Counts them by volume and kind, for the metrics."""

    sinks: Sequence[Callable[[dict[str, str]], object]]
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, event: dict[str, str]) -> None:
        with self._lock:
            what = (event["volume"], event["kind"])
            self.counts[what] = self.counts.get(what, 0) + 1
        for sink in self.sinks:
            sink(event)

    def report(self, kind: str, volume: str, message: str) -> None:
        """Passes an event on that a command found out itself."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self({"time": time, "volume": volume, "kind": kind, "message": message})

    @property
    def dropped(self) -> dict[str, int]:
        """Returns how many events were not delivered, by sink."""
        from hrl.events.sink import EventSink

        return {sink.name: sink.dropped for sink in self.sinks if isinstance(sink, EventSink)}


@contextmanager
def open_sinks(
    settings: Mapping[str, Any], options: Mapping[str, Any], first: Callable[[dict[str, str]], object]
) -> Iterator[Sinks]:
    """Opens the sinks that settings and options name, after `first`. Delivers what is left in them at the end."""
    from hrl.events import EventCommand, EventFile

    chosen = {**settings, **options}
    with contextlib.ExitStack() as stack:
        sinks: list[Callable[[dict[str, str]], object]] = [first]
        try:
            check_names(chosen)
            if path := chosen.get("file"):
                sinks.append(stack.enter_context(EventFile(path)))
            if command := chosen.get("command"):
                sinks.append(stack.enter_context(EventCommand(str(command))))
            if mail := mail_of(chosen):
                sinks.append(stack.enter_context(mail))
        except (OSError, ValueError) as error:
            code = Exit.INVALID_INPUT if isinstance(error, ValueError) else Exit.IO
            raise Refused(f"cannot send events: {error}", code) from None
        yield Sinks(sinks)


def check_names(chosen: Mapping[str, Any]) -> None:
    """Refuses unknown settings and settings of another type."""
    for name, value in chosen.items():
        if name not in OPTIONS:
            raise ValueError(f"the setting events.{name} is not known; there are {', '.join(OPTIONS)}")
        lists = name in ("mail", "mail_kinds") and isinstance(value, list) and all(isinstance(v, str) for v in value)
        if not lists and not isinstance(value, str | Path):
            raise ValueError(f"the setting events.{name} is {value!r}: expected a text")


def mail_of(chosen: Mapping[str, Any]) -> "EventMail | None":
    """Returns the mail sink; `None` if there is nobody to mail to."""
    names = [name for name in ("smtp", "mail_from") if not chosen.get(name)]
    if not chosen.get("mail"):
        if stray := [name for name in OPTIONS if name.startswith(("smtp", "mail_")) and name in chosen]:
            raise ValueError(f"{stray[0]} is given without somebody to mail to (--events-mail)")
        return None
    if names:
        raise ValueError("mail needs --smtp HOST[:PORT] and --mail-from ADDRESS")
    from hrl.events import EventMail

    kinds = items(chosen.get("mail_kinds") or list(MAIL_KINDS))
    return EventMail(
        items(chosen["mail"]),
        smtp=chosen["smtp"],
        sender=chosen["mail_from"],
        user=chosen.get("smtp_user"),
        password=password_of(chosen),
        kinds=kinds,
    )


def items(value: str | list[str]) -> list[str]:
    """Returns a list as it is, and a text with commas as one."""
    parts = value.split(",") if isinstance(value, str) else value
    return [part.strip() for part in parts if part.strip()]


def password_of(chosen: Mapping[str, Any]) -> str | None:
    """Returns the mail server's password from where it is kept."""
    variable, file = chosen.get("smtp_password_env"), chosen.get("smtp_password_file")
    if variable and file:
        raise ValueError("cannot take two passwords: give --smtp-password-env or --smtp-password-file")
    if variable:
        value = take(variable)
        if value is None:
            raise ValueError(f"the environment variable {variable} is not set")
        return os.fsdecode(value)
    if file:
        return Path(file).read_text().split("\n")[0].rstrip("\r")
    return None
