"""Churn and capacity plans through the package and the command; pictures. How near plans come: core/tests/planner.rs."""

import builtins
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from conftest import DISK_BYTES, hrl, hrl_json

import hrl as package
from hrl import plot

BLOCK = 4096
POLICY = {"segment_interval_ms": "50", "crash_point_interval_ms": "0", "region_bytes": "65536", "retention": "none"}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with a volume of which 40 blocks were written, 20 of them twice."""
    directory = tmp_path_factory.mktemp("sizing")
    disk = package.MemoryDevice(DISK_BYTES)
    opened = package.Vault(str(directory / "vault"), create=True)
    data = random.Random(1).randbytes(BLOCK)
    with package.Protection(disk, vault=opened, state=directory / "state", volume="v", policy=POLICY) as protection:
        protection.wait_ordered()
        for number in range(60):
            protection.write(number % 40 * BLOCK, data)
        protection.mark("end")
        protection.wait_replicated()
    return directory / "vault"


def test_churn_counts_what_was_written(vault: Path) -> None:
    found = hrl_json("churn", vault, "--bucket", "1h")["v"]
    assert (found["total"]["records"], found["total"]["written_bytes"]) == (60, 60 * BLOCK)
    assert found["total"]["unique_bytes"] in (40 * BLOCK, 60 * BLOCK), "one hour, or two of them"
    assert found["total"]["stored_bytes"] > 0 and found["segments_folded"] == 0
    assert sum(bucket["written_bytes"] for bucket in found["buckets"]) == 60 * BLOCK
    files = sorted((vault / "volumes/v/segments").iterdir())
    of_files = hrl_json("churn", *files, "--bucket", "1h")["journals"]
    assert of_files == found
    text = hrl("churn", vault, "v", "--bucket", "5m")
    assert "240.0 KiB" in text and "written per day" in text
    none = hrl_json("churn", vault, "--to", "2001-01-01T00:00:00Z")["v"]
    assert none["buckets"] == [] and none["top"] is None
    assert "cannot read '5y'" in hrl("churn", vault, "--bucket", "5y", code=2)
    assert "churn" in hrl("churn", vault, "--bucket", "0s", code=2)


def test_a_plan_answers_what_a_link_must_carry(vault: Path, tmp_path: Path) -> None:
    common = ("plan-capacity", vault, "--days", "1", "--rpo-target", "5s")
    found = hrl_json(*common, "--price-put", "0.005", "--price-gb", "0.02")
    volume = found["volumes"][0]
    assert (volume["name"], volume["written_bytes"], volume["unique_bytes"]) == ("v", 60 * BLOCK, 40 * BLOCK)
    assert 0 <= volume["rpo_median_seconds"] <= volume["rpo_p99_seconds"] <= volume["rpo_max_seconds"] < 5
    assert found["link_use"] is None and found["is_sustainable"] and len(found["days"]) == 1
    assert found["month"]["requests"] > 0 and found["month"]["bytes"] > 0
    assert sum(sample["sealed_bytes"] for sample in found["samples"]) == volume["shipped_bytes"]
    # Only just fast enough, as it says itself.
    least = found["least_bytes_per_second"]
    tight = hrl_json(*common, "--bandwidth", least, "--plot", tmp_path / "plan.svg")
    assert 2 < tight["volumes"][0]["rpo_p99_seconds"] <= 5
    assert ElementTree.parse(tmp_path / "plan.svg").getroot().tag.endswith("svg")
    text = hrl(*common, "--bandwidth", "1K")
    assert "too slow: the backlog grows" in text and "a link of" in text and "requests a day" in text
    small = tmp_path / "policy.toml"
    small.write_text('spool_bytes_max = 1048576\nbandwidth = "1G"\nretention = "none"\n')
    assert package.plan_capacity([package.Vault(str(vault)).replica("v")], days=1)["steady_bytes"] is None
    assert "still growing" in hrl("plan-capacity", vault, "--days", "1", "--policy", small)
    assert "cannot read --bandwidth 10X" in hrl("plan-capacity", vault, "--bandwidth", "10X", code=2)
    assert "expected journals of ordered writes" in hrl("plan-capacity", vault, "--to", "2001-01-01T00:00:00Z", code=3)


def test_pictures_are_whole_and_equal_each_time(vault: Path, tmp_path: Path) -> None:
    hrl("churn", vault, "--plot", tmp_path / "churn.svg")
    assert ElementTree.parse(tmp_path / "churn.svg").getroot().tag.endswith("svg")
    found = package.Vault(str(vault)).replica("v").churn()
    for name in ("a.png", "b.png"):
        plot.churn(found, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "expected a name that ends with" in hrl("churn", vault, "--plot", tmp_path / "churn.gif", code=7)


def test_without_matplotlib_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(plot.PlotError, match=r"pip install 'hrl\[plot\]'"):
        plot.churn({}, tmp_path / "churn.png")
