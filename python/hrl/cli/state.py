"""Which state of a volume a command is about, in words that need the verdicts of points.

`newest-good` is the newest point whose checks were all good. Where no point was ever found good it is the newest
application-consistent point, and where there is none of these the newest point; never one that a check found bad.
"""

from hrl import RecoveryPoint, Replica
from hrl.cli.base import EXIT_CODES, Refused, err

NEWEST = "newest"
NEWEST_GOOD = "newest-good"
APP_KINDS = ("app", "group-app")


def state_of(replica: Replica, at: str) -> str:
    """The state as the library knows it; says on standard error which point `newest-good` is."""
    if at != NEWEST_GOOD:
        return at
    point, why = newest_good(replica.points())
    err.print(f"hrl: note: newest-good is {point.id}, sequence {point.sequence}, {point.time}: {why}", highlight=False)
    return f"point:{point.id}"


def newest_good(points: list[RecoveryPoint]) -> tuple[RecoveryPoint, str]:
    """The newest good one of points in their order, and why it is."""
    left = [point for point in reversed(points) if all(verdict.ok for verdict in point.verdicts)]
    for point in left:
        if point.verdicts:
            return point, "its checks were good: " + ", ".join(verdict.kind for verdict in point.verdicts)
    for point in left:
        if point.kind in APP_KINDS:
            return point, "the newest application-consistent point; no point was found good"
    if left:
        return left[0], "the newest point that no check found bad; no point was found good"
    raise Refused("cannot find newest-good: the volume has no point that no check found bad", EXIT_CODES["not-found"])


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
