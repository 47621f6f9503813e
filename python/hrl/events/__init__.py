"""Sinks of events: a file, a command, mail.

`Protection(on_event=…)` and `GroupCoordinator(on_event=…)` call a sink with each event: a dictionary with `time`, `volume`,
`kind`, `message`, and with `mode` and `cause` if the mode changed. The call puts the event into a bounded queue and returns;
threads of the sink deliver it. So a slow or dead sink never holds up the agent. Events that find the queue full are counted,
and an event of the kind `events-dropped` reports the number once there is room. Failures are reported to `on_problem`, by
default as a line on standard error. `close` delivers what is left, for a limited time.

>>> import json, pathlib
>>> with EventFile("events.jsonl") as sink:
...     sink({"time": "2026-11-21T09:30:00Z", "volume": "v", "kind": "rpo-met", "message": "1 s"})
>>> json.loads(pathlib.Path("events.jsonl").read_text())["kind"]
'rpo-met'
"""

from typing import TYPE_CHECKING, Any

from hrl.events.command import EventCommand
from hrl.events.file import EventFile
from hrl.events.kinds import DROPPED, MAIL_KINDS
from hrl.events.sink import Event, EventSink

if TYPE_CHECKING:
    from hrl.events.mail import EventMail

__all__ = ["DROPPED", "MAIL_KINDS", "Event", "EventCommand", "EventFile", "EventMail", "EventSink"]


def __getattr__(name: str) -> Any:
    """Imports the mail sink when it is used: TLS and mail take a while to load."""
    if name == "EventMail":
        from hrl.events.mail import EventMail

        return EventMail
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
