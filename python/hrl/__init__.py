"""Continuous replication of disks: write-order journals, recovery points, replicas.

`Protection` captures a disk into a vault; `Vault` and `Replica` give it back as of any point; `NbdServer` serves either.
Every failure is an `HrlError` whose `kind` says what can be done about it.
"""

from hrl._hrl import (
    ChangeSet,
    HrlError,
    NbdServer,
    Protection,
    RecoveryPoint,
    Replica,
    Segment,
    Stats,
    TimelineEntry,
    Vault,
    View,
    generate_key,
)

__all__ = [
    "ChangeSet",
    "HrlError",
    "NbdServer",
    "Protection",
    "RecoveryPoint",
    "Replica",
    "Segment",
    "Stats",
    "TimelineEntry",
    "Vault",
    "View",
    "generate_key",
]
