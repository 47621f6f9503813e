"""Application-consistent points from Python and the command line, with the watchdog that the package brings."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Agent, hrl, hrl_json, need

import hrl as package
from hrl.cli.times import seconds

MIB = 1 << 20


def protect(directory: Path, **options: object) -> package.Protection:
    vault = package.Vault(directory / "vault", create=True)
    disk = package.MemoryDevice(4 * MIB)
    policy = {"crash_point_interval_ms": 0}
    protection = package.Protection(
        disk,
        vault=vault,
        state=directory / "state",
        volume="v",
        policy=policy,
        **options,  # type: ignore[arg-type]
    )
    protection.wait_ordered()
    return protection


class Noting:
    """An application of the embedder's, which writes down what it is asked."""

    def __init__(self, log: Path, name: str = "mine") -> None:
        self.log, self.name = log, name

    def note(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{text} {self.name}\n")

    def quiesce(self, _limit: float) -> None:
        self.note("quiesce")

    def release(self) -> None:
        self.note("release")


def test_a_list_composes_and_is_released_in_reverse(tmp_path: Path) -> None:
    log = tmp_path / "log"
    scripts = package.Scripts(pre=f"echo pre 100% & >>{log} echo quiesce script", post=f"echo release script >>{log}")
    with protect(tmp_path) as protection:
        point = protection.mark_quiesced([Noting(log, "first"), scripts, Noting(log, "last")], "all")
        assert (point.kind, point.label) == ("app", "all")
        order = ["quiesce first", "quiesce script", "quiesce last", "release last", "release script", "release first"]
        assert log.read_text().splitlines() == order
        with pytest.raises(package.HrlError, match="fs, script, qemu-ga"):
            protection.mark_quiesced("vss:C")
        with pytest.raises(package.HrlError, match="expected 1 to 64"):
            protection.mark_quiesced([])
        with pytest.raises(TypeError):
            protection.mark_quiesced(object())  # type: ignore[arg-type]


def test_a_failure_gives_no_point_and_an_event(tmp_path: Path) -> None:
    events: list[dict[str, str]] = []
    failing = package.Scripts(pre="echo no space >&2; exit 3")
    with protect(tmp_path, applications=failing, on_event=events.append) as protection:
        with pytest.raises(package.UnavailableError, match="no space"):
            protection.mark_app("never")
        assert any(event["kind"] == "point-skipped" and "no space" in event["message"] for event in events)
        protection.wait_replicated()
    replica = package.Vault(tmp_path / "vault").replica("v")
    assert [point.kind for point in replica.points()] == []


def test_a_database_is_locked_while_it_is_marked(tmp_path: Path) -> None:
    need("sqlite3")
    database = tmp_path / "a db.sqlite"
    subprocess.run(["sqlite3", database, "CREATE TABLE t (x)"], check=True)
    seen: list[int] = []

    class Looks(Noting):
        def quiesce(self, _limit: float) -> None:
            seen.append(subprocess.run(["sqlite3", database, "INSERT INTO t VALUES (1)"], capture_output=True).returncode)

    with protect(tmp_path, applications=[package.Sqlite(database), Looks(tmp_path / "log")]) as protection:
        assert protection.mark_app().kind == "app"
        assert seen == [5]
        subprocess.run(["sqlite3", database, "INSERT INTO t VALUES (1)"], check=True)


def test_specifications_are_written_so_that_they_are_read_back() -> None:
    assert package.FileSystemFreeze("/srv/a?b").spec == "fs:/srv/a%3Fb"
    assert package.Scripts(post="a & b", limit=0.5).spec == "script:?post=a %26 b&limit-ms=500"
    assert package.PostgreSql("host=/tmp dbname=x", user="postgres").spec == "postgresql:host=/tmp dbname=x?user=postgres"
    assert package.MariaDb(defaults_file=Path("/etc/x.cnf"), port=3307).spec == "mariadb:?defaults-file=/etc/x.cnf&port=3307"
    assert package.Redis("127.0.0.1:6379").spec == "redis:127.0.0.1:6379"
    assert package.QemuGuestAgent("/run/q").spec == "qemu-ga:/run/q"


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("500ms", 0.5), ("15m", 900), ("2h", 7200), ("1d", 86_400)])
def test_durations_have_units(text: str, expected: float) -> None:
    assert seconds(text) == expected


def test_the_command_marks_on_demand_and_by_the_clock(start: Callable[..., Agent], tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f"script:?pre=echo $HRL_PHASE $HRL_VOLUME >>{log}&post=echo $HRL_PHASE >>{log}"
    agent = start("--quiesce", script, "--app-point-interval", "1h")
    # The first is marked as soon as the volume is in order.
    for _ in range(200):
        if log.exists() and len(log.read_text().splitlines()) == 2:
            break
        time.sleep(0.05)
    point = hrl_json("point", agent.state, "--app", "--label", "asked")
    assert (point["kind"], point["label"]) == ("app", "asked")
    agent.stop()
    assert log.read_text().splitlines() == ["pre disk.img", "post"] * 2
    assert [p["kind"] for p in hrl_json("points", agent.vault)] == ["app", "app"]


def test_without_applications_there_is_no_such_point(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start()
    assert "expected applications to quiesce" in hrl("point", agent.state, "--app", code=2)
    agent.stop()
    bad = ["protect", tmp_path / "disk.img", "--vault", tmp_path / "vault", "--state", tmp_path / "state"]
    assert "expected a duration" in hrl(*bad, "--app-point-interval", "often", code=2)
    assert "no-such-kind" in hrl(*bad, "--quiesce", "no-such-kind:", code=2)


def test_promise_8_a_killed_agent_leaves_nothing_quiesced(start: Callable[..., Agent], tmp_path: Path) -> None:
    log = tmp_path / "log"
    agent = start("--quiesce", f"script:?pre=echo pre >>{log}; sleep 30&post=echo post >>{log}&limit-ms=60000")
    asking = threading.Thread(target=lambda: hrl("point", agent.state, "--app", code=16))
    asking.start()
    for _ in range(200):
        if log.exists():
            break
        time.sleep(0.05)
    agent.kill()
    asking.join()
    for _ in range(300):
        if "post" in log.read_text():
            break
        time.sleep(0.05)
    assert log.read_text().splitlines() == ["pre", "post"]
    assert os.path.exists(agent.state)
