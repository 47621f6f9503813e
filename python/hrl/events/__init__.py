"""Where events go: a file, a command, mail.

A sink is called with an event as `Protection(on_event=…)` and `GroupCoordinator(on_event=…)` give it: a dictionary with
`time`, `volume`, `kind`, `message`, and `mode` and `cause` where the mode changed. The call puts it into a bounded queue
and returns; threads of the sink deliver. So a sink that is slow or dead never holds up the agent: its queue fills, what
comes then is counted, and an event of the kind `events-dropped` tells the number once there is room. What a sink cannot do
is told to `on_problem`, by default as a line on standard error. `close` delivers what is left, for a limited time.

>>> import json, pathlib
>>> with EventFile("events.jsonl") as sink:
...     sink({"time": "2026-11-21T09:30:00Z", "volume": "v", "kind": "rpo-met", "message": "1 s"})
>>> json.loads(pathlib.Path("events.jsonl").read_text())["kind"]
'rpo-met'
"""

from hrl.events.command import EventCommand
from hrl.events.file import EventFile
from hrl.events.mail import MAIL_KINDS, EventMail
from hrl.events.sink import DROPPED, Event, EventSink

__all__ = ["DROPPED", "MAIL_KINDS", "Event", "EventCommand", "EventFile", "EventMail", "EventSink"]
