"""What the stub file says holds: every name has words, and the examples run."""

import ast
import doctest
import pathlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hrl

STUB = Path(__file__).parents[1] / "hrl" / "_hrl.pyi"


def docstrings() -> Iterator[tuple[str, str, int]]:
    """Qualified name, text and line of each docstring of the stub file that has examples."""

    def walk(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str, int]]:
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(child)
                if text and ">>>" in text:
                    yield f"{name}{child.name}", text, child.body[0].lineno
                if isinstance(child, ast.ClassDef):
                    yield from walk(child, f"{child.name}.")

    yield from walk(ast.parse(STUB.read_text()), "")


@pytest.mark.parametrize(("name", "text", "line"), list(docstrings()))
def test_the_examples_of_the_stub_file_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, line: int
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"hrl": hrl, "pathlib": pathlib}
    test = doctest.DocTestParser().get_doctest(text, names, name, str(STUB), line)
    told: list[str] = []
    failed, tried = doctest.DocTestRunner().run(test, out=told.append)
    assert tried
    assert not failed, "".join(told)


def test_every_name_of_the_stub_file_has_words() -> None:
    """Everything public has a docstring, but for what Python itself defines. Overloads share that of the first."""
    overloaded: set[str] = set()
    for node in ast.walk(ast.parse(STUB.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("__"):
            assert ast.get_docstring(node) or node.name in overloaded, f"{node.name} in line {node.lineno}"
            if any(isinstance(by, ast.Name) and by.id == "overload" for by in node.decorator_list):
                overloaded.add(node.name)
