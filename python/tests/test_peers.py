"""The benchmarks against peers: what their tables and plots make of figures, and how a change set is laid over a disk."""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from peers import changes, render, writer
from peers.__main__ import QUESTIONS
from peers.question import Ratio
from peers.results import Figure, Round, load


def figure(contender: str, round: int, iops: float, *, commit: str = "abcdef0") -> Figure:
    """A figure of the first case of the writer's question."""
    metrics = {"iops": iops, "p99_us": 100.0}
    return Figure("writer", "depth 1", contender, round, metrics, commit, "2026-01-01T00:00:00Z", "machine", "setting")


def test_ratios_are_taken_within_a_round() -> None:
    pairs = [(100.0, 50.0), (10.0, 20.0), (40.0, 50.0)]
    figures = [figure(name, at, value) for at, pair in enumerate(pairs) for name, value in zip("ab", pair, strict=True)]
    found = render.Case("depth 1", figures).ratio(Ratio("b", "a", "iops"))
    assert found is not None
    assert (found.low, found.median, found.high) == (0.5, 1.25, 2.0)


def test_only_the_newest_commit_counts() -> None:
    figures = [figure("a", 1, 1.0, commit="0000000"), figure("a", 2, 5.0), figure("a", 3, 7.0)]
    found = render.Case("depth 1", figures).spread("a", "iops")
    assert found is not None
    assert (found.low, found.median, found.high) == (5.0, 6.0, 7.0)


def test_rounds_are_appended_and_begin_with_another_contender(tmp_path: Path) -> None:
    first = []
    for _ in range(3):
        round = Round("writer", "depth 1", "setting", tmp_path / "figures")
        first.append(next(round.in_turn({"a": 1, "b": 2, "c": 3}))[0])
        round.record("a", iops=1.0)
    assert sorted(first) == ["a", "b", "c"]
    assert [each.round for each in load(tmp_path / "figures")] == [1, 2, 3]


def test_ratios_name_contenders_and_metrics_that_exist() -> None:
    for question in QUESTIONS.values():
        metrics = {metric.name for metric in question.metrics}
        assert set(question.plots) <= metrics
        assert {ratio.metric for ratio in question.ratios} <= metrics
    named = {name for ratio in writer.QUESTION.ratios for name in (ratio.contender, ratio.base)}
    assert named <= set(writer.SERVERS)


def test_plots_are_well_formed_and_show_the_medians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "PLOTS", tmp_path)
    case = render.Case("depth 1", [figure(name, 1, 12_345.0) for name in ("direct: hrl on", "direct: hrl off")])
    render.plots(writer.QUESTION, [case])
    written = ElementTree.parse(tmp_path / "writer-iops.svg")
    texts = [each.text for each in written.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("12,345") == 2
    assert "direct: hrl on / hrl off" in (tmp_path / "writer-ratios.svg").read_text()
    assert "| direct: hrl on | 12,345 (12,345 to 12,345) |" in render.tables(writer.QUESTION, [case])


def test_a_change_set_is_laid_over_a_disk(tmp_path: Path) -> None:
    base, found = tmp_path / "base", tmp_path / "changes"
    base.write_bytes(b"a" * 65_536)
    with found.open("wb") as file:
        os.truncate(file.fileno(), 65_536)
        file.seek(16_384)
        file.write(b"b" * 4096)
        file.seek(61_440)
        file.write(b"c" * 4096)
    laid = changes.laid_over(found, base, tmp_path).read_bytes()
    assert laid == b"a" * 16_384 + b"b" * 4096 + b"a" * 40_960 + b"c" * 4096
