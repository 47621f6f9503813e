"""What somebody can do about a failure: the option of the command that helps, said behind the error.

An error of the library says what is wrong. Which option changes that is known here alone, from the error's kind and from
the options that the command has and was given.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from hrl import HrlError
from hrl.cli.exits import Exit, Refused

KEY_OPTIONS = ("key_file_file", "key_file_command", "key_file_env")


def with_hints(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the command with its errors explained."""

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        try:
            return command(**arguments)
        except HrlError as error:
            hint = hint_of(error.kind, arguments, error.operation)
            if not hint:
                raise
            raise Refused(f"{error} ({hint})", Exit.of_kind(error.kind)) from error

    run.__signature__ = inspect.signature(command)  # type: ignore[attr-defined]
    return run


def hint_of(kind: str, arguments: dict[str, Any], operation: str | None = None) -> str:
    """Returns the hint for an error of a kind in a command with these arguments; empty if there is none."""
    if kind == "already-exists" and arguments.get("overwrite") is False:
        return "--overwrite replaces it"
    if kind == "wrong-key" and KEY_OPTIONS[0] in arguments and all(arguments[option] is None for option in KEY_OPTIONS):
        return "give its key: --key-file, --key-command or --key-env"
    if kind == "invalid-input" and operation == "listen on" and arguments.get("insecure") is False:
        return "--nbd-tls serves over TLS, --insecure without"
    if kind == "denied" and operation == "resume run" and arguments.get("plan_file", ...) is None:
        return "give the plan's file with --plan, and --test if the run is one"
    if kind == "fenced" and arguments.get("take_over") is False:
        return "if the other source is gone for good, --take-over takes the volume"
    return ""
