"""Which recovery state of a volume somebody means. Every option that takes one reads it here.

Beside the forms of the library (newest, sequence, RFC 3339 time, id, `point:DIGITS`, `label:TEXT`, `sequence:N`, `time:T`)
the command takes the beginning of an id as `hrl points` shows it, a local time, and a time ago.

A label that exists wins over every other reading of the same text but `newest` and `newest-good`. Whatever could have been
meant otherwise is said on standard error, with the form that means it, and so is which sequence or time a text was read as.

`newest-good` is the newest point whose checks were all good. If no point was ever found good it is the newest
application-consistent point, and if there is none of these the newest point; never one that a check found bad.
"""

import difflib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from hrl import RecoveryPoint, Replica
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import note
from hrl.cli.times import EXPECTED_INSTANT, instant, is_rfc3339, problem_of, rfc3339, shown
from hrl.words import SHORT_DIGITS, count, local

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
SEQUENCE_MAX = (1 << 64) - 1


@dataclass(frozen=True)
class Reading:
    """A state that a text may mean: as the library takes it, in words, and in the form that means nothing else."""

    state: str
    words: str
    form: str


def state_of(replica: Replica, at: str) -> str:
    """Returns a recovery state as the library knows it, and says on standard error how the text was read.

    Raises `Refused` with the labels of the volume if nothing is called so.
    """
    points = replica.points()
    if at in (NEWEST, NEWEST_GOOD):
        if any(point.label == at for point in points):
            note(f"note: {at} is not the label here; label:{at} means that")
        return newest_good(replica) if at == NEWEST_GOOD else at
    kind, colon, rest = at.partition(":")
    if colon and kind in ("point", "label", "sequence", "time"):
        return explicit(at, kind, rest)
    labelled = [point for point in points if point.label == at]
    other = reading_of(at, points)
    if labelled:
        return by_label(labelled, other or reading_as_id(at, points))
    if other is not None:
        if not other.form.startswith("point:"):
            note(f"note: {at} is read as {other.words}")
        return other.state
    if problem := problem_of(at):
        raise Refused(f"{at} is no time: {problem}", Exit.INVALID_INPUT)
    if is_digits_of_id(at):
        return point_beginning_with(at, replica, points)
    raise Refused(unknown(replica, at, points), Exit.NOT_FOUND)


def newest_good(replica: Replica) -> str:
    """Returns the newest good point, and says which it is."""
    point, why = replica.newest_good()
    note(f"note: {NEWEST_GOOD} is {point.id}, sequence {point.sequence}, {local(point.time)}: {WHY[why]}")
    return f"point:{point.id}"


def explicit(at: str, kind: str, rest: str) -> str:
    """Returns the state that a text with the kind of its reading means."""
    if kind == "sequence":
        if not is_sequence(rest):
            raise Refused(f"cannot read {at}: expected a number up to {SEQUENCE_MAX} after sequence:", Exit.INVALID_INPUT)
        return at
    if kind == "time":
        found = reading_as_time(rest)
        if found is None:
            why = f" ({problem})" if (problem := problem_of(rest)) else ""
            raise Refused(f"cannot read {at}{why}: expected {EXPECTED_INSTANT} after time:", Exit.INVALID_INPUT)
        note(f"note: {at} is {found.words}")
        return f"time:{found.state}"
    return at


def by_label(labelled: list[RecoveryPoint], other: Reading | None) -> str:
    """Returns the newest point with a label, and says what else could have been meant."""
    newest = labelled[-1]
    which = f"{newest.label} is the label of point {newest.id[:SHORT_DIGITS]}, sequence {newest.sequence}"
    if other is not None:
        note(f"note: {which}, and not {other.words}; {other.form} means that")
    elif len(labelled) > 1:
        note(f"note: {which}, the newest of {count(len(labelled), 'point')} with it")
    return f"label:{newest.label}"


def reading_of(at: str, points: list[RecoveryPoint]) -> Reading | None:
    """Returns what a text means beside a label: a point's id, a sequence or a time; `None` if it is nothing of these."""
    identity = at.lower()
    if re.fullmatch(r"[0-9a-f]{32}", identity, re.ASCII):
        if any(identity in (point.id, point.group) for point in points) or not at.isdecimal():
            return Reading(identity, "the id of a point", f"point:{identity}")
        return None
    if is_sequence(at):
        return Reading(at, f"sequence {int(at)}", f"sequence:{at}")
    return reading_as_time(at)


def reading_as_time(text: str) -> Reading | None:
    """Returns the time that a text means."""
    moment = instant(text)
    if moment is None:
        return None
    return Reading(text if is_rfc3339(text) else rfc3339(moment), shown(moment), f"time:{text}")


def reading_as_id(text: str, points: list[RecoveryPoint]) -> Reading | None:
    """Returns the point, or one of the points, whose id begins with a text."""
    fits = [point for point in points if is_digits_of_id(text) and point.id.startswith(text.lower())]
    return Reading(f"point:{text}", f"the beginning of the id {fits[-1].id}", f"point:{text}") if fits else None


def is_sequence(text: str) -> bool:
    """Reports whether a text is a number that a sequence may have."""
    return re.fullmatch(r"\d{1,20}", text, re.ASCII) is not None and int(text) <= SEQUENCE_MAX


def is_digits_of_id(text: str) -> bool:
    """Reports whether a text may be the beginning of an id."""
    return re.fullmatch(rf"[0-9a-fA-F]{{{DIGITS_MIN},{ID_DIGITS}}}", text, re.ASCII) is not None


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
