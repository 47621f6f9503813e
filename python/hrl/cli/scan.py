"""The scan of a recovery point's files by YARA rules, for malware and the notes that ransomware leaves.

The program `yara` runs in the box of the other checks, and sees the mounted files, the rules and nothing else of this
machine. Whatever a rule matches makes the point bad. A scan that could not read everything and found nothing is
`Refused`, and is no verdict. So no file of a hostile guest can make a point good that a rule would match.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hrl.cli.box import Bind
from hrl.cli.checks import Outcome
from hrl.cli.exits import Exit, Refused
from hrl.cli.programs import OUTPUT_BYTES_MAX, environment
from hrl.cli.served_point import Served, own
from hrl.words import clean, count

PROGRAM = "yara"
# yara leaves out in silence what it cannot look up or list, so that `find` looks up everything before.
COMMAND = 'find "$0" -size -0; exec "$@"'
# Where a box has the rules.
RULES = Path("/run/hrl/rules")
# yara has a limit of its own, after which it skips the rest and ends well: it must never be reached.
YARA_SECONDS = 10_000_000
MATCHES_SHOWN = 3


@dataclass(frozen=True)
class Scan:
    """Scans files by the rules of a file. Refuses if that cannot be done here."""

    rules: Path

    def __post_init__(self) -> None:
        if shutil.which(PROGRAM, path=environment()["PATH"]) is None:
            problem = f"the program {PROGRAM} is not installed (Debian: package {PROGRAM})"
            raise Refused(f"cannot scan a point: {problem}", Exit.UNSUPPORTED)
        if not self.rules.is_file():
            raise Refused(f"cannot read the rules {self.rules}: expected a file with YARA rules", Exit.NOT_FOUND)

    def check(self, point: Served, limit: float, root: Path, mounts: tuple[Bind, ...]) -> Outcome:
        """Scans the files below `root`, which is what `mounts` show to a box. A file that a rule matches is bad."""
        rules = RULES / self.rules.name if point.box else self.rules
        options = ["--recursive", "--no-follow-symlinks", "--no-warnings", f"--timeout={YARA_SECONDS}"]
        ended = point.run(
            ["/bin/sh", "-c", COMMAND, str(root), PROGRAM, *options, str(rules), str(root)],
            *mounts,
            Bind(self._readable(point), rules),
            limit=limit,
            errors_apart=True,
        )
        matches = [line.replace(f"{root}/", "/", 1) for line in ended.output.splitlines() if line.strip()]
        if matches:
            # Of long outputs the beginning is missing.
            is_cut = len(ended.output.encode()) >= OUTPUT_BYTES_MAX or ended.code is None
            shown = matches[-MATCHES_SHOWN:] if is_cut else matches[:MATCHES_SHOWN]
            rest = len(matches) - len(shown)
            more = " and more" if is_cut else f" and {count(rest, 'other match', 'other matches')}" if rest else ""
            return Outcome("scan", False, f"{', '.join(shown)}{more}").with_reads_of(point)
        errors = [clean(line.strip()) for line in ended.errors.splitlines() if line.strip()]
        if ended.code is None:
            raise Refused(f"cannot scan a point: {PROGRAM} did not end within {limit:g} s; raise --limit", Exit.TIMED_OUT)
        if ended.code:
            said = errors[0] if errors else f"exit status {ended.code}"
            raise Refused(f"cannot scan a point by {self.rules}: {said}", Exit.INVALID_INPUT)
        if errors:
            raise Refused(f"cannot scan all of a point: {errors[0].replace(f'{root}/', '/', 1)}", Exit.IO)
        return Outcome("scan", True, f"no rule of {self.rules.name} matches").with_reads_of(point)

    def _readable(self, point: Served) -> Path:
        """Returns a copy of the rules that the users of boxes may read, whatever the rights of the file."""
        copy = point.directory / "rules"
        shutil.copyfile(self.rules, copy)
        own(copy)
        return copy
