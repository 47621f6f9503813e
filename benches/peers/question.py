"""What a question is: cases, figures with their units, and the ratios that answer it."""

from collections.abc import Callable
from dataclasses import dataclass

from peers.results import Round
from peers.stage import Setting


@dataclass(frozen=True)
class Metric:
    """A figure: its name in the records, what tables and plots call it, its unit, decimals, and what it is divided
    by.
    """

    name: str
    title: str
    unit: str
    decimals: int = 0
    divisor: float = 1.0

    def text(self, value: float) -> str:
        """A value as tables show it."""
        return f"{value / self.divisor:,.{self.decimals}f}"


@dataclass(frozen=True)
class Ratio:
    """A metric of a contender divided by that of another one, within each round."""

    contender: str
    base: str
    metric: str

    def __str__(self) -> str:
        group, colon, base = self.base.rpartition(": ")
        return f"{self.contender} / {base if self.contender.startswith(group + colon) else self.base}"


@dataclass(frozen=True)
class Question:
    """A contender's name may begin with a group and a colon; groups stay together in tables.

    `measure` plays one round of a case; `prepare` makes what a case starts from, which is no part of the
    measurement.
    """

    name: str
    title: str
    cases: tuple[str, ...]
    metrics: tuple[Metric, ...]
    measure: Callable[[Setting, str, Round], None]
    prepare: Callable[[Setting, str], None] = lambda setting, case: None
    ratios: tuple[Ratio, ...] = ()
    ratio_title: str = ""
    plots: tuple[str, ...] = ()
    plot_ratios: bool = False
