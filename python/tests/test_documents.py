"""What README, CONTRIBUTING and guide say is true: shell blocks and Python run, commands, options and exit codes exist.

A shell block that cannot run on a plain machine stands below `<!-- not run: REASON -->`. Its commands and options are looked
up all the same. `<!-- run` begins commands that a page needs and does not show, `-->` ends them. A block of TOML with a
title is written to the file of that name.
"""

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hrl.cli.app import root
from hrl.cli.commands import SECTIONS
from hrl.cli.exits import Exit

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "python/README.md", *sorted((ROOT / "core/docs").glob("*.md"))]
PAGES += sorted((ROOT / "core/crates").glob("*/README.md"))
OPERATE = (ROOT / "core/docs/operate.md").read_text()
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>sh|console|bash|python)\n(?P<text>.*?)^```$"
    r"|^<!-- run\n(?P<hidden>.*?)^-->$"
    r"|^```toml title=\"(?P<file>[\w.-]+)\"\n(?P<content>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SECONDS_MAX = 180
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text()))


def script_of(page: Path) -> str:
    """All that runs of a page's shell blocks, in its order."""
    parts = []
    for block in blocks(page):
        if block["hidden"] is not None:
            parts.append(block["hidden"])
        elif block["file"]:
            parts.append(f"cat >{block['file']} <<'END OF FILE'\n{block['content']}END OF FILE\n")
        elif block["language"] != "python" and not block["reason"]:
            parts.append(block["text"])
    return "".join(parts)


def pages_with(language: str) -> list[Path]:
    """Pages that have something to run: of a shell, or Python."""
    if language == "python":
        return [page for page in PAGES if any(block["language"] == "python" for block in blocks(page))]
    return [page for page in PAGES if script_of(page)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def end_all_in(directory: Path) -> None:
    """Ends the agents and servers that a page left running, detached ones too: they work in its directory."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.joinpath("cwd").readlink().is_relative_to(directory):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.parametrize("page", pages_with("shell"), ids=name_of)
def test_every_shell_block_runs(tmp_path: Path, page: Path) -> None:
    said, work = tmp_path / "said", tmp_path / "work"
    work.mkdir()
    (tmp_path / "script").write_text(
        "set -euo pipefail\ntrap 'echo \"FAILED: $BASH_COMMAND\"' ERR\nPS4='+ '\nset -x\n" + script_of(page)
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    with said.open("wb") as file:
        running = subprocess.Popen(
            ["bash", tmp_path / "script"],
            cwd=work,
            env={**os.environ, "PATH": path, "TERM": "dumb"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = running.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            end_all_in(work)
            running.wait()
    text = said.read_text(errors="replace")
    assert code == 0, f"{name_of(page)} {'took too long' if code < 0 else f'ended with {code}'}\n{text[-4000:]}"


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_every_python_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path) -> None:
    for number, block in enumerate(block for block in blocks(page) if block["language"] == "python"):
        if block["reason"]:
            compile(block["text"], name_of(page), "exec")
            continue
        directory = tmp_path / str(number)
        directory.mkdir()
        monkeypatch.chdir(directory)
        Path("disk.img").touch()
        os.truncate("disk.img", 4 << 20)
        Path("snippet.py").write_text(block["text"])
        runpy.run_path("snippet.py")


def test_a_block_that_does_not_run_is_marked_with_a_reason() -> None:
    for page in PAGES:
        text = page.read_text()
        marks = text.count("<!-- not run")
        assert marks == sum(bool(block["reason"]) for block in blocks(page)), f"{page}: a mark stands alone"
        fences = re.findall(r"^```(.*)$", text, re.MULTILINE)
        # Every other fence closes one.
        assert all(fences[::2]), f"{page}: a block has no language"


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each `hrl` and `make` in a block, up to what ends a command."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        current: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()<>") or word in ("do", "then", "until", "while", "if"):
                if current and current[0] in ("hrl", "make"):
                    yield current
                current = []
            elif current or not re.match(r"\w+=", word):
                current.append(word)


def check_hrl(words: list[str]) -> None:
    command: Any = root()
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        command, rest = command.commands.get(rest[0]), rest[1:]
        assert command, f"there is no {' '.join(words)}"
    known = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    for word in rest:
        assert not word.startswith("--") or word.split("=")[0] in known, f"{command.name} has no {word}: {' '.join(words)}"


def test_every_command_and_option_exists() -> None:
    seen = 0
    for page in PAGES:
        for block in blocks(page):
            if block["language"] == "python":
                continue
            for words in commands_in(block["text"] or block["hidden"] or ""):
                seen += 1
                if words[0] == "hrl":
                    check_hrl(words)
                    continue
                for word in words[1:]:
                    is_target = "=" not in word and not word.startswith("-")
                    assert not is_target or re.search(rf"^{word}:", MAKEFILE, re.MULTILINE), f"no {word} in the Makefile"
    assert seen > 50


def test_the_exit_codes_are_those_of_the_command() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", OPERATE.split("## Exit codes")[1].split("\n## ")[0], re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == {int(code): code.meaning for code in Exit}


def test_every_command_is_listed() -> None:
    names = {name for commands in SECTIONS.values() for name in commands}
    section = OPERATE.split("## Commands")[1].split("\n## ")[0]
    assert set(re.findall(r"`hrl ([a-z-]+)", section)) == names


def test_the_tests_of_the_attack_model_exist() -> None:
    """A path in a table of SECURITY.md is a file, and the names behind it are tests in it."""
    files: dict[str, str] = {}
    for line in (ROOT / "SECURITY.md").read_text().splitlines():
        cells = line.strip("|").split(" | ")
        if not line.startswith("| ") or len(cells) < 3:
            continue
        current = ""
        for word in re.findall(r"`([^`]+)`", cells[2]):
            if word.endswith((".py", ".rs")):
                name = Path(word).name
                path = ROOT / word if "/" in word else ROOT / files[name]
                files[name] = str(path.relative_to(ROOT))
                current = path.read_text()
            elif re.fullmatch(r"[a-z_0-9]+", word):
                assert re.search(rf"(def|fn) {word}\b", current), f"SECURITY.md names {word}, which is not there"
    assert len(files) > 10
