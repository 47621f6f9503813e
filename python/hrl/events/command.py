"""Events as runs of a shell command.

A run receives the event as JSON on standard input, and its values as `HRL_EVENT_TIME`, `HRL_EVENT_VOLUME`,
`HRL_EVENT_KIND` and `HRL_EVENT_MESSAGE` (and `_MODE`, `_CAUSE`) in its environment. They are never part of the command's
text, which a message could break out of. Each run has a session of its own, which is killed at the time limit with all that
it started. Up to `at_once` runs go on at once, so events may be handled out of order; their times give the order.
"""

import contextlib
import json
import os
import signal
import subprocess
from typing import Any

from hrl.events.sink import Event, EventSink

COMMAND_SECONDS_MAX = 30.0
AT_ONCE = 4
VALUE_CHARACTERS_MAX = 4096
"""Longest value in the environment, which the system limits. Standard input has all of it."""


class EventCommand(EventSink):
    """Runs a shell command for each event, for at most `limit` seconds, and at most `at_once` at a time."""

    def __init__(self, command: str, *, limit: float = COMMAND_SECONDS_MAX, at_once: int = AT_ONCE, **options: Any) -> None:
        if not command.strip() or limit <= 0 or at_once < 1:
            raise ValueError("an event command needs a command, a time limit and room for one run at least")
        self._command = command
        self._limit = limit
        super().__init__("events command", threads=at_once, **options)

    def deliver(self, event: Event) -> None:
        """Runs the command. Its output goes to standard error, because standard output is the agent's."""
        values = {f"HRL_EVENT_{name.upper()}": text(value) for name, value in event.items()}
        with subprocess.Popen(
            self._command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=2,
            start_new_session=True,
            env=os.environ | values,
        ) as process:
            try:
                # A command need not read: communicate accepts a closed pipe.
                process.communicate(json.dumps(event).encode() + b"\n", timeout=self._limit)
            except subprocess.TimeoutExpired:
                raise OSError(f"the command took longer than {self._limit:g} s and was killed") from None
            finally:
                # Even what it left in the background does not outlive its event.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise OSError(f"the command ended with code {process.returncode}")


def text(value: str) -> str:
    """Returns a value as the environment can hold it."""
    return value.replace("\0", "\ufffd")[:VALUE_CHARACTERS_MAX]
