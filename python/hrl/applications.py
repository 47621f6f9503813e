"""Applications that the library quiesces itself, for `Protection(applications=…)` and `mark_quiesced`.

Each is a specification in the form of a class: `FileSystemFreeze("/srv").spec` is `"fs:/srv"`, and wherever one is taken
the text is taken too. A list composes: databases before their file systems, released in reverse.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote

SAFE = "/:=, @"


def _spec(kind: str, target: str | os.PathLike[str], **options: object) -> str:
    """A specification; options that are None are left out."""
    given = [
        f"{name.replace('_', '-')}={quote(os.fspath(value) if isinstance(value, os.PathLike) else str(value), safe=SAFE)}"
        for name, value in options.items()
        if value is not None
    ]
    return f"{kind}:{quote(os.fspath(target), safe=SAFE)}" + ("?" + "&".join(given) if given else "")


@dataclass(frozen=True)
class FileSystemFreeze:
    """A mounted file system, frozen."""

    path: str | os.PathLike[str]

    @property
    def spec(self) -> str:
        return _spec("fs", self.path)


@dataclass(frozen=True, kw_only=True)
class Scripts:
    """Commands run by the shell before and after, each for at most `limit` seconds."""

    pre: str | None = None
    post: str | None = None
    limit: float = 10.0

    @property
    def spec(self) -> str:
        return _spec("script", "", pre=self.pre, post=self.post, limit_ms=round(self.limit * 1000))


@dataclass(frozen=True)
class QemuGuestAgent:
    """A guest whose agent answers at a UNIX socket."""

    socket: str | os.PathLike[str]

    @property
    def spec(self) -> str:
        return _spec("qemu-ga", self.socket)


@dataclass(frozen=True)
class PostgreSql:
    """A PostgreSQL server, by libpq's connection text; `user` is the user of the system to run `psql` as."""

    connection: str = ""
    user: str | None = None
    client: str | None = None

    @property
    def spec(self) -> str:
        return _spec("postgresql", self.connection, user=self.user, client=self.client)


@dataclass(frozen=True, kw_only=True)
class MariaDb:
    """A MariaDB or MySQL server; user and password stand in `defaults_file`."""

    defaults_file: str | os.PathLike[str] | None = None
    socket: str | os.PathLike[str] | None = None
    host: str | None = None
    port: int | None = None
    login: str | None = None
    user: str | None = None
    client: str | None = None

    @property
    def spec(self) -> str:
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
        return _spec("sqlite", self.path, user=self.user, client=self.client)


@dataclass(frozen=True)
class Redis:
    """A Redis server at `/SOCKET` or `HOST:PORT`."""

    address: str
    login: str | None = None
    password_file: str | os.PathLike[str] | None = None

    @property
    def spec(self) -> str:
        return _spec("redis", self.address, login=self.login, password_file=self.password_file)
