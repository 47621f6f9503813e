"""`python -m peers [QUESTION...]` from `benches/`, with the package hrl installed; as root, because of loop devices
and mounts.

Each question is measured `--rounds` times, and figures are appended to `target/bench/peers.jsonl`. `--prepare` only
makes what the questions start from. `python -m peers render` makes tables and plots of what is there.
"""

import argparse
import signal
import sys
from pathlib import Path

from peers import changes, crash, database, render, restore, storage, transport, writer
from peers.machine import MIB, RESULTS
from peers.results import Round
from peers.stage import Setting

QUESTIONS = {each.QUESTION.name: each.QUESTION for each in (writer, database, changes, crash, restore, storage, transport)}


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="peers", description="Benchmarks against peers; see benches/RESULTS.md.")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"{', '.join(QUESTIONS)}, or render; default all")
    parser.add_argument("--case", action="append", help="only this case of the question; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a writer writes")
    parser.add_argument("--disk-mib", type=int, default=1024)
    parser.add_argument("--changes", type=int, default=26_214, help="writes of 4 KiB in a change set")
    parser.add_argument(
        "--scratch", type=Path, default=RESULTS / "scratch", help="on the disk that is measured; up to 20 GiB"
    )
    parser.add_argument("--prepare", action="store_true", help="make what the questions start from, and measure nothing")
    chosen = parser.parse_args()
    unknown = set(chosen.questions) - set(QUESTIONS) - {"render"}
    if unknown:
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    return chosen


def main() -> None:
    """Measures, or renders."""
    # So that mounts and servers are taken away when the run is ended from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = arguments()
    names = [name for name in chosen.questions if name != "render"] or ([] if chosen.questions else list(QUESTIONS))
    setting = Setting(chosen.scratch.resolve(), chosen.disk_mib * MIB, chosen.changes, chosen.seconds)
    for name in names:
        question = QUESTIONS[name]
        cases = [case for case in question.cases if not chosen.case or case in chosen.case]
        for case in cases:
            question.prepare(setting, case)
        for _ in range(0 if chosen.prepare else chosen.rounds):
            for case in cases:
                question.measure(setting, case, Round(name, case, str(setting)))
    if not chosen.prepare:
        render.render(list(QUESTIONS.values()))


if __name__ == "__main__":
    main()
