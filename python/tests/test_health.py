"""The health of vaults and agents: the rules, the exit codes of monitoring, the metrics."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import Agent, hrl, hrl_json

import hrl as package
from hrl import health
from hrl.cli.metrics import MetricsServer, page
from hrl.health import Limits, worst

SECOND = 1_000_000_000
STATS: dict[str, Any] = {
    "fenced": False, "mode": "ordered", "rpo_seconds": 0.0, "vault_available": True, "vault_away": False,
    "resync_bytes_left": 0, "backlog_bytes": 0,
}  # fmt: skip


def point(at: int, kind: str = "app", verdicts: tuple[bool, ...] = (), hold: bool = False) -> Any:
    checks = [SimpleNamespace(ok=ok, kind="application", text="", time=f"{at:09}") for ok in verdicts]
    return SimpleNamespace(
        time_ns=at * SECOND, time="2026-11-21T09:30:00Z", kind=kind, label="", verdicts=checks,
        pins=[SimpleNamespace(hold=True)] if hold else [],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("points", "gap", "last", "state"),
    [
        ([point(1000, verdicts=(True,))], None, 1000, "good"),
        ([point(1000, verdicts=(True,), hold=True)], None, 1000, "good"),
        ([point(1000, verdicts=(True,))], None, 930, "good"),
        ([point(1000, verdicts=(True,))], None, 929, "warn"),
        ([point(1000, verdicts=(True,))], None, 700, "warn"),
        ([point(1000, verdicts=(True,))], None, 600, "bad"),
        ([point(1000, verdicts=(True,))], "crash", 1000, "bad"),
        ([point(1000, verdicts=(False,))], None, 1000, "bad"),
        ([point(900, verdicts=(False,)), point(1000, verdicts=(True,))], None, 1000, "good"),
        ([point(900, verdicts=(True,)), point(1000, verdicts=(False,))], None, 1000, "bad"),
        ([point(1000)], None, 1000, "warn"),
        ([point(500, verdicts=(True,)), point(1000)], None, 1000, "warn"),
        ([point(1000, kind="crash", verdicts=(True,))], None, 1000, "warn"),
        ([point(700, verdicts=(True,))], None, 1000, "warn"),
        ([], None, 1000, "warn"),
        ([], None, None, "warn"),
    ],
)
def test_the_rules_for_a_catalog(points: list[Any], gap: str | None, last: int | None, state: str) -> None:
    limits = Limits(1030 * SECOND, rpo_threshold=100, app_within=200, verified_within=300)
    last_ns = None if last is None else last * SECOND
    assert worst(health.of_catalog(cast(Any, points), gap, last_ns, limits)) == state
    if not gap and last and state == "warn" and points:
        off = Limits(1030 * SECOND, rpo_threshold=0, app_within=0, verified_within=0)
        assert worst(health.of_catalog(cast(Any, points), gap, last_ns, off)) == "good", "zero switches rules off"


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "good"),
        ({"rpo_seconds": 101.0}, "warn"),
        ({"rpo_seconds": 401.0}, "bad"),
        ({"vault_available": False}, "warn"),
        ({"vault_available": False, "vault_away": True}, "warn"),
        ({"mode": "resync"}, "warn"),
        ({"mode": "dirty"}, "bad"),
        ({"fenced": True}, "bad"),
    ],
)
def test_the_rules_for_an_agent(change: dict[str, Any], state: str) -> None:
    assert worst(health.of_agent(STATS | change, 100)) == state


def test_the_health_of_a_vault_is_an_exit_code(tmp_path: Path) -> None:
    source = tmp_path / "vault"
    vault = package.Vault(source, create=True)
    assert check("health", source) == (1, "warning: there is no volume in the vault\n")
    for name in ("db", "web"):
        with package.Protection(package.MemoryDevice(1 << 20), vault=vault, state=tmp_path / name, volume=name) as agent:
            agent.wait_ordered()
            agent.mark("here")
            agent.wait_replicated()
    assert check("health", source) == (0, "db: ok\nweb: ok\n")
    missing = (1, "db: warning: there is no application-consistent point\n")
    assert check("health", source, "db", "--app-point-age", "1d") == missing
    policy = tmp_path / "policy.toml"
    policy.write_text("app_point_interval_ms = 3600000\n")
    assert check("health", source, "db", "--policy", policy) == missing, "the policy asks for such points"
    assert check("health", source, "db", "--verified-age", "7d")[0] == 1
    vault.replica("db").record_verdict("here", "application", False, "rows\nare missing")
    code, told = check("health", source)
    assert code == 2 and told.startswith("db: critical: the application check of “here”") and len(told.splitlines()) == 2
    for version in (source / "volumes/web/catalog").iterdir():
        version.write_bytes(version.read_bytes()[:40])
    code, told = check("health", source, "web", "--json")
    found = json.loads(told)
    assert code == 2 and found["state"] == "critical"
    assert found["volumes"][0]["reasons"][0]["text"].startswith("cannot be read")


@pytest.mark.parametrize(
    "arguments",
    [["nowhere"], ["--nonsense"], [], ["vault", "not-there"], ["vault", "--rpo", "soon"], ["s3://b", "--rpo", ""]],
)
def test_unknown_has_an_exit_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    package.Vault("vault", create=True)
    assert check("health", *arguments)[0] == 3


def test_an_agent_reports_its_health_and_metrics(start: Callable[..., Agent]) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    agent = start("--metrics", address)
    agent.write(0, b"x" * 4096)
    hrl("point", agent.state)
    assert check("health", agent.state) == (0, "disk.img: ok\n")
    with urllib.request.urlopen(f"http://{address}/healthz") as answer:
        assert answer.read() == b"disk.img: ok\n"
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        values = parsed(answer.read().decode())
    assert values['hrl_points_total{volume="disk.img"}'] == 1
    assert values['hrl_captured_bytes_total{volume="disk.img"}'] >= 4096
    assert values['hrl_mode{volume="disk.img",mode="ordered"}'] == 1
    assert values['hrl_events_total{volume="disk.img",kind="point-marked"}'] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{address}/secrets")
    assert hrl_json("status", agent.state)["rpo_threshold_seconds"] == 900
    agent.stop()
    code, told = check("health", agent.state)
    assert code == 2 and "critical: no agent is running" in told


def test_a_critical_agent_is_not_healthy_and_quiet_clients_are_not_waited_for() -> None:
    status = STATS | {"volume": 'a"\\\n', "rpo_threshold_seconds": 0.0, "mode": "dirty"}
    with MetricsServer("127.0.0.1:0", statuses=lambda: [status], events={}, dropped=dict) as server:
        host, _, port = server.address.rpartition(":")
        quiet = [socket.create_connection((host, int(port))) for _ in range(40)]
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            urllib.request.urlopen(f"http://{server.address}/healthz", timeout=5)
        assert refused.value.read().decode().count("\n") == 1
        for connection in quiet:
            connection.close()


def test_names_are_escaped_in_metrics(tmp_path: Path) -> None:
    with package.Protection(
        package.MemoryDevice(1 << 20), vault=package.Vault(tmp_path / "v", create=True), state=tmp_path / "s", volume="v"
    ) as agent:
        stats = agent.stats()
        status = {name: getattr(stats, name) for name in dir(stats) if not name.startswith("_")}
    status |= {"volume": 'a"\\\n', "size_bytes": 1 << 20, "rpo_threshold_seconds": 900.0}
    text = page([status, status | {"volume": "b"}], {("b", "point-skipped"): 2}, {'events file "x"': 3})
    assert all(line.startswith(("# HELP hrl_", "# TYPE hrl_", "hrl_")) for line in text.splitlines())
    assert 'hrl_volume_size_bytes{volume="a\\"\\\\\\n"} 1048576' in text
    assert 'hrl_events_total{volume="b",kind="point-skipped"} 2' in text
    assert text.count("# TYPE hrl_volume_size_bytes") == 1 and 'hrl_volume_size_bytes{volume="b"} 1048576' in text
    assert 'sink="events file \\"x\\""} 3' in text


def check(*arguments: object) -> tuple[int, str]:
    """Exit code and standard output of a command whose codes are those of monitoring."""
    command = [sys.executable, "-P", "-m", "hrl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def parsed(text: str) -> dict[str, float]:
    """Metrics by name and labels; each is explained before."""
    values: dict[str, float] = {}
    explained: set[str] = set()
    for line in text.splitlines():
        if line.startswith("#"):
            explained.add(line.split()[2])
            continue
        name, _, value = line.rpartition(" ")
        assert name.partition("{")[0] in explained
        values[name] = float(value)
    return values
