"""`hrl inspect` and `hrl convert`: native segments to Hyper-V Replica logs and back."""

from collections.abc import Callable
from pathlib import Path

from conftest import Agent, hrl, hrl_json


def test_journals_are_inspected_and_converted(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start()
    while hrl_json("status", agent.state)["mode"] != "ordered":
        pass
    hrl("point", agent.state, "--label", "empty")
    agent.write(4096, b"\x03" * 8192)
    hrl("point", agent.state, "--label", "full")
    agent.stop()
    segments = sorted((Path(agent.vault) / "volumes/disk.img/segments").glob("*.hrl"))
    listed = [hrl_json("inspect", segment, "--records") for segment in segments]
    assert listed[-1]["marks"][-1][3] == "full"
    assert {record["kind"] for found in listed for record in found["records_list"]} >= {"write", "mark"}
    told = hrl("convert", *segments, tmp_path / "chain", "--to", "ms-hrl")
    assert "marks became ends of logs" in told
    logs = sorted((tmp_path / "chain").iterdir())
    assert hrl_json("inspect", logs[0])["kind"] == "ms-hrl"
    hrl("convert", tmp_path / "chain", tmp_path / "back.hrl", "--to", "native")
    assert "write 4096 8192" in hrl("inspect", tmp_path / "back.hrl", "--records")
    assert "exists" in hrl("convert", tmp_path / "chain", tmp_path / "back.hrl", "--to", "native", code=4)
    hrl("convert", *segments, tmp_path / "kernel.log", "--to", "log-writes")
    hrl("convert", tmp_path / "kernel.log", tmp_path / "again.hrl", "--to", "native")
    again = hrl("inspect", tmp_path / "again.hrl", "--records")
    assert "write 4096 8192" in again and again.count(" mark ") == 2
    hrl("convert", tmp_path / "chain", tmp_path / "out", "--to", "vhdx", code=2)
    (tmp_path / "damaged.hrl").write_bytes(segments[-1].read_bytes()[:-5])
    hrl("inspect", tmp_path / "damaged.hrl", code=5)
