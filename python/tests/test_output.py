"""Standard streams that are closed, full or left, and text that no terminal and no encoding takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT, hrl
from hypothesis import given
from hypothesis import strategies as st

import hrl as package
from hrl.cli.exits import Exit
from hrl.cli.output import as_bytes
from hrl.report import write
from hrl.words import clean

HOSTILE = (
    "[/x]",
    "[prod] nightly",
    "umount [/srv]",
    "\x1b]0;owned\x07",
    "\x1b[31mred",
    "two\nlines",
    "\u202etxt.exe",
    "\x9b2J",
)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with labels that mean harm."""
    directory = tmp_path_factory.mktemp("output")
    opened = package.Vault(directory / "vault", create=True)
    disk = package.MemoryDevice(1 << 20)
    with package.Protection(disk, vault=opened, state=directory / "state", volume="db") as protection:
        protection.wait_ordered()
        for label in HOSTILE:
            protection.mark(label)
        protection.wait_replicated()
    opened.replica("db").record_verdict("[/x]", "application", False, "\x1b[31m[/y]")
    return directory / "vault"


def ends(shell: str, *arguments: object) -> tuple[int, str]:
    """Runs the command with its streams redirected by a shell. Returns its exit code and standard error."""
    command = " ".join([f"'{sys.executable}' -P -m hrl", *(f"'{argument}'" for argument in arguments), shell])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, done.stderr


def hrl_output(*arguments: object) -> str:
    """Returns the standard output of the command, however it ends."""
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT).stdout


def test_a_full_standard_output_is_one_line_and_its_code(vault: Path) -> None:
    for arguments in (["points", vault], ["points", vault, "--json"], ["--version"], ["points", "--help"]):
        code, told = ends(">/dev/full", *arguments)
        assert code == Exit.FULL, told
        assert "No space left" in told and "Traceback" not in told and len(told.splitlines()) == 1
    code, told = ends(">/dev/full", "health", vault)
    assert code == 3 and "Traceback" not in told


def test_a_closed_standard_output_is_an_error_and_no_traceback(vault: Path) -> None:
    code, told = ends(">&-", "points", vault)
    assert code == Exit.IO and told == "hrl: cannot write to standard output: Bad file descriptor\n"
    code, told = ends(">&- 2>&-", "points", vault)
    assert code == Exit.IO and told == ""
    code, told = ends("<&-", "points", vault)
    assert (code, told) == (0, "")


def test_closed_standard_error_never_mixes_with_the_output(vault: Path) -> None:
    shell = f"'{sys.executable}' -P -m hrl churn '{vault}' --from '2020-01-01 10:00' --json 2>&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and done.stdout.startswith("{") and "hrl:" not in done.stdout


def test_a_reader_that_left_hides_no_verdict(vault: Path) -> None:
    read, write_end = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", "-m", "hrl", "verify", str(vault), "--command", "false", "--no-record"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (Exit.CHECK_FAILED, "")


def test_no_label_is_taken_for_markup_or_reaches_a_terminal(vault: Path, tmp_path: Path) -> None:
    shown = hrl("points", vault)
    for label in HOSTILE:
        assert clean(label) in shown, label
    html = tmp_path / "report.html"
    hrl("report", vault, "--to", html)
    health = hrl_output("health", vault)
    assert "[/y]" in health
    for text in (shown, html.read_text(), health, hrl("timeline", vault)):
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "<bdi>[/x]</bdi>" in html.read_text()


@given(st.text())
def test_clean_text_is_one_line_without_control_characters(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in cleaned) and clean(cleaned) == cleaned


@given(st.binary(), st.sampled_from(["utf-8", "latin-1", "ascii"]))
def test_any_name_leaves_as_the_bytes_that_it_has(name: bytes, encoding: str) -> None:
    text = os.fsdecode(name)
    try:
        found = text.encode(encoding)
    except UnicodeEncodeError as error:
        replaced, end = as_bytes(error)
        assert len(replaced) == error.end - error.start and end == error.end
        return
    assert found.decode(encoding) == text


def test_names_that_are_not_utf_8_work_or_are_refused(vault: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/im\xffage")
    hrl("restore", vault, "db", "--to", strange)
    assert Path(strange).stat().st_size == 1 << 20
    moved = os.fsdecode(os.fsencode(tmp_path) + b"/va\xfeult")
    vault.rename(moved)
    try:
        assert "db: " in hrl("points", moved)
        hrl("report", moved, "--to", tmp_path / "page.html")
        assert "not UTF-8" in hrl("points", moved, "--volume", os.fsdecode(b"\xff"), code=Exit.INVALID_INPUT)
    finally:
        Path(moved).rename(vault)
    told = hrl("protect", strange, "--vault", tmp_path / "v", "--state", tmp_path / "s", code=Exit.INVALID_INPUT)
    assert "name the volume with --volume" in told


def test_an_encoding_without_the_characters_shows_something_else(vault: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-P", "-m", "hrl", "points", str(vault)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=LIMIT)
    assert done.returncode == 0 and b"?" in done.stdout and b"Traceback" not in done.stderr


def test_everything_that_is_printed_goes_through_one_place() -> None:
    """A `print` elsewhere would not know of closed streams, and would print foreign text as it is."""
    directory = Path(package.__file__).parent / "cli"
    # The last two are programs of their own around the box.
    allowed = {"output.py", "app.py", "manual.py", "box_entry.py", "box_run.py"}
    for source in directory.glob("*.py"):
        if source.name not in allowed:
            lines = source.read_text().splitlines()
            assert not [line for line in lines if line.strip().startswith(("print(", "sys.stdout.write"))], source


def test_a_report_says_which_volumes_it_could_not_read(vault: Path, tmp_path: Path) -> None:
    assert write(package.Vault(vault), tmp_path / "x.html", title="x") == []
