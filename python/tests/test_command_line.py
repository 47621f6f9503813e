"""What the command says and how it starts: states, times, exit codes, foreign text, and the modules that it imports."""

import json
import os
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from conftest import hrl, hrl_json

import hrl as package
from hrl.cli.commands import SECTIONS
from hrl.cli.control import ControlServer, ask
from hrl.cli.exits import Exit, Refused
from hrl.cli.failover import stop_and_wait
from hrl.cli.output import Table
from hrl.cli.states import point_beginning_with, short_ids, state_of
from hrl.cli.times import Duration, instant, seconds

HOSTILE = "[/x]\x1b]0;owned\x07\x1b[31m"
HEAVY = ("rich", "pydantic", "jinja2", "matplotlib", "smtplib", "http.server", "multiprocessing", "asyncio")
CPU_SECONDS_MAX = 0.5
"""Several times what a start takes, for a machine that is busy."""


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with two volumes, one of which has labels that mean harm."""
    directory = tmp_path_factory.mktemp("named")
    opened = package.Vault(directory / "vault", create=True)
    policy = {"segment_interval_ms": "50", "crash_point_interval_ms": "0"}
    for name, labels in (("db", ("before-upgrade", HOSTILE, "nightly")), ("web", ("only",))):
        disk = package.MemoryDevice(1 << 20)
        state = directory / name
        with package.Protection(disk, vault=opened, state=state, volume=name, policy=policy) as protection:
            protection.wait_ordered()
            for number, label in enumerate(labels):
                protection.write(number * 4096, bytes([number + 1]) * 4096)
                protection.mark(label)
            protection.wait_replicated()
    return directory / "vault"


@pytest.mark.parametrize("arguments", [["status", "/none"], ["points", "/none"], ["failover", "--help"], ["--help"]])
def test_a_start_imports_nothing_heavy(arguments: list[str]) -> None:
    script = "import sys, hrl.cli\ntry:\n hrl.cli.main()\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-P", "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = done.stderr.splitlines()[-1].split()
    assert not [name for name in HEAVY if name in loaded]
    modules = {module for commands in SECTIONS.values() for module, _ in commands.values()}
    assert len([name for name in modules if f"hrl.cli.{name}" in loaded]) <= 4, "of the commands only what this one takes"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS_MAX


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"hrl \d+\.\d+\.\d+\n", hrl("--version"))


def test_points_fit_a_terminal_and_their_ids_are_taken_back(vault: Path, tmp_path: Path) -> None:
    lines = hrl("points", vault, "--volume", "web").splitlines()
    assert lines[0].startswith("web: 1 point, catalog version ") and max(map(len, lines)) <= 80
    listed = hrl("points", vault, "--volume", "db").splitlines()
    for line, label in zip(listed[2:], ("before-upgrade", None, "nightly"), strict=True):
        begin = line.split()[0]
        found = hrl_json("restore", vault, "db", "--at", begin, "--to", tmp_path / "image", "--overwrite")
        if label:
            same = hrl_json("restore", vault, "db", "--at", label, "--to", tmp_path / "image", "--overwrite")
            assert found["sequence"] == same["sequence"]
    hrl("pin", vault, "db", begin, "--until", "30d")
    assert "until 2" in hrl("points", vault, "--volume", "db")
    hrl("unpin", vault, "db", "nightly")


def test_a_state_that_is_none_is_answered_with_those_that_are(vault: Path, tmp_path: Path) -> None:
    told = hrl("restore", vault, "db", "--at", "before-upgrad", "--to", tmp_path / "x", code=Exit.NOT_FOUND)
    assert "db has no point or label before-upgrad: its labels are nightly," in told
    assert "did you mean before-upgrade?" in told
    (tmp_path / "x").touch()
    assert "--overwrite replaces it" in hrl("restore", vault, "db", "--to", tmp_path / "x", code=Exit.ALREADY_EXISTS)
    assert "expected one of [db, web]" in hrl("points", vault, "--volume", "dbs", code=Exit.NOT_FOUND)


def test_a_time_ago_and_a_local_time_are_states(vault: Path, tmp_path: Path) -> None:
    to = ["--to", tmp_path / "image", "--overwrite"]
    newest = hrl_json("restore", vault, "db", *to)["sequence"]
    assert hrl_json("restore", vault, "db", "--at", "0s ago", *to)["sequence"] == newest
    later = (datetime.now() + timedelta(seconds=2)).isoformat(" ", "seconds")
    assert hrl_json("restore", vault, "db", "--at", later, *to)["sequence"] == newest
    hrl("restore", vault, "db", "--at", "1d ago", *to, code=Exit.NOT_FOUND)


def test_foreign_text_reaches_the_terminal_as_text(vault: Path) -> None:
    for arguments in (["points", vault], ["points", vault, "--volume", "db\x1b[31m"], ["frob\x1b[31m"]):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "hrl", *map(str, arguments)], capture_output=True, text=True, timeout=60
        )
        assert "\x1b" not in done.stdout + done.stderr and "\x07" not in done.stdout
    assert "[/x]�]0;owned��[31m" in hrl("points", vault)


def test_a_table_fits_a_terminal_and_is_whole_elsewhere() -> None:
    table = Table("name", "label", "empty")
    table.add("v", "x" * 200, "")
    table.add("世界", "y", "")
    assert max(map(len, table.lines(80))) == 80 and "…" in table.lines(80)[1]
    assert table.lines()[0].split() == ["name", "label"], "a column that says nothing is left out"
    assert "x" * 200 in table.lines()[1]
    assert table.lines()[1].index("x") == table.lines()[2].index("y") + 2, "wide characters take two columns"


def test_short_ids_are_unambiguous_and_no_numbers() -> None:
    ids = ["0123456789abcdef" * 2, "0123456789abcdff" * 2, "12345678ffffffff" * 2]
    found = short_ids(ids)
    assert len(set(found.values())) == 3 and not any(short.isdecimal() for short in found.values())
    assert all(one.startswith(short) for one, short in found.items())


def test_the_beginning_of_an_id_must_be_of_one_point_alone() -> None:
    points = [SimpleNamespace(id=f"abcd{n}" + "0" * 27, group=None, label="abcd1", sequence=n) for n in (1, 2)]
    replica = cast(Any, SimpleNamespace(info={"name": "v"}, points=lambda: points))
    assert point_beginning_with("ABCD2", replica, cast(Any, points)) == points[1].id
    with pytest.raises(Refused, match="several points of v begin with abcd") as refused:
        point_beginning_with("abcd", replica, cast(Any, points))
    assert refused.value.code == Exit.INVALID_INPUT
    assert state_of(replica, "abcd1") == "label:abcd1", "a label wins"
    assert [state_of(replica, at) for at in ("newest", "12", "point:ab")] == ["newest", "12", "point:ab"]


@pytest.mark.parametrize("text", ["", "soon", "-5", "5y", "1e3", "5 m m", "inf", "9" * 20])
def test_what_is_no_duration_is_refused_by_the_option_that_has_it(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        seconds(text)
    with pytest.raises(typer.BadParameter):
        Duration(text)
    told = hrl("failover", "detach", "--state", "/none", "--limit", text, code=Exit.INVALID_INPUT)
    assert "'--limit'" in told and "500ms, 60s, 5m, 2h or 1d" in told


def test_times_are_local_unless_they_say_otherwise() -> None:
    exact = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    assert instant("2026-11-21T09:30:00Z") == instant("2026-11-21 10:30:00+01:00") == exact
    assert instant("2026-11-21 09:30") == datetime(2026, 11, 21, 9, 30).astimezone(UTC)
    ago = instant("10m ago")
    assert ago is not None and abs((datetime.now(UTC) - ago).total_seconds() - 600) < 60
    assert instant("nightly") is instant("10m") is instant("2026-13-01") is instant("99999999d ago") is None


def test_a_bad_value_of_a_policy_names_the_file_and_the_value(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("segment_interval_ms = -5\n")
    command = ["protect", tmp_path / "disk", "--vault", tmp_path / "v", "--state", tmp_path / "s", "--policy", policy]
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    told = hrl(*command, code=Exit.INVALID_INPUT)
    assert f"{policy}: " in told and "segment_interval" in told and "-5" in told
    policy.write_text("[verify]\nmount = true\n")
    told = hrl(*command, code=Exit.INVALID_INPUT)
    assert f"cannot read policy {policy}: the table verify needs every" in told
    command[3], command[5] = tmp_path / "other", tmp_path / "elsewhere"
    for table, words in (
        ('every = "1day"', "verify.every: cannot read '1day': expected a duration"),
        ('every = "1d"\nlimit = "soon"', "verify.limit: cannot read 'soon'"),
        ('every = "1d"\nboot_pattern = "("', "verify.boot_pattern: cannot search the console for ("),
    ):
        policy.write_text(f"[verify]\n{table}\n")
        told = hrl(*command, code=Exit.INVALID_INPUT)
        assert f"cannot read policy {policy}: {words}" in told
    assert not (tmp_path / "other").exists() and not (tmp_path / "elsewhere").exists(), "nothing ran"


@pytest.mark.parametrize("url", ["s3://bucket\n", "gateway://host\n:9443", "s3://bucket/\x1b[31m"])
def test_a_url_with_a_line_break_is_refused(url: str) -> None:
    told = hrl("points", url, code=Exit.INVALID_INPUT)
    assert "has a line break" in told and len(told.splitlines()) == 1 and "\x1b" not in told


def test_credentials_with_a_line_break_are_named_and_not_shown() -> None:
    command = [sys.executable, "-P", "-m", "hrl", "points", "s3://bucket"]
    secrets = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush\n", "AWS_REGION": "x"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | secrets, timeout=60)
    assert done.returncode == Exit.INVALID_INPUT
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr and "hush" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_key_that_is_missing_is_asked_for_by_its_options(tmp_path: Path) -> None:
    hrl("key", tmp_path / "key")
    key = package.Key.from_file(tmp_path / "key")
    opened = package.Vault(tmp_path / "vault", key=key, create=True)
    with package.Protection(package.MemoryDevice(1 << 20), vault=opened, state=tmp_path / "s", volume="v") as protection:
        protection.wait_ordered()
    assert "--key-file, --key-command or --key-env" in hrl("points", tmp_path / "vault", code=Exit.WRONG_KEY)


@pytest.mark.parametrize("code", [Exit.TIMED_OUT, Exit.NOT_RUNNING, Exit.PLAN_FAILED, Exit.NOT_FOUND])
def test_an_exit_code_crosses_the_control_socket(tmp_path: Path, code: Exit) -> None:
    def refuse(_: dict[str, Any]) -> None:
        raise Refused("it is not whole", code)

    server = ControlServer(tmp_path, {"detach": refuse})
    try:
        with pytest.raises(Refused, match="not whole") as refused:
            ask(tmp_path, "detach")
        assert refused.value.code == code
    finally:
        server.close()


def test_a_disk_that_is_not_whole_is_no_process_that_is_not_running(tmp_path: Path) -> None:
    def refuse(_: dict[str, Any]) -> None:
        raise Refused("cannot detach: the disk is not whole yet", Exit.UNAVAILABLE)

    assert stop_and_wait(tmp_path, "detach") is False
    server = ControlServer(tmp_path, {"detach": refuse})
    try:
        with pytest.raises(Refused, match="not whole"):
            stop_and_wait(tmp_path, "detach")
    finally:
        server.close()


def test_an_address_is_json_only_if_that_is_asked_for(vault: Path, tmp_path: Path) -> None:
    def first_line(*more: str) -> str:
        command = [sys.executable, "-P", "-m", "hrl", "serve", str(vault), "web", "--nbd", f"unix:{tmp_path}/s", *more]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            line = server.stdout.readline()
            server.terminate()
        return line

    plain, found = first_line(), json.loads(first_line("--json"))
    assert plain.strip() == found["uri"] and found["volume"] == "web"


def test_every_command_that_prints_something_can_print_json() -> None:
    silent = {
        "resync", "in-sync", "health", "report", "enroll new", "enroll renew", "enroll request",
        "failover cleanup", "failover commit", "failover cancel", "plan approve",
        "branch drop", "group create", "group join", "group leave", "group remove", "track forget",
    }  # fmt: skip
    from hrl.cli.app import root

    def commands(before: str, group: Any) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for name, one in group.commands.items():
            found += commands(f"{before}{name} ", one) if hasattr(one, "commands") else [(before + name, one)]
        return found

    for name, one in commands("", root()):
        has_json = any("--json" in parameter.opts for parameter in one.params)
        assert has_json or name in silent, name


def test_output_that_is_cut_off_is_no_failure(vault: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-P", "-m", "hrl", "points", str(vault)], stdout=write, timeout=60)
    os.close(write)
    assert done.returncode == 0


def test_a_process_runs_any_number_of_commands() -> None:
    """Each run once wrapped the command anew, so that a process that ran hundreds ended with a RecursionError."""
    from hrl.cli.app import root

    before = root().get_command(None, "points").callback
    for _ in range(3):
        assert root().get_command(None, "points").callback is before
