"""Events as mail to people.

Events within a few seconds go in one mail of plain text. The connection is secured by STARTTLS if the server offers it
(port 465: from the beginning), and the certificate is checked; a password is never sent in the clear. A server that does not
answer is tried again after pauses that double, and new events join the waiting mail. A mail that is refused for good (codes
500 and up) is reported and dropped, because it would block all later ones. No text of an event can add a header line.
"""

import smtplib
import ssl
from collections.abc import Collection, Sequence
from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

from hrl.events.kinds import DROPPED, MAIL_KINDS
from hrl.events.sink import Event, EventSink
from hrl.words import clean, count

GATHER_SECONDS = 3.0
MAIL_EVENTS_MAX = 200
SMTP_SECONDS_MAX = 30.0
RETRY_SECONDS = (5.0, 300.0)
"""The first pause before another try, and the longest."""
SUBJECT_CHARACTERS_MAX = 120
IMPLICIT_TLS_PORT = 465


class EventMail(EventSink):
    """Mails events of some `kinds` (`all` is every kind) from `sender` to `to`, by the server `smtp`, `HOST[:PORT]` (25).

    With a `password` it logs in as `user`, by default the sender. Events within `gather` seconds go together. `retry` is the
    first pause before another try, and the longest, in seconds. Raises `ValueError` for an address that is none.
    """

    def __init__(
        self,
        to: Sequence[str],
        *,
        smtp: str,
        sender: str,
        user: str | None = None,
        password: str | None = None,
        kinds: Collection[str] = MAIL_KINDS,
        gather: float = GATHER_SECONDS,
        retry: tuple[float, float] = RETRY_SECONDS,
        **options: Any,
    ) -> None:
        self._host, self._port = host_and_port(smtp)
        # Checked now, and not at the first alarm.
        for address in (*to, sender):
            check_address(address)
        if not to:
            raise ValueError("cannot mail events: there is nobody to mail them to")
        self._to, self._sender = list(to), sender
        self._login = (user or sender, password) if password is not None else None
        self._kinds = frozenset(kinds)
        self._gather = gather
        self._retry = retry
        super().__init__(f"events mail by {self._host}", **options)

    def wants(self, event: Event) -> bool:
        """Reports whether events of this kind are mailed."""
        kind = event["kind"]
        return bool(self._kinds & {"all", kind, f"{kind}:{event.get('mode', '')}"})

    def deliver(self, event: Event) -> None:
        """Mails one event now, without a second try."""
        self.send([event])

    def send(self, events: Sequence[Event]) -> None:
        """Mails events now, as one mail. Raises `smtplib.SMTPException` or another `OSError` if it is not accepted."""
        context = ssl.create_default_context()
        if self._port == IMPLICIT_TLS_PORT:
            server: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, timeout=SMTP_SECONDS_MAX, context=context)
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=SMTP_SECONDS_MAX)
        try:
            server.ehlo_or_helo_if_needed()
            if self._port != IMPLICIT_TLS_PORT and server.has_extn("starttls"):
                server.starttls(context=context)
            if self._login:
                if not isinstance(server.sock, ssl.SSLSocket):
                    raise smtplib.SMTPNotSupportedError("the server offers no TLS, and the password is not sent without")
                server.login(*self._login)
            refused = server.send_message(self.message(events), self._sender, self._to)
            # Some received it, so it is not sent again.
            for address, (code, answer) in refused.items():
                self._problem(f"{self.name}: {address} is refused: {code} {answer.decode(errors='replace')}")
            # The mail is accepted: an error while parting must not send it twice.
            with suppress(OSError):
                server.quit()
        finally:
            server.close()

    def message(self, events: Sequence[Event]) -> EmailMessage:
        """Returns the mail about some events."""
        mail = EmailMessage()
        mail["From"] = self._sender
        mail["To"] = ", ".join(self._to)
        mail["Date"] = formatdate()
        mail["Message-ID"] = make_msgid(domain=self._sender.rpartition("@")[2])
        mail["Auto-Submitted"] = "auto-generated"
        mail["Subject"] = subject(events)
        lines = [f"{e['time']} {clean(e['volume'])} {e['kind']}: {clean(e['message'])}" for e in events]
        mail.set_content("\n".join(lines) + "\n")
        return mail

    def _work(self) -> None:
        waiting: list[Event] = []
        pause, most = self._retry
        while waiting or (waiting := self._take(1)):
            self._closing.wait(self._gather)
            waiting += self._take(MAIL_EVENTS_MAX - len(waiting), wait=False)
            try:
                self.send(waiting)
            except (OSError, ValueError) as error:
                if is_final(error) or self._closing.is_set():
                    self._lose(len(waiting))
                    self._problem(f"{self.name}: {count(len(waiting), 'event')} not mailed: {error}")
                    waiting = []
                    continue
                if pause == self._retry[0]:
                    self._problem(f"{self.name}: {error}; it is tried again")
                self._closing.wait(pause)
                pause = min(pause * 2, most)
            else:
                waiting, pause = [], self._retry[0]


def check_address(text: str) -> None:
    """Raises `ValueError` unless a text is an address."""
    try:
        sound = bool(Address(addr_spec=text).domain)
    except (MessageError, IndexError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"cannot mail to or from {text!r}: expected NAME@DOMAIN")


def host_and_port(text: str) -> tuple[str, int]:
    """Reads `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`. The default is port 25."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, "25"
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"cannot mail by {text!r}: expected HOST or HOST:PORT")
    return host, int(port)


def is_final(error: Exception) -> bool:
    """Reports whether another try would have the same answer."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code >= 500
    return isinstance(error, smtplib.SMTPNotSupportedError | ValueError)


def subject(events: Sequence[Event]) -> str:
    """Returns one event in full; of several the kinds and the volumes."""
    shown = [event for event in events if event["kind"] != DROPPED] or list(events)
    first = shown[0]
    if len(shown) == 1:
        words = f"{first['volume']}: {first['kind']}: {first['message']}"
    else:
        kinds = ", ".join(dict.fromkeys(event["kind"] for event in shown))
        volumes = list(dict.fromkeys(event["volume"] for event in shown))
        where = volumes[0] if len(volumes) == 1 else f"{len(volumes)} volumes"
        words = f"{where}: {len(shown)} events: {kinds}"
    return clean(f"[hrl] {words}")[:SUBJECT_CHARACTERS_MAX]
