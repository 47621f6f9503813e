"""Which recovery state of a volume somebody means.

Beside the forms of the library (newest, sequence, RFC 3339 time, id, `point:DIGITS`, `label:TEXT`) the command takes the
beginning of an id as `hrl points` shows it, a local time, and a time ago. A label wins over both.

`newest-good` is the newest point whose checks were all good. If no point was ever found good it is the newest
application-consistent point, and if there is none of these the newest point; never one that a check found bad.
"""

import difflib
import itertools
import re
from collections.abc import Iterable

from hrl import RecoveryPoint, Replica
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import note
from hrl.cli.times import instant, is_rfc3339, rfc3339
from hrl.words import SHORT_DIGITS, local

NEWEST = "newest"
NEWEST_GOOD = "newest-good"
WHY = {
    "checked": "its checks were good",
    "application-consistent": "the newest application-consistent point; no point was found good",
    "newest": "the newest point that no check found bad; no point was found good",
}
LABELS_MAX = 8
DIGITS_MIN = 4
ID_DIGITS = 32


def state_of(replica: Replica, at: str) -> str:
    """Returns a recovery state as the library knows it, and reports which point `newest-good` is.

    Raises `Refused` with the labels of the volume if nothing is called so.
    """
    if at == NEWEST_GOOD:
        point, why = replica.newest_good()
        note(f"note: newest-good is {point.id}, sequence {point.sequence}, {local(point.time)}: {WHY[why]}")
        return f"point:{point.id}"
    if at == NEWEST or at.startswith(("point:", "label:")) or re.fullmatch(r"\d{1,19}|[0-9a-fA-F]{32}", at, re.ASCII):
        return at
    if is_rfc3339(at):
        return at
    points = replica.points()
    if any(point.label == at for point in points):
        return f"label:{at}"
    if (moment := instant(at)) is not None:
        return rfc3339(moment)
    if re.fullmatch(rf"[0-9a-fA-F]{{{DIGITS_MIN},{ID_DIGITS}}}", at):
        return point_beginning_with(at, replica, points)
    raise Refused(unknown(replica, at, points), Exit.NOT_FOUND)


def point_beginning_with(digits: str, replica: Replica, points: list[RecoveryPoint]) -> str:
    """Returns the one point, or point of a group, whose id begins with these digits."""
    fits = {one for point in points for one in (point.id, point.group) if one and one.startswith(digits.lower())}
    if len(fits) > 1:
        known = ", ".join(sorted(fits)[:LABELS_MAX])
        raise Refused(f"several points of {replica.info['name']} begin with {digits}: {known}", Exit.INVALID_INPUT)
    if not fits:
        raise Refused(unknown(replica, digits, points), Exit.NOT_FOUND)
    return fits.pop()


def unknown(replica: Replica, at: str, points: list[RecoveryPoint]) -> str:
    """Returns the message about a name that no point has, with the names that there are."""
    name = replica.info["name"]
    if not points:
        return f"{name} has no recovery point"
    labels = list(dict.fromkeys(point.label for point in reversed(points) if point.label))
    near = difflib.get_close_matches(at, labels, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    more = f" and {len(labels) - LABELS_MAX} more" if len(labels) > LABELS_MAX else ""
    listed = f"its labels are {', '.join(labels[:LABELS_MAX])}{more}" if labels else "no point of it has a label"
    return f"{name} has no point or label {at}: {listed}{meant} (hrl points lists them)"


def point_of(replica: Replica, at: str) -> RecoveryPoint:
    """Returns the point at a recovery state; `newest` is the newest point here."""
    points = replica.points()
    if at == NEWEST and points:
        return points[-1]
    sequence = replica.resolve(state_of(replica, at)) if at != NEWEST else None
    for point in points:
        if point.sequence == sequence:
            return point
    name = replica.info["name"]
    problem = f"at {at} there is none (hrl points lists them)" if points else "it has none"
    raise Refused(f"cannot check a point of {name}: {problem}", Exit.NOT_FOUND)


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Returns for each id its shortest beginning that no other id has and that is no number.

    All beginnings are equally long, so that they stand in a column.
    """
    known = sorted(set(ids))
    digits = SHORT_DIGITS
    for one, other in itertools.pairwise(known):
        same = next((at for at in range(ID_DIGITS) if one[at : at + 1] != other[at : at + 1]), ID_DIGITS)
        digits = max(digits, same + 1)
    # Decimal digits alone would be taken for a sequence.
    while digits < ID_DIGITS and any(one[:digits].isdecimal() for one in known):
        digits += 1
    return {one: one[:digits] for one in known}
