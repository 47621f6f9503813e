"""Where a command's key comes from: `--key-file`, `--key-command` or `--key-env`.

A command has a parameter of the type `KeyFile` and receives the key.
"""

import contextlib
import os
import resource
import signal
import subprocess
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl import Key
from hrl.cli.option_groups import OptionGroup
from hrl.cli.output import note
from hrl.cli.secrets_taken import keep_from_children, take

KEY_COMMAND_SECONDS_MAX = 60
# Below any core file that Linux writes. A program that takes core dumps by a pipe is not started with just this limit.
CORE_BYTES_MAX = 1
KEY_BYTES_MAX = 4096
# Rights of others to a key file that deserve a warning.
OTHERS = 0o077


class KeyRefused(Exception):
    """The options gave no key; `kind` is the kind of failure."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class KeyParameter(OptionGroup):
    """Marks a parameter that becomes three options, whose names begin with `prefix`."""

    def __init__(self, prefix: str, what: str) -> None:
        self.prefix = prefix
        self.what = what

    def options(self, name: str) -> dict[str, tuple[Any, Any]]:
        prefix, what = f"--{self.prefix}key", self.what
        file = typer.Option(f"{prefix}-file", metavar="FILE", help=f"{what}: 32 bytes or 64 hex digits.")
        command = typer.Option(f"{prefix}-command", metavar="CMD", help=f"{what}: what this shell command prints.")
        variable = typer.Option(
            f"{prefix}-env",
            metavar="NAME",
            help=f"{what}: the value of this environment variable, which programs started by the command do not get.",
        )
        return {
            f"{name}_file": (Annotated[Path | None, file], None),
            f"{name}_command": (Annotated[str | None, command], None),
            f"{name}_env": (Annotated[str | None, variable], None),
        }

    def value(self, given: dict[str, Any]) -> Key | None:
        return read_key(self.prefix, *given.values())


KeyFile = Annotated[Key | None, KeyParameter("", "Key-encryption key")]
NewKeyFile = Annotated[Key | None, KeyParameter("new-", "New key-encryption key")]


def read_key(prefix: str, file: Path | None, command: str | None, env: str | None) -> Key | None:
    """Returns the key that one of the options names; `None` if none is given."""
    given = [source for source in (file, command, env) if source is not None]
    if len(given) > 1:
        names = ", ".join(f"--{prefix}key-{suffix}" for suffix in ("file", "command", "env"))
        raise KeyRefused(f"cannot take two keys: give one of {names}", "invalid-input")
    if given:
        forbid_core_dumps()
    if file is not None:
        key = Key.from_file(file)
        keep_from_children(str(file))
        warn_of_rights(file)
        return key
    if command is not None:
        return Key(output_of(command), origin=f"the output of the {prefix}key command")
    if env is not None:
        value = take(env)
        if value is None:
            raise KeyRefused(f"cannot read key: the environment variable {env} is not set", "not-found")
        return Key(value, origin=f"the environment variable {env}")
    return None


def forbid_core_dumps() -> None:
    """Keeps keys out of core dumps of this process and of those that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = CORE_BYTES_MAX if hard == resource.RLIM_INFINITY else min(CORE_BYTES_MAX, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, hard))


def warn_of_rights(file: Path) -> None:
    """Warns if others may read or change a key file."""
    mode = file.stat().st_mode & 0o777
    if mode & OTHERS:
        note(f"warning: others than its owner have rights to {file} (mode {mode:03o}); chmod 600 it")


def output_of(command: str) -> bytes:
    """Returns what a shell command prints within a minute. Its standard error is passed on to people."""
    limit = KEY_COMMAND_SECONDS_MAX
    late = threading.Event()
    # In a session of its own, so that everything that it started can be ended with it.
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True) as process:

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        def give_up() -> None:
            late.set()
            end()

        timer = threading.Timer(limit, give_up)
        timer.start()
        try:
            assert process.stdout is not None
            printed = process.stdout.read(KEY_BYTES_MAX + 1)
            if len(printed) > KEY_BYTES_MAX:
                end()
            code = process.wait()
        finally:
            timer.cancel()
    if late.is_set():
        raise KeyRefused(f"the key command took longer than {limit} s", "unavailable")
    if len(printed) <= KEY_BYTES_MAX and code != 0:
        raise KeyRefused(f"the key command ended with code {code}", "unavailable")
    return printed
