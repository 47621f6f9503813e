"""Whole-path benchmarks against programs that do a part of the same: `make bench-peers`.

One file a question. A question is measured case by case, the contenders of a case in turns, round by round, so that
what the machine does meanwhile strikes all of them; ratios are taken within a round. Each figure is appended as a
line of JSON to `target/bench/peers.jsonl`, with commit, time and machine, so rounds may be measured at different
times. `render` makes tables and plots of what is there. Every result is compared with its source, and a result that
differs ends the run.

Servers are compared within one class of durability: those that put a write on the disk before they answer (`direct`),
and those that answer from the page cache (`cached`).
"""
