"""The report of a run of a recovery plan: one HTML page that looks like the report of a vault, without any script.

The output of commands, notes and names come from anywhere. The template engine escapes them, and `clean` shows characters
that cannot be seen.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hrl.words import clean, nanoseconds, span, when

FAILURES = ("failed", "timed-out", "rejected")
LEVELS = {"done": "good", "failed": "bad", "done-with-failures": "bad", "stopped": "warn", "running": "warn"}
HEADINGS = {
    "done": "Everything came up",
    "done-with-failures": "It ended, with failures",
    "failed": "A step failed",
    "stopped": "It was stopped",
    "running": "It is under way",
}
BAR_PERCENT_MIN = 0.4


def write(report: dict[str, Any], to: str | Path) -> None:
    """Writes the page of a report of `plan_report` to a file."""
    Path(to).write_text(page(report), encoding="utf-8", newline="\n")


def page(report: dict[str, Any]) -> str:
    """Returns the page as text."""
    environment = Environment(
        loader=PackageLoader("hrl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(clean=clean, when=when, lasted=lasted, lines=lines)
    style = environment.get_template("style.css").render()
    return environment.get_template("plan.html").render(
        report=report,
        level=LEVELS.get(report["outcome"], "warn"),
        heading=HEADINGS.get(report["outcome"], report["outcome"]),
        notices=notices(report),
        groups=groups(report),
        style=Markup(style),
    )


def lasted(millis: int | None) -> str:
    """Returns a length of time for people."""
    return "-" if millis is None else span(millis / 1000)


def lines(text: str) -> str:
    """Returns the text of a program line by line, without characters that cannot be seen."""
    return "\n".join(clean(line) for line in text.replace("\t", "    ").splitlines())


def notices(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns what somebody should know: level and text, the worst first."""
    found: list[tuple[str, str]] = []
    for step in report["steps"]:
        if step["outcome"] in FAILURES:
            found.append(("bad", f"{step['id']} {step['outcome'].replace('-', ' ')}: {step['message']}"))
    for name, target in (("rto", "RTO"), ("rpo", "RPO")):
        if report[f"{name}_met"] is False:
            wanted = lasted(report[f"{name}_target_ms"])
            found.append(("bad", f"the {target} was {lasted(report[f'{name}_ms'])}, and {wanted} was wanted"))
    for step in report["steps"]:
        if step["outcome"] == "running":
            word = "waits for an approval" if step["kind"] == "manual" else "is under way, or its runner died"
            found.append(("warn", f"{step['id']} {word}: {step['text']}"))
        if step["interrupted"]:
            times = "once" if step["interrupted"] == 1 else f"{step['interrupted']} times"
            found.append(("warn", f"{step['id']} was cut off {times} because its runner died, and ran again"))
    skipped = [step["id"] for step in report["steps"] if step["outcome"] == "skipped"]
    if skipped:
        found.append(("warn", f"skipped: {', '.join(skipped)}"))
    if report["commit_is_due"]:
        found.append(("note", "the failovers wait for their commit"))
    if report["left_out"]:
        found.append(("note", f"not part of a {report['mode']} run: {', '.join(report['left_out'])}"))
    return found


def groups(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the groups with their steps, each with the place of its bar in the time of the run."""
    begin = nanoseconds(report["began"])
    ends = [nanoseconds(step["ended"]) for step in report["steps"] if step["ended"]]
    length_of_run = max(max(ends, default=begin) - begin, 1)
    found: list[dict[str, Any]] = [{**group, "steps": []} for group in report["groups"]]
    for step in report["steps"]:
        bar = None
        if step["began"] and step["ended"]:
            left = (nanoseconds(step["began"]) - begin) / length_of_run * 100
            width = (nanoseconds(step["ended"]) - nanoseconds(step["began"])) / length_of_run * 100
            width = min(max(width, BAR_PERCENT_MIN), 100)
            bar = {"left": f"{min(max(left, 0), 100 - width):.2f}", "width": f"{width:.2f}"}
        found[step["group"]]["steps"].append({**step, "bar": bar})
    return found
