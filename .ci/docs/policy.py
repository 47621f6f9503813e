"""Writes the table of core/docs/policy.md from the fields, names and checks of core/src/policy.rs.

python3 .ci/docs/policy.py [--check]
"""

import ast
import re

from generated import ROOT, put

SOURCE = ROOT / "core/src/policy.rs"
PAGE = ROOT / "core/docs/policy.md"
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def bytes_text(number: int) -> str:
    """The number in the largest unit of bytes that it is a multiple of."""
    for unit, power in (("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number and number % (1 << power) == 0:
            return f"{number >> power} {unit}"
    return f"{number:,}"


def time_text(millis: int) -> str:
    for unit, size in reversed(UNITS.items()):
        if millis % size == 0 and millis:
            return f"{millis // size}{unit}"
    return "0"


def number(expression: str) -> int:
    """Value of an integer expression of Rust, such as `64 << 10`."""
    tree = ast.parse(expression.replace("_", ""), mode="eval")
    allowed = (ast.Expression, ast.BinOp, ast.LShift, ast.Mult, ast.Constant)
    if not all(isinstance(node, allowed) for node in ast.walk(tree)):
        raise SystemExit(f"{SOURCE.relative_to(ROOT)}: cannot read {expression}")
    return int(eval(compile(tree, "policy", "eval")))


def ranges(source: str) -> dict[str, str]:
    """What each value may be, from the calls of `check` and `check_time`."""
    found = {}
    for time, name, low, high in re.findall(
        r'check(_time)?\("(\w+)", (?:[^,()]|\([^()]*\)|\([^()]*\([^()]*\)[^()]*\))+, ([\d_ <*]+), ([\d_ <*]+)\)\?', source
    ):
        text = time_text if time or name.endswith("_ms") else bytes_text if "bytes" in name else "{:,}".format
        found[name] = f"{text(number(low))} to {text(number(high))}"
    return found


def rows(source: str) -> list[str]:
    struct = re.search(r"    pub struct Policy \{\n(.*?)^    \}", source, re.DOTALL | re.MULTILINE)
    if not struct:
        raise SystemExit(f"{SOURCE.relative_to(ROOT)}: expected the struct Policy")
    fields = re.findall(r"((?:        ///.*\n)+)        pub (\w+): .+ = .+;\n", struct[1])
    if len(fields) != struct[1].count("        pub "):
        raise SystemExit(f"{SOURCE.relative_to(ROOT)}: a field has no comment or no default")
    may_be = ranges(source)
    table = []
    for comment, name in fields:
        text = " ".join(line.strip().removeprefix("///").strip() for line in comment.splitlines())
        text = re.sub(r"\[`Policy::(\w+)`\]", r"`\1`", text)
        text = re.sub(r"\[`(\w+)`\]", r"`\1`", text)
        text = text.replace("(`core/docs/quiesce.md`)", "([Quiesce](quiesce.md))")
        said = re.search(r"(?: |^)Default:? (.*)\.$", text)
        if not said:
            raise SystemExit(f"{SOURCE.relative_to(ROOT)}: the comment of {name} does not end with its default")
        meaning = text[: said.start()].strip()
        table.append(f"| `{name}` | {said[1]} | {may_be.get(name, '')} | {meaning} |")
    return table


def main() -> None:
    head = ["| name | default | range | meaning |", "|---|---|---|---|"]
    put(PAGE, "names of the policy", "\n".join([*head, *rows(SOURCE.read_text()), ""]))


if __name__ == "__main__":
    main()
