"""Continuous replication of disks: write-order journals, recovery points, replicas.

`Protection` captures a disk into a vault; `Vault` and `Replica` give it back as of any point; `NbdServer` serves either.
Every failure is an `HrlError` whose `kind` says what can be done about it; some are also the `OSError` that fits.
"""

from hrl._hrl import (
    ChangeSet,
    NbdServer,
    Protection,
    RecoveryPoint,
    Replica,
    Segment,
    Stats,
    TimelineEntry,
    Vault,
    View,
    convert,
    generate_key,
    inspect_hyperv,
)
from hrl.errors import (
    AlreadyExistsError,
    CorruptError,
    FencedError,
    HrlError,
    NotFoundError,
    NotOrderedError,
    SystemFailure,
    UnavailableError,
    WrongKeyError,
)
from hrl.files import ViewFile

__all__ = [
    "AlreadyExistsError",
    "ChangeSet",
    "CorruptError",
    "FencedError",
    "HrlError",
    "NbdServer",
    "NotFoundError",
    "NotOrderedError",
    "Protection",
    "RecoveryPoint",
    "Replica",
    "Segment",
    "Stats",
    "SystemFailure",
    "TimelineEntry",
    "UnavailableError",
    "Vault",
    "View",
    "ViewFile",
    "WrongKeyError",
    "convert",
    "generate_key",
    "inspect_hyperv",
]
