"""What the command prints: sentences, tables and JSON on standard output; notes and progress on standard error.

Foreign text (labels, names, messages) passes through `hrl.words.clean` here, so no caller has to think of it. What a script
takes over as it is, such as an address or a path, is printed by `print` alone.
"""

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrl.words import clean

ELLIPSIS = "…"
GAP = "  "
CELL_CHARACTERS_MIN = 8


def say(text: str) -> None:
    """Prints a sentence on standard output."""
    print(clean(text), flush=True)


def note(text: str) -> None:
    """Prints a sentence on standard error, marked as ours."""
    print(f"hrl: {clean(text)}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=2, default=plain))


def print_line(value: Any) -> None:
    """Prints a value as JSON in one line, at once: for commands that go on after it."""
    print(json.dumps(value, default=plain), flush=True)


def print_address(address: str, *, json: bool, **more: str) -> None:
    """Prints where something is served: the address alone, or in a line of JSON with more about it."""
    if json:
        print_line({"uri": address, **more, "pid": os.getpid()})
    else:
        print(address, flush=True)


def fields(value: Any) -> dict[str, Any]:
    """Returns the fields of a result as a dictionary, and those of the results in it, too."""
    return {name: plain(field) for name, field in dict(value).items()}


def plain(value: Any) -> Any:
    """Returns a value as JSON can hold it: a result as a dictionary, one that unpacks like a tuple as a list."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if type(value).__module__ != "hrl":
        return str(value) if isinstance(value, Path) else value
    return [plain(item) for item in value] if hasattr(value, "__len__") else fields(value)


class Table:
    """A table without rules. On a terminal it fits the width: the widest cells are cut. Elsewhere nothing is cut."""

    def __init__(self, *columns: str, right: tuple[str, ...] = (), header: bool = True) -> None:
        self._columns = columns
        self._right = {columns.index(name) for name in right}
        self._header = header
        self._rows: list[list[str]] = []

    def add(self, *cells: object) -> None:
        """Adds a row."""
        row = [clean(str(cell)) for cell in cells]
        assert len(row) == len(self._columns), "a row has a cell for each column"
        self._rows.append(row)

    def print(self) -> None:
        """Prints the table."""
        width = os.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in self.lines(width):
            print(line)

    def lines(self, width: int | None = None) -> list[str]:
        """Returns the lines of the table. Columns in which no row says anything are left out."""
        used = [at for at in range(len(self._columns)) if any(row[at] for row in self._rows) or not self._rows]
        rows = [[clean(self._columns[at]) for at in used]] if self._header else []
        rows += [[row[at] for at in used] for row in self._rows]
        if not rows or not used:
            return []
        widths = [max(columns_of(row[at]) for row in rows) for at in range(len(used))]
        while width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
            widest = max(range(len(widths)), key=widths.__getitem__)
            if widths[widest] <= CELL_CHARACTERS_MIN:
                break
            widths[widest] -= 1
        return [self._line(row, used, widths) for row in rows]

    def _line(self, row: list[str], used: list[int], widths: list[int]) -> str:
        cells = []
        for cell, column, width in zip(row, used, widths, strict=True):
            cut = shortened(cell, width)
            blanks = " " * (width - columns_of(cut))
            cells.append(blanks + cut if column in self._right else cut + blanks)
        return GAP.join(cells).rstrip()


def columns_of(text: str) -> int:
    """Returns how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def shortened(text: str, width: int) -> str:
    """Returns a text that takes at most so many columns."""
    if columns_of(text) <= width:
        return text
    kept = text
    while kept and columns_of(kept) + 1 > width:
        kept = kept[:-1]
    return kept + ELLIPSIS


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of work in bytes while the block runs, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(escape(clean(title)), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
