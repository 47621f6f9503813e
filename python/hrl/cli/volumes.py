"""The volumes that a command works on, one by one: one that cannot be read harms itself alone.

A volume with a damaged record or catalog, or with a foreign key, is named on standard error. The other volumes are done, and
the exit code is `PARTLY`. If none of them can be read, or if one was asked for by its name, its own error ends the command.
So does a vault that does not answer.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from hrl import HrlError, Vault
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import note
from hrl.words import count

Result = TypeVar("Result")


def names_of(vault: Vault, volume: str | None = None) -> list[str]:
    """Returns the named volume alone, or every volume that was not shredded. Notes those that were."""
    if volume:
        return [volume]
    try:
        shredded = {info["name"]: info["shredded"] for info in vault.volumes()}
    except HrlError:
        # One of the records is damaged, or nothing can be read at all.
        shredded = {name: is_shredded(vault, name) for name in vault.volume_names()}
    for name in shredded:
        if shredded[name]:
            note(f"note: {name} was shredded")
    return [name for name in shredded if not shredded[name]]


def is_shredded(vault: Vault, name: str) -> bool:
    """Reports whether a volume was shredded. Of one that cannot be read the work says why."""
    try:
        return bool(vault.volume(name)["shredded"])
    except HrlError as error:
        if error.kind == "unavailable":
            raise
        return False


class EachVolume:
    """Does work for every volume, and remembers those that could not be read."""

    def __init__(self, vault: Vault, named: str | Sequence[str] | None = None) -> None:
        self._is_named = bool(named)
        if named:
            self.names = [named] if isinstance(named, str) else list(named)
        else:
            self.names = names_of(vault)
        self.failures: dict[str, HrlError] = {}

    def do(self, work: Callable[[str], Result]) -> dict[str, Result]:
        """Returns the results of the volumes that could be read, by name."""
        done: dict[str, Result] = {}
        for name in [name for name in self.names if name not in self.failures]:
            try:
                done[name] = work(name)
            except HrlError as error:
                if error.kind == "unavailable" or (self._is_named and len(self.names) == 1):
                    raise
                self.failures[name] = error
        if self.failures and not done:
            raise next(iter(self.failures.values()))
        for name, failure in self.failures.items():
            note(f"{name} cannot be read: {failure}")
        return done

    def end(self) -> None:
        """Ends the command with the code for work that was done in part, if it was."""
        if self.failures:
            names = ", ".join(self.failures)
            raise Refused(f"{len(self.failures)} of {count(len(self.names), 'volume')} cannot be read: {names}", Exit.PARTLY)
