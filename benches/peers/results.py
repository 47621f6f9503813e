"""Raw figures: one line of JSON for each thing measured."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from peers.machine import REPOSITORY, RESULTS, facts, run

FILE = RESULTS / "peers.jsonl"
Contender = TypeVar("Contender")


@dataclass(frozen=True)
class Figure:
    """What one contender did in one round of one case."""

    question: str
    case: str
    contender: str
    round: int
    metrics: dict[str, float]
    commit: str
    date: str
    machine: str
    setting: str


def load(path: Path = FILE) -> list[Figure]:
    """Everything that was measured."""
    if not path.exists():
        return []
    return [Figure(**json.loads(line)) for line in path.read_text().splitlines() if line]


class Round:
    """Appends the figures of one round of a case, numbered after those that are there."""

    def __init__(self, question: str, case: str, setting: str, path: Path = FILE) -> None:
        self.question, self.case, self.setting, self.path = question, case, setting, path
        earlier = [figure.round for figure in load(path) if (figure.question, figure.case) == (question, case)]
        self.number = max(earlier, default=0) + 1
        self.commit = run("git", "-C", REPOSITORY, "rev-parse", "--short=7", "HEAD").strip()
        self.machine = facts()

    def in_turn(self, contenders: dict[str, Contender]) -> Iterator[tuple[str, Contender]]:
        """The contenders, another one first in each round."""
        names = list(contenders)
        first = self.number % len(names)
        for name in names[first:] + names[:first]:
            yield name, contenders[name]

    def record(self, contender: str, **metrics: float) -> None:
        """Keeps the figures of a contender, and tells them on standard output."""
        figure = Figure(
            self.question,
            self.case,
            contender,
            self.number,
            metrics,
            self.commit,
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            self.machine,
            self.setting,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(figure)) + "\n")
        told = ", ".join(f"{name} {value:,.6g}" for name, value in metrics.items())
        print(f"{self.question} {self.case} round {self.number} {contender}: {told}", flush=True)
