"""Lists the tests of each promise in core/docs/promises.md, from the names of the tests.

    python3 .ci/docs/promises.py [--check]

A test in Rust or C says in its name which promises it tries to break, such as `promise_3_…` or `promises_3_and_4_…`, and
all of them without a number. A test in Python says so at the start of its docstring: "Promise 3", "Promises 3 and 4".
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from generated import ROOT, put

PAGE = ROOT / "core/docs/promises.md"
KEPT = 14
NAME = re.compile(r"^\s*(?:pub(?:\([a-z]+\))? |static |async )*(?:fn|void) (promises?_\w+)\(", re.MULTILINE)
DOCSTRING = re.compile(r'^\s*def (test_\w+)\((?:(?!^\s*def )[^"])*?:\n\s*"""Promises? ((?:\d+|, | and )+)', re.MULTILINE)


def tests_in(text: str, suffix: str) -> Iterator[tuple[str, list[int]]]:
    """Names of the tests of a file, each with the numbers of its promises."""
    if suffix == ".py":
        for name, numbers in DOCSTRING.findall(text):
            yield name, [int(number) for number in re.findall(r"\d+", numbers)]
        return
    for name in NAME.findall(text):
        numbers = re.match(r"promises?((?:_and|_\d+(?![a-z\d]))*)", name)
        assert numbers is not None
        found = [int(number) for number in re.findall(r"\d+", numbers[1])]
        yield name, found or list(range(1, KEPT + 1))


def table(tests: dict[str, list[str]]) -> str:
    rows = [f"| `{file}` | {'<br>'.join(f'`{name}`' for name in names)} |" for file, names in sorted(tests.items())]
    return "\n".join(["| file | tests |", "|---|---|", *rows, ""])


def main() -> None:
    promises: defaultdict[int, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for top in ["core", "ffi", "python"]:
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".rs", ".c", ".cpp", ".py"):
                for name, numbers in tests_in(path.read_text(), path.suffix):
                    for number in numbers:
                        promises[number][str(Path(path).relative_to(ROOT))].append(name)
    for number in range(1, KEPT + 1):
        if number not in promises:
            raise SystemExit(f"no test tries to break promise {number}")
        put(PAGE, f"tests of promise {number}", table(promises[number]))
    unknown = sorted(set(promises) - set(range(1, KEPT + 1)))
    if unknown:
        raise SystemExit(f"tests name promises that are not kept yet: {unknown}")


if __name__ == "__main__":
    main()
