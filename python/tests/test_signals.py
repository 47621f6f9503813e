"""Signals that end a command, at every moment of its waiting."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LIMIT, Agent

import hrl as package
from hrl.cli.signals import ENDING, Ending, ended_by_signals, heeded, raising


def test_a_signal_in_the_middle_of_waiting_never_waits_for_itself() -> None:
    """With `threading.Event` the handler took the event's lock from the thread that held it, once in some runs."""
    before = signal.getsignal(signal.SIGUSR1)
    try:
        for _ in range(2000):
            ended = ended_by_signals((signal.SIGUSR1,))
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start()
            while not ended.wait(0.0002):
                pass
            os.kill(os.getpid(), signal.SIGUSR1)
            assert ended.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_flag_is_set_often_cleared_and_waited_for() -> None:
    ended = Ending()
    assert not ended.wait(0.01)
    for _ in range(100_000):
        ended.set()
    assert ended.is_set() and ended.wait(0)
    ended.clear()
    assert not ended.is_set() and not ended.wait(0.01)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_an_agent_ends_cleanly_by_each_signal(start: Callable[..., Agent], number: signal.Signals) -> None:
    agent = start()
    agent.process.send_signal(number)
    assert agent.process.wait(LIMIT) == 0
    assert not (agent.state / "control.sock").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_servers_end_cleanly_by_each_signal(tmp_path: Path, number: signal.Signals) -> None:
    vault = package.Vault(tmp_path / "vault", create=True)
    with package.Protection(package.MemoryDevice(1 << 20), vault=vault, state=tmp_path / "s", volume="v") as protection:
        protection.wait_ordered()
        protection.wait_replicated()
    command = [sys.executable, "-P", "-m", "hrl", "serve", str(tmp_path / "vault"), "v", "--nbd", f"unix:{tmp_path}/n"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline()
        server.send_signal(number)
        assert server.wait(LIMIT) == 0
    command = [sys.executable, "-P", "-m", "hrl", "mirror", str(tmp_path / "vault"), str(tmp_path / "other"), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mirror:
        assert mirror.stdout is not None and mirror.stdout.readline()
        mirror.send_signal(number)
        assert mirror.wait(LIMIT) == 0


def test_a_hangup_that_nohup_switched_off_stays_off() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in heeded(ENDING) and signal.SIGTERM in heeded(ENDING)
        with raising():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in heeded(ENDING)


def test_signals_raise_in_a_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), raising():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)
    assert signal.getsignal(signal.SIGTERM) is before
