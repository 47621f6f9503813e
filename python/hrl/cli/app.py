"""The command `hrl` as a whole: its version, its help, and how it ends.

A failure is one line on standard error and an exit code; nothing else is ever shown of it.
"""

import functools
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from hrl import HrlError
from hrl.cli.commands import STYLE, Root
from hrl.cli.exits import Exit, Refused
from hrl.cli.key_options import KeyRefused
from hrl.words import clean

HELP = """Continuous replication of disks: capture, recovery points, restore, failover.

A state of a volume (--at) is newest, newest-good, the beginning of a point's id, a label, a sequence, a time such as
'2026-11-21 09:30' or '10m ago'. A duration is 500ms, 60s, 5m, 2h or 1d."""


def version() -> str:
    """Returns the version of the package."""
    from hrl import __version__

    return __version__


def show_version(asked: bool) -> None:
    """Prints the version and ends."""
    if asked:
        print(f"hrl {version()}")
        raise typer.Exit


@functools.cache
def root() -> Any:
    """Makes the command with all of its commands, none of which is made yet. A process has one, however often it runs."""
    app = typer.Typer(name="hrl", cls=Root, help=HELP, no_args_is_help=True, **{**STYLE, "add_completion": True})

    @app.callback()
    def hrl(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version.", callback=show_version, is_eager=True)
        ] = False,
    ) -> None:
        """Takes the options of the command as a whole."""

    return typer.main.get_command(app)


def main() -> None:
    """Runs a command, and ends the process with its exit code."""
    try:
        # Outside of standalone mode typer returns the code of a typer.Exit; commands themselves return None.
        code = root().main(prog_name="hrl", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except SystemExit as ended:
        # typer answers a broken pipe itself, with an exit code of 1.
        if isinstance(ended.__context__, BrokenPipeError):
            leave_pipe()
        raise
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(Exit.STOPPED)
    except BrokenPipeError:
        leave_pipe()
    except Refused as refused:
        fail(str(refused), refused.code)
    except (HrlError, KeyRefused) as error:
        fail(str(error), Exit.of_kind(error.kind))
    except OSError as error:
        fail(str(error), Exit.IO)
    except Exception as error:
        if not is_usage(error):
            raise
        fail(*usage_failure(error))


def is_usage(error: Exception) -> bool:
    """Reports whether typer refused the command line."""
    return callable(getattr(error, "format_message", None))


def usage_failure(error: Any) -> tuple[str, Exit]:
    """Returns the line about a wrong command line, with the command whose help explains it."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.ctx.get_help(), file=sys.stderr)
        sys.exit(Exit.INVALID_INPUT)
    context = getattr(error, "ctx", None)
    where = f" (see {context.command_path} --help)" if context is not None else ""
    return error.format_message().rstrip(".") + where, Exit.INVALID_INPUT


def leave_pipe() -> NoReturn:
    """Ends well: the reader has what it wanted, and nothing more can be written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    sys.exit(0)


def fail(message: str, code: int) -> NoReturn:
    """Prints one line and ends."""
    print(f"hrl: {clean(message)}", file=sys.stderr)
    sys.exit(int(code))
