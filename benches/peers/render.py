"""Tables and plots of what was measured: `target/bench/peers.md` and `benches/plots/*.svg`.

Of each case the figures of the newest commit and setting count. A table cell is the median with the lowest and the
highest round; a ratio is taken within each round, and its median and spread are shown.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from peers.chart import Bar, Panel, draw
from peers.machine import REPOSITORY, RESULTS
from peers.question import Metric, Question, Ratio
from peers.results import Figure, load

PLOTS = REPOSITORY / "benches" / "plots"
TABLES = RESULTS / "peers.md"


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, their lowest and highest."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(min(values), statistics.median(values), max(values))

    def text(self, form: Callable[[float], str]) -> str:
        """As a table shows it."""
        return f"{form(self.median)} ({form(self.low)} to {form(self.high)})"


class Case:
    """The figures of one case that count."""

    def __init__(self, name: str, figures: Iterable[Figure]) -> None:
        found = list(figures)
        last = found[-1]
        self.name = name
        self.figures = [each for each in found if (each.commit, each.setting) == (last.commit, last.setting)]
        self.rounds = len({each.round for each in self.figures})
        self.origin = f"commit `{last.commit}`, {last.date[:10]}, {self.rounds} rounds ({last.setting}), {last.machine}"

    def contenders(self, metric: str) -> list[str]:
        """Who has a metric: groups together, ours first."""
        return sorted({each.contender for each in self.figures if metric in each.metrics}, key=in_groups)

    def by_round(self, contender: str, metric: str) -> dict[int, float]:
        """A metric of a contender in each round."""
        return {
            each.round: each.metrics[metric]
            for each in self.figures
            if each.contender == contender and metric in each.metrics
        }

    def spread(self, contender: str, metric: str) -> Spread | None:
        """The same over the rounds."""
        values = list(self.by_round(contender, metric).values())
        return Spread.of(values) if values else None

    def ratio(self, ratio: Ratio) -> Spread | None:
        """A ratio over the rounds that have both."""
        above, below = self.by_round(ratio.contender, ratio.metric), self.by_round(ratio.base, ratio.metric)
        values = [above[round] / below[round] for round in above if below.get(round)]
        return Spread.of(values) if values else None


def in_groups(contender: str) -> tuple[str, bool, str]:
    """The key that sorts contenders."""
    group, _, name = contender.rpartition(": ")
    return group, not name.startswith("hrl"), name


def render(questions: Sequence[Question]) -> None:
    """Writes tables and plots of the questions that have figures."""
    figures = load()
    parts = []
    for question in questions:
        cases = [
            Case(name, found)
            for name in question.cases
            if (found := [each for each in figures if (each.question, each.case) == (question.name, name)])
        ]
        if cases:
            parts.append(tables(question, cases))
            plots(question, cases)
    TABLES.parent.mkdir(parents=True, exist_ok=True)
    TABLES.write_text("\n".join(parts))
    print(f"tables in {TABLES}, plots in {PLOTS}")


def tables(question: Question, cases: Sequence[Case]) -> str:
    """The tables of a question: one for each metric, or one of all metrics where there is one case, and that of the
    ratios.
    """
    lines = [f"## {question.title}", *dict.fromkeys(case.origin for case in cases), ""]
    if len(cases) == 1:
        shown = [each for each in question.metrics if cases[0].contenders(each.name)]
        columns = [(f"{metric.title}, {metric.unit}", cases[0], metric) for metric in shown]
        lines += table(columns)
    else:
        for metric in question.metrics:
            lines += table([(f"{case.name}: {metric.title}, {metric.unit}", case, metric) for case in cases])
    rows = [(ratio, [case.ratio(ratio) for case in cases]) for ratio in question.ratios]
    rows = [(ratio, found) for ratio, found in rows if any(found)]
    if rows:
        titles = {metric.name: metric.title for metric in question.metrics}
        lines += heads([question.ratio_title, *(case.name for case in cases)])
        for ratio, found in rows:
            cells = [each.text(lambda value: f"{value:.2f}") if each else "" for each in found]
            lines.append(f"| {ratio}, {titles[ratio.metric]} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def table(columns: Sequence[tuple[str, Case, Metric]]) -> list[str]:
    """A row for each contender."""
    names = sorted({name for _, case, metric in columns for name in case.contenders(metric.name)}, key=in_groups)
    lines = heads(["", *(title for title, _, _ in columns)])
    for name in names:
        found = [(case.spread(name, metric.name), metric) for _, case, metric in columns]
        lines.append(f"| {name} | {' | '.join(each.text(metric.text) if each else '' for each, metric in found)} |")
    return [*lines, ""]


def heads(titles: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]


def plots(question: Question, cases: Sequence[Case]) -> None:
    """A plot for each metric that is to have one, and one of the ratios."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    for metric in (each for each in question.metrics if each.name in question.plots):
        panels = []
        for case in cases:
            bars = []
            for name in case.contenders(metric.name):
                found = case.spread(name, metric.name)
                if found:
                    bars.append(bar(name, found, metric.divisor, metric.text(found.median)))
            panels.append(Panel(case.name if len(cases) > 1 else "", bars))
        draw(PLOTS / f"{question.name}-{metric.name}.svg", f"{question.title}: {metric.title}", metric.unit, panels)
    if question.plot_ratios:
        panels = []
        for case in cases:
            plotted = [ratio for ratio in question.ratios if ratio.metric == question.plots[0]]
            ratios = [(str(ratio), found) for ratio in plotted if (found := case.ratio(ratio))]
            bars = [bar(name, found, 1.0, f"{found.median:.2f}") for name, found in ratios]
            panels.append(Panel(case.name if len(cases) > 1 else "", bars))
        draw(PLOTS / f"{question.name}-ratios.svg", f"{question.title}: {question.ratio_title}", "", panels)


def bar(name: str, found: Spread, divisor: float, written: str) -> Bar:
    """The bar of a contender."""
    low, median, high = (value / divisor for value in (found.low, found.median, found.high))
    return Bar(name, low, median, high, written, ours=not in_groups(name)[1])
