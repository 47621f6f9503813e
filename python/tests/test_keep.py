"""Deletes that can be taken back, through the package and the command."""

import json
import os
import time
from datetime import UTC, datetime
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
    """An encrypted volume with six points, in a vault with a deletion delay of 14 days."""
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    hrl("key", tmp_path / "key")
    package.Vault(str(tmp_path / "vault"), create=True)
    hrl("vault", "delay", tmp_path / "vault", "14d")
    vault = package.Vault(str(tmp_path / "vault"), key_file=tmp_path / "key")
    with package.Protection(disk, vault=vault, state=tmp_path / "state", volume="v", policy=POLICY) as protection:
        protection.wait_ordered()
        points = []
        for number in range(6):
            protection.write(number * BLOCK, bytes([number + 1]) * BLOCK)
            points.append(protection.mark(f"p{number}").id)
        protection.wait_replicated()
    return points


def listed(tmp_path: Path) -> list[str]:
    return [point["id"] for point in hrl_json("points", tmp_path / "vault", "--key-file", tmp_path / "key")]


def test_shreds_and_folds_come_back(tmp_path: Path, marked: list[str]) -> None:
    """Promise 13, from the command line."""
    vault, key = tmp_path / "vault", tmp_path / "key"
    assert listed(tmp_path) == marked
    time.sleep(0.01)
    since = datetime.now(UTC).isoformat()
    time.sleep(0.01)
    replica = package.Vault(str(vault), key_file=key).replica("v")
    replica.compact("0s all; grace 1s", fold_all=True, scratch=tmp_path / "scratch")
    assert len(listed(tmp_path)) < 3
    hrl("shred", vault, "v", "--yes", "--key-file", key)
    assert hrl_json("vault", "deleted", vault)["volumes"][0]["volume"] == "v"
    shown = hrl_json("vault", "undelete", vault, "--since", since, "--key-file", key)
    assert shown["dry_run"] and shown["volumes"][0]["was_shredded"] and len(shown["volumes"][0]["points"]) >= 4
    assert listed(tmp_path) == []
    assert "came back" in hrl("vault", "undelete", vault, "--since", since, "--yes", "--key-file", key)
    assert listed(tmp_path) == marked
    back = package.undelete(str(vault), since=since, key=package.Key.from_file(key))
    assert back[0].version is None and back[0].segments == 0
    log = hrl_json("audit", vault)
    deleted_by = {entry["client"].partition(" ")[2] for entry in log["entries"] if entry["verb"] == "delete"}
    assert {"(hrl shred)", "(hrl vault undelete)"} <= deleted_by and not log["findings"]


def test_maintenance_waits_for_the_delay(tmp_path: Path, marked: list[str]) -> None:
    vault, key = tmp_path / "vault", tmp_path / "key"
    package.Vault(str(vault), key_file=key).replica("v").compact("0s all; grace 1s", fold_all=True)
    time.sleep(1.1)
    done = hrl_json("maintain", vault, "--keep", "0s all; grace 1s", "--key-file", key)
    assert done["volumes"][0]["compaction"]["objects_deleted"] > 0 and done["purged"]["objects"] == 0
    found = package.deleted(str(vault))
    assert found[0].volume == "v" and found[0].objects > 0 and found[0].bytes > 0
    assert package.deletion_delay(str(vault)) == 14 * 86400
    package.set_deletion_delay(str(vault), 0)
    volumes, purged = package.Maintainer(str(vault)).run()
    assert purged.objects == 0 and volumes[0].failure is None, "a delay is not shortened"


def test_bad_requests_are_named(tmp_path: Path, marked: list[str]) -> None:
    assert "--since" in hrl("vault", "undelete", tmp_path / "vault", code=2)
    with pytest.raises(package.HrlError, match="through one of them"):
        package.deleted("gateway://localhost")
    with pytest.raises(package.HrlError, match="3660 days"):
        package.set_deletion_delay(str(tmp_path / "vault"), 1e9)


def test_a_mirror_reports_that_its_source_shrank(tmp_path: Path, marked: list[str]) -> None:
    """Promise 13: and has what the source lost."""
    vault, other, key, events = (tmp_path / name for name in ("vault", "other", "key", "events.jsonl"))
    hrl("mirror", vault, other, "--events-file", events)
    assert not events.exists() or not events.read_text()
    hrl("shred", vault, "v", "--yes", "--key-file", key)
    hrl("mirror", vault, other, "--events-file", events)
    assert [json.loads(line)["kind"] for line in events.read_text().splitlines()] == ["source-shrank"]
    assert [point["id"] for point in hrl_json("points", other, "--key-file", key)] == marked
