"""Kinds of events that the sinks treat in their own way."""

DROPPED = "events-dropped"
"""Kind of the event that reports how many others did not fit the queue."""

MAIL_KINDS = (
    "rpo-exceeded",
    "rpo-met",
    "vault-unavailable",
    "vault-available",
    "check-failed",
    "failover-committed",
    "fenced",
    "diverged",
    "volume-lost",
    "version-ignored",
    "source-shrank",
    "clock-ahead",
    "suspicious-change",
    "handed-over",
    "task-failed",
    "task-recovered",
    "mode-changed:dirty",
    "point-skipped",
)
"""Kinds that need a person. `mode-changed:dirty` is a change to that mode alone."""
