"""The docs that `help` shows are those of the stub file, word for word.

The docs are written once, in `python/src`. After a change of them `python tests/test_docstrings.py` copies those of the
installed package into the stub file.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrl import _hrl

STUB = Path(__file__).parents[1] / "hrl" / "_hrl.pyi"

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def documented() -> Iterator[tuple[str, Documented, object]]:
    """Everything public of the stub file, as the installed module has it: name, node and object."""
    module = ast.parse(STUB.read_text())
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    yield "_hrl", module, _hrl
    seen: set[str] = set()
    for node in module.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_") or node.name in seen:
            continue
        seen.add(node.name)
        found = getattr(_hrl, node.name)
        yield node.name, node, found
        # Classes that only the stub file has stand for members that many classes have.
        private = [
            classes[base.id] for base in getattr(node, "bases", []) if isinstance(base, ast.Name) and base.id[0] == "_"
        ]
        for part in [node, *private]:
            for member in part.body:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member, getattr(found, member.name)


@pytest.mark.parametrize(
    ("name", "node", "found"), list(documented()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_help_shows_the_docs_of_the_stub_file(name: str, node: Documented, found: object) -> None:
    told = found.__doc__
    assert told, f"{name} has no docs at run time"
    assert inspect.cleandoc(told) == ast.get_docstring(node), f"{name}; see the head of this file"


def test_everything_public_is_in_the_stub_file() -> None:
    in_stub = {name for name, _, _ in documented()}
    for name, found in vars(_hrl).items():
        if name.startswith("_") or not (inspect.isclass(found) or inspect.isroutine(found)):
            continue
        assert name in in_stub
        if inspect.isclass(found):
            missing = {f"{name}.{member}" for member in vars(found) if not member.startswith("_")} - in_stub
            assert not missing


def rewrite() -> None:
    """Writes the docs of the installed module into the stub file."""
    lines = STUB.read_text().splitlines()
    edits = {}
    for name, node, found in documented():
        first = node.body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            raise SystemExit(f"{name} needs a docstring, which may be empty, in line {first.lineno}")
        indent = " " * first.col_offset
        text = inspect.cleandoc(found.__doc__ or "").replace("\\", "\\\\")
        last = "\n" if "\n" in text else ""
        shown = textwrap.indent(f'"""{text}{last}"""', indent, lambda line: bool(line.strip()))
        edits[first.lineno - 1, first.end_lineno] = shown.splitlines()
    for (start, end), block in sorted(edits.items(), reverse=True):
        lines[start:end] = block
    STUB.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    rewrite()
