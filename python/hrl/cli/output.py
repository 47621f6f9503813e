"""What the command prints: sentences, tables and JSON on standard output; notes and progress on standard error.

Foreign text (labels, names, messages) passes through `hrl.words.clean` here, so no caller has to think of it. What a script
takes over, such as an address or a path, is printed by `print_raw`: byte for byte, except to a terminal.

A reader that leaves (EPIPE) is no failure: the command goes on without output, and its exit code is that of its work. Output
that cannot be written for any other reason ends the command with `FULL` or `IO`. Standard error is best effort.
"""

import codecs
import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrl.cli.exits import Exit, Refused
from hrl.words import clean

ELLIPSIS = "…"
GAP = "  "
CELL_CHARACTERS_MIN = 8


def open_standard_streams() -> None:
    """Makes standard streams of those that were closed, and lets all of them take any text.

    Otherwise the next file that is opened would be standard output. Writing to one that was closed fails.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
            os.set_inheritable(number, True)
    codecs.register_error("hrl", as_bytes)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  (as long as the process)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="hrl")


def as_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """Returns what stands for characters that have no encoding: the bytes of a name that is not UTF-8, or a `?`."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    return b"".join(bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else b"?" for c in found), error.end


def emit(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Writes text to standard output. Everything that the command prints goes through here."""
    with writing():
        sys.stdout.write(text + end)
        if flush:
            sys.stdout.flush()


@contextmanager
def writing() -> Iterator[None]:
    """Ends the output if its reader left, and refuses if it cannot be written."""
    try:
        yield
    except BrokenPipeError:
        leave_output()
    except OSError as error:
        leave_output()
        raise Refused(f"cannot write to standard output: {error.strerror}", Exit.of_errno(error.errno)) from None


def leave_output() -> None:
    """Drops everything that is printed from here on, and what is still in the buffer."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def flush_output() -> None:
    """Writes what is still in the buffer."""
    with writing():
        sys.stdout.flush()


def print_error(line: str) -> None:
    """Prints a line on standard error, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        print(clean(line), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Prints a sentence on standard output."""
    emit(clean(text), flush=True)


def note(text: str) -> None:
    """Prints a sentence on standard error, marked as ours."""
    print_error(f"hrl: {text}")


def print_raw(text: str) -> None:
    """Prints what a script takes over: as it is, or cleaned if a terminal would interpret it."""
    emit(clean(text) if sys.stdout.isatty() else text, flush=True)


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    emit(json.dumps(value, indent=2, default=plain))


def print_line(value: Any) -> None:
    """Prints a value as JSON in one line, at once: for commands that go on after it."""
    emit(json.dumps(value, default=plain), flush=True)


@contextmanager
def announcing() -> Iterator[None]:
    """Lets a server serve even if nobody can be told where."""
    try:
        yield
    except Refused as refused:
        note(f"warning: {refused}")


def print_address(address: str, *, json: bool, key: str = "uri", **more: str) -> None:
    """Prints where something is served: the address alone, or in a line of JSON with more about it."""
    with announcing():
        if json:
            print_line({key: address, **more, "pid": os.getpid()})
        else:
            print_raw(address)


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
            emit(line)

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
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    title_column = TextColumn("{task.description}", markup=False)
    columns = (title_column, BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(clean(title), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
