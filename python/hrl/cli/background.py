"""Commands that serve a volume, in the foreground or detached: `--detach` returns once the volume is usable.

The process that serves says so with one line on its standard output. Detached it has a session of its own, and its
standard error goes to DIR/log.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl.cli.exits import Exit, Refused
from hrl.cli.output import announcing, print_line, print_raw, say
from hrl.cli.rights import private_directory, private_file
from hrl.cli.secrets_taken import passed_on
from hrl.words import local

LOG = "log"
LOG_LINES_SHOWN = 5

Detach = Annotated[bool, typer.Option("--detach", help="Return once the volume is usable; DIR/log says what happens.")]


def print_ready(ready: dict[str, Any], *, json: bool) -> None:
    """Prints that the volume is usable, in one line."""
    found = {**ready, "pid": os.getpid()}
    with announcing():
        if json:
            print_line(found)
        else:
            say(f"{sentence_about(found)}, process {found['pid']}")


def sentence_about(ready: dict[str, Any]) -> str:
    """Returns the sentence that says where a usable volume is served."""
    at = f"point {ready['point']}" if ready["point"] else f"sequence {ready['sequence']}"
    time = f" of {local(ready['time'])}" if ready["time"] else ""
    return f"{ready['volume']} as of {at}{time} is served at {ready['uri']} after {ready['rto_ms'] / 1000:.1f} s"


def run_detached(state: Path) -> None:
    """Runs the command of this process without `--detach` in the background, and prints its line."""
    private_directory(state)
    arguments, inherited = passed_on([argument for argument in sys.argv[1:] if argument != "--detach"])
    with private_file(state / LOG, "ab") as log:
        begin = log.tell()
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "hrl", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            pass_fds=inherited,
        )
    assert child.stdout is not None
    line = child.stdout.readline()
    if line:
        print_raw(os.fsdecode(line).rstrip("\n"))
        return
    code = child.wait()
    said = (state / LOG).read_bytes()[begin:].decode(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    reason = "; ".join(said).removeprefix("hrl: ") or "it said nothing"
    raise Refused(reason, code or Exit.FAILED)
