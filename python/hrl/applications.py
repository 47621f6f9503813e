"""Applications that the library quiesces itself, for `Protection(applications=…)` and `mark_quiesced`.

Each class stands for a specification: `FileSystemFreeze("/srv").spec` is `"fs:/srv"`. A call that takes one also takes the
text, or a list. List databases before their file systems; they are released in reverse.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote

SAFE = "/:=, @"


def _spec(kind: str, target: str | os.PathLike[str], **options: object) -> str:
    """Returns a specification without the options that are None."""
    given = [
        f"{name.replace('_', '-')}={quote(os.fspath(value) if isinstance(value, os.PathLike) else str(value), safe=SAFE)}"
        for name, value in options.items()
        if value is not None
    ]
    return f"{kind}:{quote(os.fspath(target), safe=SAFE)}" + ("?" + "&".join(given) if given else "")


@dataclass(frozen=True)
class FileSystemFreeze:
    """A mounted file system, which is frozen."""

    path: str | os.PathLike[str]

    @property
    def spec(self) -> str:
        """Specification as text."""
        return _spec("fs", self.path)


@dataclass(frozen=True, kw_only=True)
class Scripts:
    """Shell commands that run before and after, each for at most `limit` seconds."""

    pre: str | None = None
    post: str | None = None
    limit: float = 10.0

    @property
    def spec(self) -> str:
        """Specification as text."""
        return _spec("script", "", pre=self.pre, post=self.post, limit_ms=round(self.limit * 1000))


@dataclass(frozen=True)
class QemuGuestAgent:
    """A QEMU guest whose agent answers at a UNIX socket."""

    socket: str | os.PathLike[str]

    @property
    def spec(self) -> str:
        """Specification as text."""
        return _spec("qemu-ga", self.socket)


@dataclass(frozen=True)
class PostgreSql:
    """A PostgreSQL server, by libpq's connection text. `user` is the system user that runs `psql`."""

    connection: str = ""
    user: str | None = None
    client: str | None = None

    @property
    def spec(self) -> str:
        """Specification as text."""
        return _spec("postgresql", self.connection, user=self.user, client=self.client)


@dataclass(frozen=True, kw_only=True)
class MariaDb:
    """A MariaDB or MySQL server. `defaults_file` has user and password."""

    defaults_file: str | os.PathLike[str] | None = None
    socket: str | os.PathLike[str] | None = None
    host: str | None = None
    port: int | None = None
    login: str | None = None
    user: str | None = None
    client: str | None = None

    @property
    def spec(self) -> str:
        """Specification as text."""
        return _spec(
            "mariadb",
            "",
            defaults_file=self.defaults_file,
            socket=self.socket,
            host=self.host,
            port=self.port,
            login=self.login,
            user=self.user,
            client=self.client,
        )


@dataclass(frozen=True)
class Sqlite:
    """A SQLite database."""

    path: str | os.PathLike[str]
    user: str | None = None
    client: str | None = None

    @property
    def spec(self) -> str:
        """Specification as text."""
        return _spec("sqlite", self.path, user=self.user, client=self.client)


@dataclass(frozen=True)
class Redis:
    """A Redis server at `/SOCKET` or `HOST:PORT`."""

    address: str
    login: str | None = None
    password_file: str | os.PathLike[str] | None = None

    @property
    def spec(self) -> str:
        """Specification as text."""
        return _spec("redis", self.address, login=self.login, password_file=self.password_file)
