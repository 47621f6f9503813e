"""Where events go: rotation, limits of commands and queues, mail by a real server, and that nothing blocks the agent."""

import doctest
import json
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email import message_from_string
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from conftest import Agent, hrl

import hrl as package
from hrl import events
from hrl.cli.event_options import open_sinks
from hrl.cli.exits import Refused
from hrl.events import DROPPED, Event, EventCommand, EventFile, EventMail
from hrl.events.mail import host_and_port

FAST = {"gather": 0.2, "retry": (0.1, 0.2)}


def event(kind: str = "rpo-exceeded", message: str = "16 min", **more: str) -> Event:
    return {"time": "2026-11-21T09:30:00.000Z", "volume": "disk", "kind": kind, "message": message, **more}


def until(true: Callable[[], object], limit: float = 30) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Mailbox:
    """What a mail server took."""

    def __init__(self, answer: str = "250 OK") -> None:
        self.mails: list[Any] = []
        self.bodies: list[str] = []
        self.answer = answer

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        if self.answer.startswith("250"):
            self.mails.append(envelope)
            self.bodies.append(envelope.content.decode())
        return self.answer


@pytest.fixture
def serve() -> Iterator[Callable[..., Controller]]:
    """Starts mail servers on a free port."""
    running: list[Controller] = []

    def start(handler: object, port: int = 0, **options: Any) -> Controller:
        # aiosmtpd connects to the port that it was given to see whether it serves, so it must be a number of one.
        controller = Controller(handler, hostname="127.0.0.1", port=port or free_port(), **options)
        controller.start()
        running.append(controller)
        return controller

    yield start
    for controller in running:
        controller.stop(no_assert=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def mail_by(controller: Controller, **options: Any) -> EventMail:
    chosen = {**FAST, **options}
    return EventMail(["ops@example.net"], smtp=f"127.0.0.1:{controller.port}", sender="hrl@example.net", **chosen)


def test_the_example_of_the_module_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(events) == (0, 3)


def test_closing_does_not_wait_for_a_sink_that_hangs(tmp_path: Path) -> None:
    problems: list[str] = []
    sink = EventCommand("sleep 5", at_once=1, on_problem=problems.append)
    for _ in range(3):
        sink(event())
    until(lambda: len(sink._queue) == 2)
    begin = time.monotonic()
    sink.close(0.2)
    assert time.monotonic() - begin < 2
    assert problems == ["events command: 2 events not delivered when it was closed; still under way: 1 delivery"]
    sink(event())
    assert sink.dropped == 3, "what was left, and what comes after"


def test_a_file_of_events_is_rotated_and_loses_the_oldest_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventFile(path, bytes_max=1000, files_max=3) as sink:
        for number in range(100):
            sink(event(message=f"{number}\nüber"))
    files = [path.with_name("events.jsonl.2"), path.with_name("events.jsonl.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 1000 for file in files)
    told = [json.loads(line)["message"] for file in files for line in file.read_text().splitlines()]
    assert told == [f"{number}\nüber" for number in range(100 - len(told), 100)]


def test_a_command_gets_the_event_and_its_text_is_never_run(tmp_path: Path) -> None:
    hostile = "$(touch pwned) `touch pwned`; touch pwned\0"
    command = f'cd {tmp_path}; cat > "$HRL_EVENT_KIND.json"; printf %s "$HRL_EVENT_MESSAGE" > message'
    with EventCommand(command) as sink:
        sink(event(message=hostile))
    assert json.loads((tmp_path / "rpo-exceeded.json").read_text()) == event(message=hostile)
    assert (tmp_path / "message").read_text() == hostile.replace("\0", "\ufffd")
    assert not (tmp_path / "pwned").exists()


def test_a_command_that_hangs_is_killed_and_blocks_nobody(tmp_path: Path) -> None:
    problems: list[str] = []
    command = f"echo $$ >> {tmp_path}/started; sleep 1000 & sleep 1000"
    sink = EventCommand(command, limit=0.5, at_once=2, queue_events_max=3, on_problem=problems.append)
    begin = time.monotonic()
    for _ in range(50):
        sink(event())
    assert time.monotonic() - begin < 0.3, "the agent does not wait"
    assert sink.dropped >= 45
    time.sleep(0.3)
    assert len((tmp_path / "started").read_text().splitlines()) <= 2, "at most two at once"
    sink.close(20)
    assert any("longer than 0.5 s" in problem for problem in problems)
    for process in (tmp_path / "started").read_text().split():
        assert not Path(f"/proc/{process}").exists()


def test_events_that_do_not_fit_the_queue_are_counted(tmp_path: Path) -> None:
    command = f"sleep 0.2; cat >> {tmp_path}/told"
    with EventCommand(command, at_once=1, queue_events_max=2) as sink:
        for _ in range(10):
            sink(event())
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    missed = [int(one["message"].split()[0]) for one in told if one["kind"] == DROPPED]
    assert sum(missed) == sink.dropped > 0
    assert sum(one["kind"] != DROPPED for one in told) + sum(missed) == 10


def test_events_of_a_moment_are_one_mail(serve: Callable[..., Controller]) -> None:
    box = Mailbox()
    with mail_by(serve(box)) as sink:
        sink(event())
        sink(event("point-marked", "is nobody's business"))
        sink(event("mode-changed", "resync to ordered", mode="ordered"))
        sink(event("mode-changed", "ordered to dirty (spool-full)", mode="dirty"))
        sink(event("vault-unavailable", "gone\r\nBcc: all@example.net\r\n\r\nforged"))
        until(lambda: box.mails)
    assert len(box.mails) == 1 and box.mails[0].rcpt_tos == ["ops@example.net"]
    (body,) = box.bodies
    header, _, text = body.partition("\r\n\r\n")
    assert "Subject: [hrl] disk: 3 events: rpo-exceeded, mode-changed, vault-unavailable" in header
    assert "Bcc" not in header and "forged" in text
    assert "to dirty" in text and "to ordered" not in text and "nobody's" not in text


def test_a_subject_takes_no_lines_from_an_event(serve: Callable[..., Controller]) -> None:
    box = Mailbox()
    with mail_by(serve(box)) as sink:
        sink(event(message="x\r\nBcc: all@example.net"))
    assert "\r\nBcc" not in box.bodies[0].partition("\r\n\r\n")[0]


def test_a_dead_server_is_tried_again_and_gets_all_of_it(serve: Callable[..., Controller]) -> None:
    port, box, problems = free_port(), Mailbox(), list[str]()
    sink = EventMail(
        ["a@example.net"], smtp=f"127.0.0.1:{port}", sender="b@example.net", on_problem=problems.append,
        queue_events_max=5, gather=0.1, retry=(0.1, 0.2),
    )  # fmt: skip
    sink(event(message="first"))
    until(lambda: problems)
    begin = time.monotonic()
    for number in range(20_000):
        sink(event(message=f"later {number}"))
    assert time.monotonic() - begin < 5, "a dead server blocks nobody"
    serve(box, port)
    until(lambda: box.bodies and DROPPED in "".join(box.bodies))
    sink.close()
    text = "".join(box.bodies)
    assert "first" in text and "later 0" in text and "did not fit" in text
    assert sink.dropped > 0 and len(problems) == 1, "told once, not with every try"


def test_a_final_refusal_is_reported_and_does_not_stop_the_next_mail(serve: Callable[..., Controller]) -> None:
    box, problems = Mailbox("554 no such thing"), list[str]()
    with mail_by(serve(box), on_problem=problems.append) as sink:
        sink(event(message="refused"))
        until(lambda: problems)
        assert "554" in problems[0] and sink.dropped == 1
        box.answer = "451 later"
        sink(event(message="postponed"))
        until(lambda: len(problems) == 2)
        box.answer = "250 OK"
        until(lambda: box.bodies)
    assert "postponed" in box.bodies[0] and "refused" not in box.bodies[0]


def test_a_password_is_sent_over_tls_only(
    serve: Callable[..., Controller], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.create_authority(tmp_path / "pki", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key, root = certificates(tmp_path / "pki")
    context.load_cert_chain(certificate, key)
    seen: list[bytes] = []

    def check(server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        seen.append(data.password)
        return AuthResult(success=data.password == b"secret")

    box, problems = Mailbox(), list[str]()
    secure = serve(box, tls_context=context, authenticator=check, auth_required=True)
    login = {"user": "hrl", "password": "secret", "on_problem": problems.append}
    with mail_by(secure, **login) as sink:
        sink(event())
        until(lambda: problems)
    assert "certificate" in problems[0] and not seen, "an authority that nobody trusts"
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    with mail_by(secure, **login) as sink:
        sink(event())
        until(lambda: box.bodies)
    assert seen == [b"secret"]
    plain = serve(box, authenticator=check, auth_require_tls=False)
    with mail_by(plain, **login) as sink, pytest.raises(smtplib.SMTPNotSupportedError, match="no TLS"):
        sink.send([event()])
    assert seen == [b"secret"]


def certificates(pki: Path) -> tuple[Path, Path, Path]:
    """The server's certificate and key, and its authority's certificate."""
    return pki / "server.pem", pki / "server.key", pki / "authority.pem"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mail": "ops@example.net"}, "--smtp"),
        ({"smtp": "mail"}, "without somebody to mail to"),
        ({"mail": "nobody", "smtp": "mail", "mail_from": "a@b"}, "NAME@DOMAIN"),
        ({"mail": "a b@c", "smtp": "mail", "mail_from": "a@b"}, "NAME@DOMAIN"),
        ({"mail": "a@b", "smtp": "mail", "mail_from": "a@b\r\nBcc: c@d"}, "NAME@DOMAIN"),
        ({"mail": "a@b", "smtp": "mail:x", "mail_from": "a@b"}, "HOST:PORT"),
        ({"mail": "a@b", "smtp": "mail", "mail_from": "a@b", "smtp_password_env": "NOT_SET"}, "NOT_SET is not set"),
        ({"files": "x"}, "events.files is not known"),
        ({"file": 3}, "expected a text"),
        ({"command": " "}, "needs a command"),
        ({"file": "/nonexistent/x"}, "/nonexistent/x"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match="cannot send events: ") as refused, open_sinks(settings, {}, print):
        pass
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("mail", ("mail", 25)), ("mail:465", ("mail", 465)), ("[::1]:26", ("::1", 26)), ("::1", ("::1", 25))],
)
def test_mail_servers_are_named(text: str, expected: tuple[str, int]) -> None:
    assert host_and_port(text) == expected


def test_an_agent_mails_that_its_rpo_is_exceeded_and_met_again(
    start: Callable[..., Agent], serve: Callable[..., Controller], tmp_path: Path
) -> None:
    """Promise: whoever runs an agent learns that its vault is gone, and that all is well again, without looking."""
    box = Mailbox()
    mail = ["--events-mail", "ops@example.net", "--smtp", f"127.0.0.1:{serve(box).port}", "--mail-from", "hrl@example.net"]
    more = ["--events-mail-kinds", "rpo-exceeded,rpo-met", "--metrics", f"127.0.0.1:{free_port()}"]
    policy = 'rpo_threshold_ms = 1000\nretry_interval_max_ms = 200\n[events]\nfile = "FILE"\n'
    policy = policy.replace("FILE", str(tmp_path / "events.jsonl"))
    agent = start(*mail, *more, policy=policy)
    hrl("point", agent.state)
    volumes = tmp_path / "vault/volumes"
    volumes.rename(tmp_path / "away")
    volumes.write_text("in the way: root may write anywhere else")
    agent.write(4096, b"not replicated")
    until(lambda: len(box.bodies) == 1)
    volumes.unlink()
    (tmp_path / "away").rename(volumes)
    until(lambda: len(box.bodies) == 2)
    agent.stop()
    subjects = [message_from_string(body, policy=default)["Subject"] for body in box.bodies]
    assert "disk.img: rpo-exceeded" in subjects[0] and "disk.img: rpo-met" in subjects[1]
    told = [json.loads(line)["kind"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert told.count("rpo-exceeded") == told.count("rpo-met") == 1
    assert {"mode-changed", "vault-unavailable", "vault-available"} <= set(told)


def test_a_coordinator_reports_events_too(tmp_path: Path) -> None:
    hrl("enroll", tmp_path / "pki", "--host", "localhost")
    group, file = tmp_path / "group", tmp_path / "told.jsonl"
    create = ["group", "create", group, "--name", "orders", "--pki", tmp_path / "pki", "--listen", "127.0.0.1:0"]
    hrl(*create, "--interval", 0, "--any-member")
    with open(group / "group.toml", "a") as settings:
        settings.write(f'[events]\nfile = "{tmp_path / "other.jsonl"}"\n')
    command = [sys.executable, "-P", "-m", "hrl", "group", "run", str(group), "--events-file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            hrl("group", "point", group, code=8)
        finally:
            process.terminate()
    assert process.returncode == 0
    assert not (tmp_path / "other.jsonl").exists(), "an option goes before the setting"
    (told,) = map(json.loads, file.read_text().splitlines())
    assert (told["volume"], told["kind"]) == ("orders", "point-skipped") and "no members" in told["message"]
