"""What every command shares: the application, errors and exit codes, output and progress."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from hrl import HrlError, Key, Vault
from hrl.cli.key_options import KeyFile as KeyFile
from hrl.cli.key_options import KeyRefused

EXIT_CODES = {
    "invalid-input": 2,
    "not-found": 3,
    "already-exists": 4,
    "corrupt": 5,
    "wrong-key": 6,
    "unsupported": 7,
    "unavailable": 8,
    "full": 9,
    "poisoned": 10,
    "fenced": 11,
    "changed": 12,
    "read-only": 13,
    "not-ordered": 14,
    "io": 15,
}
NOT_RUNNING = 16
CHECK_FAILED = 17
PLAN_FAILED = 18
STOPPED = 130

app = typer.Typer(
    name="hrl",
    help="Continuous replication of disks: capture, recovery points, restore.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)
TABLE_COLUMNS_MIN = 200

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VolumeName = Annotated[str | None, typer.Option("--volume", help="Name of the volume in the vault.")]


NbdTls = Annotated[
    Path | None,
    typer.Option(
        "--nbd-tls", metavar="PKI", help="Serve in TLS only, with the certificates of this directory (hrl enroll)."
    ),
]
NbdTlsAnyone = Annotated[bool, typer.Option("--nbd-tls-anyone", help="Let clients in without a certificate, too.")]


class Refused(Exception):
    """A failure of the command line itself, with its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def print_json(value: Any) -> None:
    """Prints a value as JSON, without colours or wrapping."""
    print(json.dumps(value, indent=2))


def print_table(table: Table) -> None:
    """Prints a table in full: a narrow terminal wraps its lines, and nothing is cut off for a script."""
    Console(soft_wrap=True, width=max(out.width, TABLE_COLUMNS_MIN)).print(table)


def fields(value: object) -> dict[str, Any]:
    """The properties of a handle's value as a dictionary, those of the values in it too."""
    return {name: plain(getattr(value, name)) for name in dir(value) if not name.startswith("_")}


def plain(value: Any) -> Any:
    """A value for JSON."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return fields(value) if type(value).__module__ == "hrl" else value


def human(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the loop returns")


def open_vault(url: str, key: Key | None, *, create: bool = False) -> Vault:
    """Opens a vault from a command's arguments."""
    return Vault(url, key=key, create=create)


def names_of(vault: Vault, volume: str | None) -> list[str]:
    """The volumes that a command is about: the one named, or all that were not shredded."""
    if volume:
        return [volume]
    volumes = vault.volumes()
    for info in volumes:
        if info["shredded"]:
            err.print(f"hrl: note: {info['name']} was shredded")
    return [info["name"] for info in volumes if not info["shredded"]]


def tls_options(pki: Path | None, anyone: bool) -> dict[str, Any]:
    """What an NBD server is told of TLS; clients that it refuses are a line on standard error."""

    def tell(line: str) -> None:
        print(f"hrl: {line}", file=sys.stderr, flush=True)

    return {"tls": pki, "tls_verify": not anyone, "on_refused": tell}


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(title, total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield tell


def main() -> None:
    """Entry point: runs a command; a failure is one line on standard error and an exit code."""
    try:
        # Outside of standalone mode typer gives the code of a typer.Exit back; commands themselves give None.
        code = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except SystemExit as ended:
        # typer answers a broken pipe itself, with an exit code of 1.
        if isinstance(ended.__context__, BrokenPipeError):
            leave_pipe()
        raise
    except typer.Abort:
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except BrokenPipeError:
        leave_pipe()
    except HrlError as error:
        fail(str(error), EXIT_CODES.get(error.kind, 1))
    except KeyRefused as refused:
        fail(str(refused), EXIT_CODES[refused.kind])
    except Refused as refused:
        fail(str(refused), refused.code)
    except OSError as error:
        fail(str(error), EXIT_CODES["io"])
    except Exception as error:
        show = getattr(error, "format_message", None)
        if show is None:
            raise
        fail(show(), 2)


def leave_pipe() -> NoReturn:
    """Ends well: the reader has what it wanted, and nothing more can be written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    sys.exit(0)


def fail(message: str, code: int) -> None:
    """Prints one line and ends."""
    print(f"hrl: {message}", file=sys.stderr)
    sys.exit(code)
