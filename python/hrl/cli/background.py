"""Commands that serve a volume, in the foreground or detached: `--detach` returns once the volume is usable.

The process that serves says so with one line of JSON on its standard output. Detached it has a session of its own, and
its standard error goes to DIR/log.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hrl.cli.base import Refused

LOG = "log"
LOG_LINES_SHOWN = 5

Detach = Annotated[bool, typer.Option("--detach", help="Return once the volume is usable; DIR/log says what happens.")]


def say_ready(ready: dict[str, Any]) -> None:
    """Tells who waits that the volume is usable."""
    print(json.dumps({**ready, "pid": os.getpid()}), flush=True)


def run_detached(state: Path) -> None:
    """Runs the command of this process without `--detach` in the background, and prints its line."""
    state.mkdir(parents=True, exist_ok=True)
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    with (state / LOG).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "hrl", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert child.stdout is not None
    line = child.stdout.readline()
    if line:
        sys.stdout.buffer.write(line)
        return
    code = child.wait()
    said = (state / LOG).read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    reason = "\n".join(said).removeprefix("hrl: ") or "it said nothing"
    raise Refused(reason, code or 1)
