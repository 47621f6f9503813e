"""Continuous replication of disks: write-order journals, recovery points, replicas.

`Protection` captures a disk into a vault; `Vault` and `Replica` give it back as of any point; `NbdServer` serves either.
Whatever can be read and written is a `Device`; devices, stores and applications of your own are objects with the methods
of `BlockDevice`, `Store` and `Quiesce`, and `hrl.conformance` checks them. Every failure is an `HrlError` whose `kind`
says what can be done about it; some are also the `OSError` that fits.
"""

from hrl._hrl import (
    ChangeSet,
    Device,
    FileDevice,
    Gateway,
    MemoryDevice,
    NbdServer,
    Overlay,
    Protection,
    Record,
    RecordIterator,
    RecoveryPoint,
    Replica,
    Segment,
    Stats,
    Tap,
    Ticket,
    TimelineEntry,
    Vault,
    View,
    Volume,
    convert,
    create_authority,
    enroll_client,
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
from hrl.protocols import BlockDevice, Quiesce, Store

__all__ = [
    "AlreadyExistsError",
    "BlockDevice",
    "ChangeSet",
    "CorruptError",
    "Device",
    "FencedError",
    "FileDevice",
    "Gateway",
    "HrlError",
    "MemoryDevice",
    "NbdServer",
    "NotFoundError",
    "NotOrderedError",
    "Overlay",
    "Protection",
    "Quiesce",
    "Record",
    "RecordIterator",
    "RecoveryPoint",
    "Replica",
    "Segment",
    "Stats",
    "Store",
    "SystemFailure",
    "Tap",
    "Ticket",
    "TimelineEntry",
    "UnavailableError",
    "Vault",
    "View",
    "ViewFile",
    "Volume",
    "WrongKeyError",
    "convert",
    "create_authority",
    "enroll_client",
    "generate_key",
    "inspect_hyperv",
]
