"""What commands that read a vault remember of it: the newest catalog version of each volume that they saw.

A vault that went back, or an old copy of one, is sound in itself. Only who saw more of it can tell. So the command keeps a
file for each volume in `$XDG_STATE_HOME/hrl/seen`, or `~/.local/state/hrl/seen`, by the URL of the vault and the identity of
the volume. A reading command compares before it trusts what it reads, and writes the file when a newer version was read.

A file that is damaged, or cannot be written, never fails a command: a note says so.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import urllib.parse
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from hrl import CorruptError, DivergedError, HrlError, Replica, Vault
from hrl.cli.output import note
from hrl.cli.reading_options import ReadingOptions
from hrl.cli.states import is_digits_of_id, is_sequence, reading_as_time
from hrl.words import local

FILES_MAX = 4096
"""Vaults, and volumes of one vault, that are remembered. The oldest are forgotten first."""
FILE_BYTES_MAX = 64 << 10
ADVICE = "--accept-rollback takes what is there from now on, --no-memory only looks"


@dataclass(frozen=True)
class Seen:
    """What is remembered of a volume."""

    vault: str
    volume: str
    version: str
    """The text of its newest catalog version, for `Replica.check_at_least`."""
    number: int
    sequence: int
    time: str | None


class Reader:
    """A vault whose volumes are compared with what was seen of them, and what is expected."""

    def __init__(self, vault: Vault, memory: "Memory | None", options: ReadingOptions) -> None:
        self.vault = vault
        self._memory = memory
        self._options = options

    def replica(self, name: str) -> Replica:
        """Opens a volume. Raises `DivergedError` if it has less than it should."""
        try:
            replica = self.vault.replica(name)
        except CorruptError:
            if not self._options.accept_rollback or not self._accept_gap(name.partition("@")[0]):
                raise
            replica = self.vault.replica(name)
        self.check(replica)
        for text in replica.notes():
            # Of a newest version that was damaged, so that nobody takes the state before for the newest unawares.
            if "nobody with the key has made it" in text:
                note(f"note: {text}")
        return replica

    def _accept_gap(self, name: str) -> bool:
        """Accepts that versions of a catalog are lost; returns whether some are."""
        accepted = self.vault.accept_gap(name)
        if accepted is None:
            return False
        first, last = accepted[0] + 1, accepted[1]
        note(
            f"note: versions {first} to {last} of {name} are lost or cannot be read; version {accepted[0]} is taken as it is"
        )
        return True

    def check(self, replica: Replica) -> None:
        """Raises `DivergedError` if a volume has less than it should; otherwise remembers what it has."""
        if self._options.expect_at_least is not None:
            replica.check_at_least(expected_of(self._options.expect_at_least))
        if self._memory is None:
            return
        before = self._memory.seen(replica)
        if before is not None:
            try:
                replica.check_at_least(before.version)
            except DivergedError as error:
                if not self._options.accept_rollback:
                    raise went_back(before, error) from error
                note(f"note: {error}; that is taken as it is from now on")
                before = None
        self._memory.remember(replica, before)

    def problem(self, replica: Replica) -> DivergedError | None:
        """Returns why a volume has less than it should; `None` if it does not."""
        try:
            self.check(replica)
        except DivergedError as error:
            return error
        return None

    def problem_of(self, name: str) -> HrlError | None:
        """Returns why a volume cannot be read, or has less than it should; `None` if it does not."""
        try:
            with self.replica(name):
                return None
        except HrlError as error:
            return error

    def lost(self, names: Collection[str] | None = None) -> list[str]:
        """Returns the volumes that were seen in the vault and are no longer there; of `names` if any are given."""
        if self._memory is None:
            return []
        there = self.vault.volume_names()
        lost = [name for name in self._memory.names() if name not in there and (not names or name in names)]
        if lost and self._options.accept_rollback:
            for name in lost:
                self._memory.forget(name)
                note(f"note: {name} is gone from the vault; that is taken as it is from now on")
            return []
        return lost


def went_back(before: Seen, error: DivergedError) -> DivergedError:
    """Returns the error about a volume that went back, with what was seen of it."""
    of = f" of {local(before.time)}" if before.time else ""
    what = f"version {before.number}{of}, up to sequence {before.sequence}, was seen here before"
    return DivergedError(f"{error}; {what} ({ADVICE})", "diverged", error.operation, error.object)


def expected_of(text: str) -> str:
    """Returns what `--expect-at-least` asks for, as the library takes it: a time may be local, or some time ago."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "sequence" and is_sequence(rest):
        return text
    moment = reading_as_time(rest if colon and kind == "time" else text)
    if moment is not None and not is_sequence(text):
        return moment.state
    return f"point:{text}" if is_digits_of_id(text) and not text.isdecimal() else text


class Memory:
    """The files about the volumes of one vault."""

    def __init__(self, url: str) -> None:
        self._vault = identity_of(url)
        digest = hashlib.blake2b(os.fsencode(self._vault), digest_size=16).hexdigest()
        self._directory = state_home() / "hrl" / "seen" / digest

    def seen(self, replica: Replica) -> Seen | None:
        """Returns what is remembered of a volume."""
        return self._read(self._file(replica))

    def names(self) -> list[str]:
        """Returns the names of the volumes that were seen in the vault."""
        with contextlib.suppress(OSError):
            found = (self._read(path) for path in sorted(self._directory.glob("*.json")))
            return sorted({seen.volume for seen in found if seen is not None})
        return []

    def remember(self, replica: Replica, before: Seen | None) -> None:
        """Remembers the version that was read, unless a newer one is remembered already."""
        version, name = replica.version(), replica.info["name"]
        if before is not None and (before.version == version["text"] or before.number > version["number"]):
            return
        seen = Seen(self._vault, name, version["text"], version["number"], version["sequence"], version["time"])
        try:
            self._write(self._file(replica), seen)
        except OSError as error:
            note(f"note: cannot remember what was seen of {name}: {error} (--no-memory)")

    def forget(self, name: str) -> None:
        """Forgets the volumes of a name."""
        with contextlib.suppress(OSError):
            for path in self._directory.glob("*.json"):
                if (seen := self._read(path)) is not None and seen.volume == name:
                    path.unlink(missing_ok=True)

    def _file(self, replica: Replica) -> Path:
        return self._directory / f"{replica.info['id']}.json"

    def _read(self, path: Path) -> Seen | None:
        """Reads a file; `None` if it is not there, or damaged, which is noted."""
        try:
            with path.open("rb") as file:
                found = Seen(**json.loads(file.read(FILE_BYTES_MAX)))
            texts = (found.vault, found.volume, found.version)
            if all(isinstance(text, str) for text in texts) and isinstance(found.number, int):
                return found
            raise ValueError("a field has another type")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            note(f"note: {path} cannot be read, so nothing is compared with it: {error}")
            return None

    def _write(self, path: Path, seen: Seen) -> None:
        """Writes a file whole or not at all, durably."""
        if not self._directory.exists():
            self._directory.mkdir(mode=0o700, parents=True)
            prune(self._directory.parent)
        descriptor, new = tempfile.mkstemp(dir=self._directory)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump(asdict(seen), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
        prune(self._directory)


def forget(url: str, volume: str) -> None:
    """Forgets a volume that a command has removed from its vault."""
    Memory(url).forget(volume)


def prune(directory: Path) -> None:
    """Removes the oldest entries of a directory beyond the limit."""
    with contextlib.suppress(OSError):
        entries = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in entries[: max(len(entries) - FILES_MAX, 0)]:
            for inner in path.iterdir() if path.is_dir() else ():
                inner.unlink(missing_ok=True)
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def identity_of(url: str) -> str:
    """Returns a vault by its place: a whole path, or a URL without the credentials that it may contain."""
    if "://" not in url:
        return os.path.realpath(url)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        return os.path.realpath(urllib.parse.unquote(parts.path))
    host = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme.lower()}://{host}{parts.path.rstrip('/')}"


def state_home() -> Path:
    """Returns the directory for the state of programs."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~")) / ".local" / "state"
