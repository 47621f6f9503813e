"""Which state of a volume a command is about, in words that need the verdicts of points.

`newest-good` is the newest point whose checks were all good. Where no point was ever found good it is the newest
application-consistent point, and where there is none of these the newest point; never one that a check found bad.
"""

from hrl import RecoveryPoint, Replica
from hrl.cli.base import EXIT_CODES, Refused, err

NEWEST = "newest"
NEWEST_GOOD = "newest-good"
WHY = {
    "checked": "its checks were good",
    "application-consistent": "the newest application-consistent point; no point was found good",
    "newest": "the newest point that no check found bad; no point was found good",
}


def state_of(replica: Replica, at: str) -> str:
    """The state as the library knows it; says on standard error which point `newest-good` is."""
    if at != NEWEST_GOOD:
        return at
    point, why = replica.newest_good()
    err.print(f"hrl: note: newest-good is {point.id}, sequence {point.sequence}, {point.time}: {WHY[why]}", highlight=False)
    return f"point:{point.id}"


def point_of(replica: Replica, at: str) -> RecoveryPoint:
    """The point that a state is; `newest` is the newest point here."""
    points = replica.points()
    if at == NEWEST and points:
        return points[-1]
    sequence = replica.resolve(state_of(replica, at)) if at != NEWEST else None
    for point in points:
        if point.sequence == sequence:
            return point
    name = replica.info["name"]
    problem = f"{at} is none (hrl points lists them)" if points else "it has none"
    raise Refused(f"cannot check a point of {name}: {problem}", EXIT_CODES["not-found"])
