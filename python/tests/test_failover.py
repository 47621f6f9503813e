"""Failover by its commands, there and home again, with a process that is killed at any moment and every wrong use."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import DISK_BYTES, Agent, need, run
from failing_over import PROMPT, Served, call, call_json, content, is_running, until, write

MIB = 1 << 20
VOLUME = "disk.img"


class Site:
    """A source with two points, and places to fail over to. What it starts does not outlive the test."""

    def __init__(self, start: Callable[..., Agent], directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        self.agent = start(directory=self.home, policy=PROMPT)
        self.vault = self.home / "vault"
        self.served: list[Served] = []
        until("the first copy", lambda: call_json("status", self.agent.state, "--json")["mode"] == "ordered")
        self.seen: dict[str, bytes] = {}
        for number, label in enumerate(("one", "two")):
            write(self.agent.uri, number * MIB, os.urandom(3 * MIB), directory)
            self.seen[label] = content(self.agent.uri, directory)
            call("point", self.agent.state, "--label", label)
        self.wait_replicated()

    def wait_replicated(self) -> None:
        def done() -> bool:
            found = call_json("status", self.agent.state, "--json")
            return bool(found["replicated_sequence"] == found["last_sequence"] and found["mode"] == "ordered")

        until("everything in the vault", done)

    def serve(self, *arguments: object, state: str = "away") -> Served:
        self.served.append(Served(*arguments, state=self.directory / state))
        return self.served[-1]

    def over(self, *more: object, site: str = "away", disk: str | None = None) -> Served:
        """Fails over, in the background."""
        target = self.directory / (disk or f"{site}.img")
        return self.serve("failover", "start", self.vault, VOLUME, "--disk", target, *more, state=site)

    def stage(self) -> str:
        return str(self.life()["stage"])

    def life(self) -> dict[str, Any]:
        found: dict[str, Any] = call_json("failover", "status", self.vault, VOLUME, "--json")[VOLUME]
        return found

    def write(self, served: Served | Agent, offset: int, data: bytes) -> None:
        write(served.uri, offset, data, self.directory)

    def content(self, served: Served | Agent) -> bytes:
        return content(served.uri, self.directory)

    def restored(self, volume: str = VOLUME, at: str = "newest") -> bytes:
        call("restore", self.vault, volume, "--at", at, "--to", self.directory / "restored", "--overwrite")
        return (self.directory / "restored").read_bytes()


@pytest.fixture
def site(start: Callable[..., Agent], tmp_path: Path) -> Iterator[Site]:
    need("qemu-img")
    made = Site(start, tmp_path)
    yield made
    for served in made.served:
        served.kill()


def test_promise_3_a_failover_is_looked_at_begun_changed_and_given_up(site: Site) -> None:
    before = site.life()
    start = ["failover", "start", site.vault, VOLUME, "--state", site.directory / "away"]
    told = call_json(*start, "--disk", site.directory / "away.img", "--at", "one", "--dry-run", "--json")
    assert (told["stage"], told["epoch"]) == ("protected", 2) and told["records_later"] >= 1
    assert "away.img" in call(*start, "--disk", site.directory / "away.img", "--dry-run")
    assert not (site.directory / "away").exists() and not (site.directory / "away.img").exists()
    assert site.life() == before, "nothing was done"

    over = site.over("--at", "one")
    assert over.ready.keys() == {"volume", "uri", "point", "sequence", "time", "rto_ms", "pid"}
    assert site.content(over) == site.seen["one"] and site.stage() == "failed-over"
    site.write(over, 0, b"written at the other site" * 41)
    # The source goes on while nothing is final.
    site.write(site.agent, 8 * MIB, b"at home meanwhile")
    call("point", site.agent.state, "--label", "three")
    three = site.content(site.agent)
    site.wait_replicated()
    change = ["failover", "change-point", site.vault, VOLUME, "--state", over.state]
    assert "nowhere" in call(*change, "--at", "nowhere", code=3)
    assert site.content(over)[:25] == b"written at the other site", "it goes on after a wrong request"
    assert json.loads(call(*change, "--at", "two", "--json"))["uri"] == over.uri
    assert site.content(over) == site.seen["two"], "as of the point, without what was written"
    site.write(over, 5 * MIB, b"written again" * 41)
    call(*change, "--at", "three")
    assert site.content(over) == three
    call("failover", "cancel", site.vault, VOLUME, "--state", over.state)
    until("the end of the process", lambda: not is_running(over.process))
    assert site.stage() == "protected" and call_json("branch", "list", site.vault, VOLUME, "--json") == []
    site.write(site.agent, 9 * MIB, b"as before")
    site.wait_replicated()
    assert site.restored() == site.content(site.agent)
    call("failover", "cancel", site.vault, VOLUME, "--state", over.state)
    again = site.over("--at", "one", "--overwrite")
    assert site.content(again) == site.seen["one"]


def test_promise_9_two_sources_and_one_disk_that_is_taken_along(site: Site) -> None:
    over = site.over("--at", "one")
    assert "commit or cancel it first" in site_refuses(site, code=11), "a second failover elsewhere"
    site.write(site.agent, 10 * MIB, b"at home, before the commit")
    site.wait_replicated()
    at_home = [site.content(site.agent)]
    call("failover", "commit", site.vault, VOLUME, "--state", over.state)
    call("failover", "commit", site.vault, VOLUME, "--state", over.state)
    for command in (("cancel",), ("change-point", "--at", "one")):
        words = call("failover", command[0], site.vault, VOLUME, "--state", over.state, *command[1:], code=2)
        assert "committed" in words
    # Split brain: the old source is in use still.
    site.write(site.agent, 11 * MIB, b"at home, after the commit")
    until("the fence", lambda: call_json("status", site.agent.state, "--json")["fenced"])
    assert "another source has taken the volume" in call("point", site.agent.state, code=11)
    site.write(over, 0, b"goes on here")
    over.wait_replicated()
    last = site.content(over)
    assert site.restored() == last and site.content(site.agent) != last
    (branch,) = call_json("branch", "list", site.vault, VOLUME, "--json")
    assert branch["epoch"] == 1 and branch["stored_bytes"] > 0
    # The last write is on the branch when it came before the source noticed.
    at_home.append(site.content(site.agent))
    until("the branch", lambda: site.restored(f"{VOLUME}@1") in at_home)
    site.agent.kill()
    refused = subprocess.run(
        [sys.executable, "-P", "-m", "hrl", "protect", site.agent.disk, "--vault", site.vault, "--state", site.agent.state],
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 11 and "branch of epoch 1" in refused.stderr, "the old agent started again"

    call("failover", "detach", "--state", over.state, "--format", "qcow2", code=2)
    image = site.directory / "away.qcow2"
    assert call("failover", "detach", "--state", over.state, "--format", "qcow2", "--to", image).strip() == str(image)
    until("the end of the process", lambda: not is_running(over.process))
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", site.directory / "away.img", image)
    assert (site.directory / "away.img").read_bytes() == last
    assert "no agent is running" in call("failover", "detach", "--state", over.state, code=16)


def site_refuses(site: Site, *more: object, state: str = "elsewhere", disk: str = "elsewhere.img", code: int) -> str:
    """What a start that is wrong is told."""
    options = ["--state", site.directory / state, "--disk", site.directory / disk, *more]
    return call("failover", "start", site.vault, VOLUME, *options, "--detach", code=code)


def test_promise_4_a_failover_goes_on_after_it_was_killed_at_any_moment(site: Site) -> None:
    """Killed before it serves, while it copies, before the commit and after it: nothing that was flushed is lost."""
    options = ["--state", site.directory / "away", "--disk", site.directory / "away.img", "--at", "two"]
    command = [sys.executable, "-P", "-m", "hrl", "failover", "start", site.vault, VOLUME, *options]
    for seconds in (0.25, 0.45):
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
    expected = bytearray(site.seen["two"])
    for number, instant in enumerate(("at once", "later", "committed", "committed and later")):
        over = site.over("--at", "two")
        assert site.content(over) == expected, instant
        data = os.urandom(70_000)
        write_at = number * MIB + 4096
        site.write(over, write_at, data)
        expected[write_at : write_at + len(data)] = data
        if instant == "committed":
            call("failover", "commit", site.vault, VOLUME, "--state", over.state)
        if "later" in instant:
            over.wait_whole()
        over.kill()
    assert "no agent is running" in call("failover", "commit", site.vault, VOLUME, "--state", over.state, code=16)
    over = site.over("--at", "one")
    assert site.content(over) == expected, "a committed failover goes on, whatever point is named"
    over.wait_replicated()
    assert site.restored() == expected and site.stage() == "committed"
    call("failover", "detach", "--state", over.state)
    assert (site.directory / "away.img").read_bytes() == expected


def test_promise_3_a_change_of_the_point_that_is_killed_leaves_one_state_or_the_other(site: Site) -> None:
    for seconds in (0.02, 0.06, 0.12, 0.2):
        over = site.over("--at", "one", "--overwrite")
        site.write(over, 2 * MIB, b"dropped by the change")
        over.wait_whole()
        before = site.content(over)
        change = ["failover", "change-point", site.vault, VOLUME, "--state", over.state, "--at", "two"]
        command = [sys.executable, "-P", "-m", "hrl", *map(str, change)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asking:
            until("the change", partial(is_changing, over, asking))
            time.sleep(seconds)
            over.kill()
        over = site.over("--at", "one")
        assert site.content(over) in (before, site.seen["one"], site.seen["two"]), seconds
        call("failover", "cancel", site.vault, VOLUME, "--state", over.state)


def is_changing(over: Served, asking: subprocess.Popen[bytes]) -> bool:
    """The session that was asked to change ends, its control socket first, or the change is done."""
    return not (over.state / "control.sock").exists() or asking.poll() is not None


def test_a_cancelled_failover_whose_process_was_killed(site: Site) -> None:
    over = site.over("--at", "one")
    over.kill()
    assert site.stage() == "failed-over"
    call("failover", "cancel", site.vault, VOLUME, "--state", over.state)
    assert site.stage() == "protected"
    assert "exists" in site_refuses(site, state="away", disk="away.img", code=4)


def test_a_failover_whose_site_burned_down_is_abandoned(site: Site) -> None:
    assert "none is under way" in call("failover", "abandon", site.vault, VOLUME, code=3)
    over = site.over("--at", "one")
    over.kill()
    shutil.rmtree(over.state)
    assert "commit or cancel it first" in site_refuses(site, code=11)
    given_up = call_json("failover", "abandon", site.vault, VOLUME, "--json")
    assert given_up["step"] == "start" and site.stage() == "protected"
    elsewhere = site.over("--at", "one", site="third")
    assert site.content(elsewhere) == site.seen["one"]


def test_a_test_failover_changes_nothing_and_is_cleaned_up(site: Site) -> None:
    options = ["failover", "test", site.vault, VOLUME, "--name", "drill", "--at", "one"]
    test = site.serve(*options, state="drill")
    assert test.ready["test"] == "drill" and site.content(test) == site.seen["one"]
    site.write(test, 0, b"only a test")
    assert site.content(test)[:11] == b"only a test"
    assert [one["name"] for one in site.life()["tests"]] == ["drill"] and site.stage() == "protected"
    assert site.restored(at="one") == site.seen["one"]
    assert "drill" in call("failover", "cleanup", site.vault, VOLUME, "--name", "dril", "--state", site.directory, code=3)
    cleanup = ["failover", "cleanup", site.vault, VOLUME, "--name", "drill", "--state", test.state]
    call(*cleanup)
    until("the end of the process", lambda: not is_running(test.process))
    assert site.life()["tests"] == [] and not (test.state / "scratch").exists()
    assert "drill" in call(*cleanup, code=3)
    # One that was killed is cleaned up, too.
    test = site.serve(*options, state="drill")
    test.kill()
    call(*cleanup)
    assert site.life()["tests"] == []


def test_promise_4_the_way_home_is_as_long_as_what_differs(site: Site) -> None:
    home = ["--state", site.agent.state, "--disk", site.agent.disk]
    assert "in use" in call("reprotect", site.vault, VOLUME, *home, code=11)
    lost = os.urandom(5000)
    until("a clean dirty map", lambda: call_json("status", site.agent.state, "--json")["marked_regions"] == 0)
    site.write(site.agent, 7 * MIB, lost)
    site.agent.kill()
    assert "the agent of this directory owns the volume" in call("reprotect", site.vault, VOLUME, *home, code=2)
    over = site.over("--at", "two", "--commit")
    site.write(over, 12 * MIB, os.urandom(100_000))
    over.wait_replicated()
    told = call_json("reprotect", site.vault, VOLUME, *home, "--dry-run", "--json")
    assert 100_000 <= told["bytes_to_write"] < DISK_BYTES // 4
    followed = call_json("reprotect", site.vault, VOLUME, *home, "--json")
    assert followed["bytes_written"] == told["bytes_to_write"] and site.stage() == "reprotected"
    assert site.agent.disk.read_bytes() == site.content(over)
    site.write(over, 13 * MIB, os.urandom(5000))
    over.wait_replicated()
    assert call_json("reprotect", site.vault, VOLUME, *home, "--json")["bytes_written"] < 32_768

    site.write(over, 14 * MIB, os.urandom(5000))
    expected = site.content(over)
    back = site.serve("failback", site.vault, VOLUME, "--disk", site.agent.disk, state="home/state")
    assert back.ready["bytes_written"] < 64_000 and site.stage() == "protected"
    assert site.content(back) == expected, "planned: nothing is lost"
    site.write(back, 0, lost)
    back.wait_replicated()
    over.kill()

    # Away once more, and home without asking: what the other site did not ship is on its branch later.
    away = site.over("--commit", "--at", "newest", site="third")
    site.write(away, MIB, os.urandom(5000))
    away.wait_replicated()
    expected = site.content(away)
    back.kill()
    away.kill()
    back = site.serve("failback", site.vault, VOLUME, "--unplanned", "--disk", site.agent.disk, state="home/state")
    assert back.ready["bytes_written"] < MIB and site.content(back) == expected and expected[:5000] == lost
    listed = {branch["epoch"]: branch for branch in call_json("branch", "list", site.vault, VOLUME, "--json")}
    assert set(listed) >= {1, 4}
    back.wait_replicated()
    back.end()
    for again in ("failback", "reprotect"):
        told = call_json(again, site.vault, VOLUME, *home, "--json")
        assert told["home"] and told["next"].startswith("hrl protect "), "it was taken home before"
    # The agent itself goes on with the directory.
    assert site.agent.disk.read_bytes() == expected


def test_branches_are_restored_and_dropped(site: Site) -> None:
    site.agent.stop()
    over = site.over("--at", "one", "--commit")
    over.wait_replicated()
    over.end()
    (branch,) = call_json("branch", "list", site.vault, VOLUME, "--json")
    assert branch["last_sequence"] > branch["from_sequence"]
    assert site.restored(f"{VOLUME}@1") == site.seen["two"] and site.restored() == site.seen["one"]
    assert f"{VOLUME}@1" in call("branch", "list", site.vault, VOLUME)
    drop = ["branch", "drop", site.vault]
    assert "names no branch" in call(*drop, VOLUME, "--yes", code=2)
    assert "--yes" in call(*drop, f"{VOLUME}@1", code=2)
    call(*drop, f"{VOLUME}@7", "--yes", code=3)
    call(*drop, f"{VOLUME}@1", "--yes")
    assert call_json("branch", "list", site.vault, VOLUME, "--json") == []
    call("restore", site.vault, f"{VOLUME}@1", "--to", site.directory / "gone", code=3)
    assert site.restored() == site.seen["one"]


def test_a_planned_failover_waits_for_the_source_and_loses_nothing(site: Site) -> None:
    site.write(site.agent, 15 * MIB, b"last words")
    expected = site.content(site.agent)
    over = site.over("--planned")
    assert site.content(over) == expected
    assert call_json("status", site.agent.state, "--json")["handed_over"]
    call("failover", "cancel", site.vault, VOLUME, "--state", over.state)
    until("the source again", lambda: not call_json("status", site.agent.state, "--json")["handed_over"])
    site.write(site.agent, 15 * MIB, b"it goes on")
    site.agent.kill()
    words = site_refuses(site, "--planned", "--limit", 0.3, code=8)
    assert "did not hand over" in words and site.stage() == "protected"


def test_wrong_uses_have_errors_of_their_own(site: Site, start: Callable[..., Agent]) -> None:
    site.directory.joinpath("there").write_bytes(b"x" * DISK_BYTES)
    assert "exists" in site_refuses(site, disk="there", code=4)
    assert site.directory.joinpath("there").read_bytes() == b"x" * DISK_BYTES
    assert "nowhere" in site_refuses(site, "--at", "nowhere", code=3)
    assert "unknown" in call("failover", "start", site.vault, "unknown", "--state", "s", "--disk", "d", code=3)
    assert "another agent is running with it" in site_refuses(site, state="home/state", code=11)
    for name in ("commit", "detach", "change-point"):
        options = {"commit": [site.vault, VOLUME], "detach": [], "change-point": [site.vault, VOLUME, "--at", "one"]}
        call("failover", name, *options[name], "--state", site.directory / "nothing", code=3)
        call("failover", name, *options[name], "--state", site.directory, code=16)
    other = site.directory / "other"
    other.mkdir()
    second = start("--volume", "second", directory=other, vault=site.vault)
    second.stop()
    words = site_refuses(site, state="other/state", code=12)
    assert "belongs to another volume" in words
    assert "another volume" in call("reprotect", site.vault, VOLUME, "--state", second.state, "--disk", second.disk, code=12)
    assert "--yes" in call("migrate", site.vault, VOLUME, "--state", "s", "--disk", "d", code=2)
    over = site.over("--at", "one")
    assert "in use" in site_refuses(site, state="away", disk="away.img", code=11)
    assert "commit or cancel it first" in call("failover", "detach", "--state", over.state, code=2)
    assert "in use" in site_refuses(site, "--overwrite", disk="away.img", code=11)
    assert site.content(over) == site.seen["one"], "a disk in use is not taken away"
    over.kill()
    agent = ["protect", site.directory / "away.img", "--volume", VOLUME, "--vault", site.vault, "--state", over.state]
    command = [sys.executable, "-P", "-m", "hrl", *map(str, agent)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (refused.returncode, "failover" in refused.stderr) == (2, True), refused.stderr
    assert [path.name for path in site.directory.glob("elsewhere*")] == ["elsewhere"], "a refused start leaves no disk"
