"""Recovery plans: the package with a host of the test's own, the commands beside it, and the page of a run in a browser."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from conftest import hrl, hrl_json, need

import hrl as package
from hrl.cli.exits import Exit
from hrl.report.plan import page, write

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
POLICY = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "region_bytes": "65536"}
PLAN = """
name = "shop"
rto_target = "1h"
rpo_target = "1ms"

[[group]]
name = "database"
[[group.before]]
name = "fence"
command = "echo fenced $HRL_MODE; echo '{hostile}'"
only = "test"
[[group.member]]
volume = "db"
at = "first"
state = "{state}/db"

[[group]]
name = "web"
[[group.member]]
volume = "web"
state = "{state}/web"
verify = "test \\"$HRL_URI\\" = nbd:web"
[[group.after]]
name = "dns"
manual = "Point it here."
limit = "30s"
[[group.after]]
name = "tell"
command = ["sh", "-c", "exit 3"]
on_failure = "continue"
"""


class Host:
    """Brings nothing up, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    def start(self, member: package.PlanMember, request: package.PlanRequest) -> package.VolumeStarted:
        assert not request.stopped and request.limit == 600 and request.state is not None
        assert request.state.name == f"test-{request.run}" and request.state.parent == member.state
        self.calls.append(("start", member.volume, request.at))
        if member.volume == "broken":
            raise TimeoutError("no machine answers")
        return {"uri": f"nbd:{member.volume}", "point": None, "sequence": 3, "point_time": "2026-01-01T00:00:00Z"}

    def commit(self, member: package.PlanMember, request: package.PlanRequest) -> None:
        self.calls.append(("commit", member.volume, request.at))

    def clean_up(self, member: package.PlanMember, request: package.PlanRequest) -> None:
        self.calls.append(("clean-up", member.volume, request.at))


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with two volumes that have a point each."""
    directory = tmp_path_factory.mktemp("plan")
    opened = package.Vault(directory / "vault", create=True)
    for name in ("db", "web"):
        disk = package.MemoryDevice(1 << 20)
        with package.Protection(disk, vault=opened, state=directory / name, volume=name, policy=POLICY) as protection:
            protection.wait_ordered()
            protection.write(0, bytes([7]) * 4096)
            protection.mark("first")
            protection.wait_replicated()
    return directory / "vault"


@pytest.fixture(scope="module")
def report(vault: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a test run that a person approved by the command."""
    directory = tmp_path_factory.mktemp("run")
    opened, host = package.Vault(vault), Host()
    plan = package.Plan(PLAN.format(state=directory, hostile=HOSTILE.replace("'", "").replace('"', "")), name="shop.toml")
    told: list[str] = []

    def on_step(run: str, step: dict[str, Any]) -> None:
        told.append(f"{run} {step['id']} {step['outcome']}")
        if step["id"] == "web/after/dns" and step["outcome"] == "running":
            threading.Thread(target=hrl, args=("plan", "approve", vault, run, step["id"], "--note", HOSTILE)).start()

    found = plan.run(opened, host, run="first", poll=0.05, on_step=on_step)
    first = f"point:{opened.replica('db').points()[0].id}"
    assert host.calls[:2] == [("start", "db", first), ("start", "web", "newest")]
    assert sorted(host.calls[2:]) == [("clean-up", "db", first), ("clean-up", "web", "newest")]
    assert told[0] == "first database/before/fence running" and told[-1].endswith("clean-up done")
    assert found == package.plan_report(opened, "first")
    return found


def test_a_report_holds_the_whole_run(report: dict[str, Any]) -> None:
    steps = {step["id"]: step for step in report["steps"]}
    assert (report["outcome"], report["mode"]) == ("done-with-failures", "test")
    assert steps["database/before/fence"]["output"].startswith("fenced test\n")
    assert (steps["web/web/verify"]["outcome"], steps["web/after/tell"]["outcome"]) == ("done", "failed")
    approval = steps["web/after/dns"]["approval"]
    assert approval["approved"] and approval["note"] == HOSTILE and "@" in approval["by"]
    assert report["rto_met"] is True and report["rpo_met"] is False
    assert [member["verified"] for member in report["members"]] == [None, True]
    assert 0 <= report["members"][0]["usable_ms"] <= report["members"][1]["usable_since_run_ms"] <= report["rto_ms"]


def test_runs_are_shown_by_the_commands(report: dict[str, Any], vault: Path, tmp_path: Path) -> None:
    assert hrl_json("plan", "report", vault, "first") == report == hrl_json("plan", "status", vault, "first")
    shown = hrl("plan", "report", vault, "first")
    assert "web/after/tell" in shown and "ended with code 3" in shown and "done-with-failures" in shown
    listed = {one["run"]: one for one in hrl_json("plan", "status", vault)}
    assert listed["first"]["outcome"] == "done-with-failures" and listed["first"]["now"] == []
    assert "shop" in hrl("plan", "status", vault)
    hrl("plan", "report", vault, "first", "--to", tmp_path / "run.html")
    assert "exists" in hrl("plan", "report", vault, "first", "--to", tmp_path / "run.html", code=4)
    assert "waits" in hrl("plan", "approve", vault, "first", "web/after/dns", code=3)
    assert "find run" in hrl("plan", "report", vault, "none", code=3)


def test_a_plan_is_checked_before_it_runs(vault: Path, tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(PLAN.format(state=tmp_path, hostile=""))
    found = hrl_json("plan", "check", vault, file)
    assert [member["volume"] for member in found["members"]] == ["db", "web"] and found["problems"] == []
    assert found["members"][0]["point"] and found["rpo_ms"] > 0
    shown = hrl("plan", "run", vault, file, "--dry-run", "--test")
    order = ["database/before/fence", "database/db/start", "web/web/start", "web/after/dns", "database/db/clean-up"]
    assert [shown.index(step) for step in order] == sorted(shown.index(step) for step in order)
    real = hrl_json("plan", "run", vault, file, "--dry-run")
    assert real["steps"][0]["id"] == "database/db/start" and real["steps"][-1]["kind"] == "commit"
    file.write_text(
        file.read_text().replace('at = "first"', 'at = "newest-group"').replace('volume = "web"', 'volume = "x"')
    )
    problem = hrl("plan", "check", vault, file, code=2)
    assert "x" in problem and "consistency group" in problem
    file.write_text("name = 'p'\n[[group]]\nname = 'g'\nafter = 7\n")
    assert "line 4" in hrl("plan", "check", vault, file, code=2)
    file.write_text("name = 'p'\n[[group]]\nname = 'g'\n[[group.member]]\nvolume = 'db'\n")
    assert "no state directory for db" in hrl("plan", "run", vault, file, "--test", code=2)


def test_an_error_of_a_host_is_reported(vault: Path, tmp_path: Path) -> None:
    opened, host = package.Vault(vault), Host()
    text = PLAN.format(state=tmp_path, hostile="")

    def refuse(member: package.PlanMember, request: package.PlanRequest) -> package.VolumeStarted:
        raise TimeoutError("no machine answers")

    host.start = refuse  # type: ignore[method-assign]
    found = package.Plan(text).run(opened, host, run="raised")
    assert found["outcome"] == "failed" and "no machine answers" in found["steps"][1]["message"]
    assert host.calls[-1][:2] == ("clean-up", "db")
    with pytest.raises(TypeError, match="clean_up"):
        package.Plan(text).run(opened, object())  # type: ignore[arg-type]
    with pytest.raises(package.HrlError, match="test or real"):
        package.Plan(text).run(opened, host, mode="dry")  # type: ignore[arg-type]
    with pytest.raises(package.AlreadyExistsError):
        package.Plan(text).run(opened, host, run="raised")
    assert "raised" in package.plan_runs(opened)


def test_a_killed_command_is_resumed(vault: Path, tmp_path: Path) -> None:
    file = tmp_path / "wait.toml"
    file.write_text('name = "wait"\n[[group]]\nname = "g"\n[[group.before]]\nname = "go"\nmanual = "Say so."\n')
    command = [sys.executable, "-P", "-m", "hrl", "plan", "run", str(vault), str(file), "--test", "--run", "killed"]
    runner = subprocess.Popen([*command, "--poll", "0.05"], stderr=subprocess.PIPE, text=True)
    assert runner.stderr is not None
    assert "g/before/go waits: Say so. (hrl plan approve" in runner.stderr.readline()
    resume = ["plan", "resume", vault, "killed", "--plan", file, "--test", "--poll", "0.05"]
    assert str(runner.pid) in hrl(*resume, code=11)
    runner.kill()
    runner.communicate(timeout=30)
    hrl("plan", "approve", vault, "killed", 1, "--by", "ada")
    assert "approved by ada" in hrl(*resume)
    found = hrl_json("plan", "report", vault, "killed")
    assert (found["runners"], found["steps"][0]["interrupted"]) == (2, 1)

    command[-1] = "stopped"
    runner = subprocess.Popen([*command, "--poll", "0.05"], stderr=subprocess.PIPE, text=True)
    assert runner.stderr is not None
    runner.stderr.readline()
    runner.terminate()
    _, said = runner.communicate(timeout=30)
    assert runner.returncode == 130 and "go on with hrl plan resume" in said
    assert "rejected" in reject_and_resume(vault, file)


def reject_and_resume(vault: Path, file: Path) -> str:
    """Rejects the step of the run that was stopped once it waits again; what the command said."""
    said: list[str] = []
    again = ["plan", "resume", vault, "stopped", "--plan", file, "--test", "--poll", "0.05"]
    resume = threading.Thread(target=lambda: said.append(hrl(*again, code=18)))
    resume.start()
    for _ in range(200):
        if hrl_json("plan", "status", vault, "stopped")["steps"][0]["outcome"] == "running":
            break
    hrl("plan", "approve", vault, "stopped", "g/before/go", "--reject")
    resume.join(60)
    return said[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.skip("chromium not installed (make packages)")
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_in_a_browser(report: dict[str, Any], browser: Browser, tmp_path: Path, width: int) -> None:
    file = tmp_path / "run.html"
    write(report, file)
    browser.open(file, width=width, dark=width == 1280)
    assert browser.requests == [file.resolve().as_uri()] + [r for r in browser.requests if r.startswith("data:")]
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.value(overflow) == 0, "nothing reaches beyond the window"
    assert browser.value("document.querySelectorAll('.steps tbody tr').length") == len(report["steps"])
    assert browser.value("document.querySelectorAll('.bar i').length") == len(report["steps"])
    assert browser.value("document.querySelector('.outcome.failed').textContent") == "failed"
    colour = "getComputedStyle(document.querySelector('.outcome.done')).color"
    assert browser.value(colour) == ("rgb(70, 191, 136)" if width == 1280 else "rgb(31, 138, 91)")
    assert browser.complaints == []
    if pictures := os.environ.get("HRL_PICTURES"):
        browser.picture(Path(pictures) / f"plan-{width}.png")


def test_foreign_text_stays_text(report: dict[str, Any]) -> None:
    text = page(report)
    assert "<script" not in text and "<img" not in text and "&lt;script&gt;alert(1)" in text
    assert "the RPO was" in text and "web/after/tell failed" in text
    turned = json.loads(json.dumps(report).replace("fenced test", "fenced \\u202e test"))
    assert "\u202e" not in page(turned) and "fenced \ufffd test" in page(turned)


def test_a_verify_step_runs_in_a_box(vault: Path, tmp_path: Path) -> None:
    """It reaches the volume and what is shown to it, and nothing else of the machine."""
    need("bwrap", "nbdinfo")
    script = tmp_path / "look.sh"
    script.write_text('nbdinfo --size "$HRL_URI" && test ! -e /etc/shadow && test $HRL_VOLUME = db && echo looked\n')
    plan = tmp_path / "boxed.toml"
    plan.write_text(
        f'''name = "boxed"\n[[group]]\nname = "g"\n[[group.member]]\nvolume = "db"\nstate = "{tmp_path}/db"\n'''
        f"""verify = "sh {script}"\n"""
    )

    def verify(*options: object, code: int = 0) -> tuple[str, str]:
        """Outcome and output of the step."""
        run = f"boxed-{len(package.plan_runs(package.Vault(vault)))}"
        hrl("plan", "run", vault, plan, "--test", "--run", run, *options, code=code)
        steps = package.plan_report(package.Vault(vault), run)["steps"]
        (step,) = [step for step in steps if step["kind"] == "verify"]
        return step["outcome"], step["output"]

    assert verify("--show", script) == ("done", "1048576\nlooked\n")
    outcome, output = verify(code=Exit.PLAN_FAILED)
    assert outcome == "failed" and "No such file" in output
    outcome, output = verify("--unsandboxed", code=Exit.PLAN_FAILED)
    assert outcome == "failed" and output == "1048576\n", "it sees /etc/shadow"
