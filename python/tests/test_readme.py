"""What the README and the stub file say holds: exit codes, commands, snippets and examples."""

import ast
import doctest
import os
import pathlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

import hrl
from hrl.cli.commands import SECTIONS
from hrl.cli.exits import Exit

README = (Path(__file__).parents[2] / "README.md").read_text()
STUB = Path(__file__).parents[1] / "hrl" / "_hrl.pyi"


def test_the_exit_codes_are_those_of_the_command() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", README, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == {int(code): code.meaning for code in Exit}


def test_every_command_is_listed() -> None:
    names = {name for commands in SECTIONS.values() for name in commands}
    section = README.split("## Commands")[1].split("\n## ")[0]
    assert set(re.findall(r"`hrl ([a-z-]+)", section)) == names


@pytest.mark.parametrize("snippet", re.findall("^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
def test_every_python_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snippet: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("disk.img").touch()
    os.truncate("disk.img", 4 << 20)
    Path("snippet.py").write_text(snippet)
    runpy.run_path("snippet.py")


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
    """Everything public has a docstring, but for what Python itself defines."""
    for node in ast.walk(ast.parse(STUB.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("__"):
            assert ast.get_docstring(node), f"{node.name} in line {node.lineno}"
