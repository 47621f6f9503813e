"""Checks of recovery points by policy: the agent runs `hrl verify --due` as its table `[verify]` says.

The table has the names of the options of `hrl verify`: `every` (needed), `mount`, `fsck`, `scan`, `command`, `boot`,
`qemu`, `boot_args`, `boot_pattern`, `limit`, `show` (a list of paths), `unsandboxed`. The checks run one at a time, in a
process of their own, at low priority. They read the vault and keep their verdicts there, so neither the writer nor the
agent waits for them.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hrl.cli.boot import pattern_of
from hrl.cli.exits import Exit, Refused
from hrl.cli.programs import environment, kill_session
from hrl.cli.secrets_taken import passed_on
from hrl.cli.times import seconds

TEXTS = ("every", "scan", "command", "qemu", "boot_args", "boot_pattern", "limit")
DURATIONS = ("every", "limit")
FLAGS = ("mount", "fsck", "boot", "unsandboxed")
LISTS = ("show",)
KEY_OPTIONS = ("--key-file", "--key-command", "--key-env")
# Verdicts are looked at this often; `--due` decides whether one is old enough.
LOOK_SECONDS = 60.0
FIRST_SECONDS = 2.0
NICENESS = "10"
TEARDOWN_SECONDS_MAX = 30.0


def arguments_of(table: dict[str, Any], policy: Path | None = None) -> list[str]:
    """Returns the table of a policy file as options of `hrl verify`."""
    where = f"cannot read policy {policy}: " if policy else ""
    unknown = [name for name in table if name not in TEXTS + FLAGS + LISTS]
    if unknown:
        known = ", ".join(TEXTS + FLAGS + LISTS)
        raise Refused(f"{where}the table verify has no {unknown[0]}: expected {known}", Exit.INVALID_INPUT)
    for name, value in table.items():
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not (is_list if name in LISTS else isinstance(value, bool if name in FLAGS else str)):
            expected = "true or false" if name in FLAGS else "a list of texts" if name in LISTS else "a text"
            raise Refused(f"{where}verify.{name} is {value!r}: expected {expected}", Exit.INVALID_INPUT)
        if name in DURATIONS:
            try:
                seconds(str(value))
            except ValueError as error:
                raise Refused(f"{where}verify.{name}: {error}", Exit.INVALID_INPUT) from None
        if name == "boot_pattern":
            try:
                pattern_of(str(value))
            except Refused as refused:
                raise Refused(f"{where}verify.{name}: {refused}", Exit.INVALID_INPUT) from None
    if "every" not in table:
        raise Refused(f'{where}the table verify needs every, such as "1d"', Exit.INVALID_INPUT)
    arguments = ["--due"]
    for name, value in table.items():
        option = "--" + name.replace("_", "-")
        if name in TEXTS:
            arguments += [option, value]
        elif name in LISTS:
            arguments += [word for one in value for word in (option, one)]
        elif value or name == "fsck":
            arguments.append(option if value else "--no-fsck")
    return arguments


def key_arguments(given: list[str]) -> list[str]:
    """Returns the key options of a command line."""
    found = []
    for at, argument in enumerate(given):
        name, equals, _ = argument.partition("=")
        if name in KEY_OPTIONS:
            found += [argument] if equals else given[at : at + 2]
    return found


@contextmanager
def checks_by_policy(
    options: list[str] | None, vault: str, volume: str, report: Callable[[dict[str, str]], object]
) -> Iterator[None]:
    """Checks the points of a volume with options of `hrl verify` while the block runs; does nothing without options."""
    if options is None:
        yield
        return
    keys, inherited = passed_on(key_arguments(sys.argv))
    command = [sys.executable, "-P", "-m", "hrl", "verify", vault, volume, *options, *keys]
    schedule = Schedule(["nice", "-n", NICENESS, *command], inherited, volume, report)
    try:
        yield
    finally:
        schedule.close()


class Schedule:
    """Runs the checks on a thread."""

    def __init__(
        self, command: list[str], inherited: tuple[int, ...], volume: str, report: Callable[[dict[str, str]], object]
    ) -> None:
        self._command = command
        self._inherited = inherited
        self._volume = volume
        self._report = report
        self._ended = threading.Event()
        self._running: subprocess.Popen[str] | None = None
        self._last: tuple[int, str] | None = None
        self._thread = threading.Thread(target=self._run, name="hrl-verify", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the check under way. Its verdict is not kept."""
        self._ended.set()
        running = self._running
        if running is not None:
            # It takes its mounts down first.
            running.terminate()
            try:
                running.wait(TEARDOWN_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                kill_session(running)
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            code = self._check()
            # A volume without a point has one soon.
            self._ended.wait(FIRST_SECONDS if code == Exit.NOT_FOUND else LOOK_SECONDS)

    def _check(self) -> int:
        try:
            self._running = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment(),
                start_new_session=True,
                pass_fds=self._inherited,
            )
        except OSError as error:
            self._report_once(Exit.IO, str(error))
            return Exit.IO
        said = self._running.communicate()[0].strip().splitlines()
        code, self._running = self._running.returncode, None
        if not self._ended.is_set():
            self._report_once(code, said[-1] if said else f"exit code {code}")
        return code

    def _report_once(self, code: int, message: str) -> None:
        """Reports a failure once, until there is another."""
        found = None if code in (0, Exit.NOT_FOUND) else (code, message)
        if found is not None and found != self._last:
            kind = "check-failed" if code == Exit.CHECK_FAILED else "task-failed"
            text = message if code == Exit.CHECK_FAILED else f"checking recovery points: {message}"
            time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            self._report({"time": time, "volume": self._volume, "kind": kind, "message": text})
        self._last = found
