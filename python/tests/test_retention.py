"""Retention: pins, verdicts and compaction, through the package and the command."""

import os
import time
from pathlib import Path

import pytest
from conftest import DISK_BYTES, hrl, hrl_json

import hrl as package

BLOCK = 4096
POLICY = {
    "segment_interval_ms": "50",
    "crash_point_interval_ms": "0",
    "region_bytes": "65536",
    "retention": "none",
}


@pytest.fixture
def marked(tmp_path: Path) -> list[str]:
    """A vault with eight points, one block and its point after another."""
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    vault = package.Vault(str(tmp_path / "vault"), create=True)
    with package.Protection(disk, vault=vault, state=tmp_path / "state", volume="v", policy=POLICY) as protection:
        protection.wait_ordered()
        points = []
        for number in range(8):
            protection.write(number * BLOCK, bytes([number + 1]) * BLOCK)
            points.append(protection.mark(f"p{number}").id)
        protection.wait_replicated()
    return points


def blocks_at(replica: package.Replica, at: str) -> list[int]:
    with replica.view(at) as view:
        return [view.read(number * BLOCK, 1)[0] for number in range(8)]


def test_pinned_points_stay_unchanged(tmp_path: Path, marked: list[str]) -> None:
    """Promise 5, with everything else folded away."""
    replica = package.Vault(str(tmp_path / "vault")).replica("v")
    before = {point: blocks_at(replica, point) for point in marked}
    pin = replica.pin("p1", reason="audit")
    assert (pin.point, pin.until, pin.hold, pin.reason) == (marked[1], None, False, "audit")
    replica.pin(marked[3], hold=True)
    verdict = replica.record_verdict("p5", "file-system", True, "clean")
    assert verdict.ok and verdict.kind == "file-system"
    planned = replica.compact("0s all; grace 1s", dry_run=True, fold_all=True)
    assert planned["folds"] > 0 and len(replica.points()) == 8
    done = replica.compact("0s all; grace 1s", fold_all=True, scratch=tmp_path / "scratch")
    assert done["folds"] == planned["folds"] and not done["findings"]
    left = [point.id for point in replica.points()]
    assert {marked[1], marked[3], marked[5], marked[7]} <= set(left) < set(marked)
    assert all(blocks_at(replica, point) == before[point] for point in left)
    assert any(entry.folded for entry in replica.timeline())
    kept = {point.id: point for point in replica.points()}
    assert kept[marked[3]].pins[0].hold and kept[marked[5]].verdicts[0].text == "clean"
    with pytest.raises(package.NotFoundError, match="legal hold"):
        replica.unpin(marked[1], hold=True)
    replica.unpin(marked[1])
    replica.unpin(marked[3], hold=True)
    time.sleep(1.1)
    done = replica.compact("0s all; grace 1s", fold_all=True)
    assert done["objects_deleted"] > 0
    assert marked[1] not in [point.id for point in replica.points()]
    assert replica.verify()["sound"]


def test_bad_requests_are_named(tmp_path: Path, marked: list[str]) -> None:
    replica = package.Vault(str(tmp_path / "vault")).replica("v")
    with pytest.raises(package.HrlError, match="24h minutely"):
        replica.compact("2h all; 24h minutely")
    with pytest.raises(package.HrlError, match="without a time"):
        replica.pin(marked[0], until="2030-01-01T00:00:00Z", hold=True)
    with pytest.raises(package.HrlError, match="integrity, comparison"):
        replica.record_verdict(marked[0], "smell", True)  # type: ignore[arg-type]
    with pytest.raises(package.NotFoundError):
        replica.pin("nothing of this name")


def test_the_commands(tmp_path: Path, marked: list[str]) -> None:
    vault = tmp_path / "vault"
    pinned = hrl_json("pin", vault, "v", "p2", "--until", "30d", "--reason", "audit")
    assert pinned["point"] == marked[2] and pinned["until"] > "2026"
    assert "held" in hrl("pin", vault, "v", marked[4], "--legal-hold")
    hrl("pin", vault, "v", "p2", code=2)
    listed = {point["id"]: point for point in hrl_json("points", vault)}
    assert listed[marked[2]]["pins"][0]["reason"] == "audit"
    assert "legal hold" in hrl("points", vault)
    planned = hrl_json("compact", vault, "--keep", "0s all", "--all", "--dry-run")
    assert planned["dry_run"] and planned["volumes"]["v"]["folds"] > 0
    policy = tmp_path / "policy.toml"
    policy.write_text('retention = "0s all"\n')
    assert "points dropped" in hrl("compact", vault, "--policy", policy, "--all")
    left = [point["id"] for point in hrl_json("points", vault)]
    assert marked[2] in left and marked[4] in left and marked[1] not in left
    assert "folded" in hrl("timeline", vault)
    hrl("unpin", vault, "v", marked[4], code=3)
    hrl("unpin", vault, "v", marked[4], "--legal-hold")
    hrl("compact", vault, "--keep", "soon", code=2)
