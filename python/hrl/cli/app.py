"""The command `hrl` as a whole: its version, its help, and how it ends.

A failure is one line on standard error and an exit code; nothing else is ever shown of it.
"""

import contextlib
import functools
import sys
from typing import Annotated, Any

import typer

from hrl import HrlError
from hrl.cli.commands import STYLE, Root
from hrl.cli.exits import Exit, Refused
from hrl.cli.key_options import KeyRefused
from hrl.cli.output import emit, flush_output, leave_output, note, open_standard_streams

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
        emit(f"hrl {version()}")
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
    open_standard_streams()
    code = run()
    try:
        flush_output()
    except Refused as refused:
        # Of two failures that of the command counts, and its line was printed.
        code = code or fail(str(refused), refused.code)
    sys.exit(code)


def run() -> int:
    """Runs the command of this process's arguments. Returns its exit code, after one line about a failure."""
    try:
        # Outside of standalone mode typer returns the code of a typer.Exit; commands themselves return None.
        code = root().main(prog_name="hrl", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        # typer answers a broken pipe itself, with an exit code of 1: the reader of a help page left.
        if isinstance(end.__context__, BrokenPipeError):
            leave_output()
            return 0
        return end.code if isinstance(end.code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return Exit.STOPPED
    except BrokenPipeError:
        leave_output()
        return 0
    except Refused as refused:
        return fail(str(refused), refused.code)
    except (HrlError, KeyRefused) as error:
        return fail(str(error), Exit.of_kind(error.kind))
    except UnicodeEncodeError as error:
        # The library takes paths as bytes, and everything else as UTF-8.
        return fail(f"cannot use {error.object}: it is not UTF-8", Exit.INVALID_INPUT)
    except OSError as error:
        return fail(str(error), Exit.of_errno(error.errno))
    except Exception as error:
        if not is_usage(error):
            raise
        return usage_failure(error)


def is_usage(error: Exception) -> bool:
    """Reports whether typer refused the command line."""
    return callable(getattr(error, "format_message", None))


def usage_failure(error: Any) -> int:
    """Prints a line about a wrong command line, with the command whose help explains it. Returns the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        with contextlib.suppress(OSError):
            print(error.ctx.get_help(), file=sys.stderr, flush=True)
        return Exit.INVALID_INPUT
    context = getattr(error, "ctx", None)
    where = f" (see {context.command_path} --help)" if context is not None else ""
    return fail(error.format_message().rstrip(".") + where, Exit.INVALID_INPUT)


def fail(message: str, code: int) -> int:
    """Prints a failure in one line. Returns its exit code."""
    note(message)
    return int(code)
