"""Policy files: TOML with the names of a policy as keys, and tables for events and scheduled checks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from hrl import HrlError
from hrl.cli.exits import Exit, Refused
from hrl.cli.times import seconds

TABLES = ("events", "verify")


def read_policy(path: Path | None) -> dict[str, str]:
    """Returns the values of a policy file as texts, without its tables."""
    content = read_toml(path)
    for table in TABLES:
        content.pop(table, None)
    content = {name: "\n".join(value) if is_lines(value) else value for name, value in content.items()}
    nested = [name for name, value in content.items() if isinstance(value, dict | list)]
    if nested:
        raise Refused(f"cannot read policy {path}: {nested[0]} is not a single value", Exit.INVALID_INPUT)
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in content.items()}


def read_table(path: Path | None, name: str) -> dict[str, Any] | None:
    """Returns a table of a policy file; `None` if it has none of that name."""
    found = read_toml(path).get(name)
    if found is not None and not isinstance(found, dict):
        raise Refused(f"cannot read policy {path}: {name} is not a table", Exit.INVALID_INPUT)
    return found


def read_events(path: Path | None) -> dict[str, Any]:
    """Returns the table `[events]` of a policy file."""
    return read_table(path, "events") or {}


def read_toml(path: Path | None) -> dict[str, Any]:
    """Returns the content of a policy file; nothing without a file."""
    if path is None:
        return {}
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Refused(f"cannot read policy {path}: there is no such file", Exit.NOT_FOUND) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"cannot read policy {path}: {error}", Exit.INVALID_INPUT) from None


@contextmanager
def policy_of(path: Path | None) -> Iterator[None]:
    """Names the file in an error about a value of the policy."""
    try:
        yield
    except HrlError as error:
        if path is None or error.kind != "invalid-input" or not error.operation.endswith("policy"):
            raise
        raise Refused(f"{path}: {error}", Exit.INVALID_INPUT) from error


def seconds_of(policy: Mapping[str, str], name: str, default: float) -> float:
    """Returns a time of a policy in seconds, whichever way it was written."""
    for key in (name, f"{name}_ms"):
        if key in policy:
            value = policy[key]
            try:
                return float(value) / 1000 if value.strip().isdecimal() else seconds(value)
            except ValueError:
                return default
    return default


def is_lines(value: object) -> TypeGuard[list[str]]:
    """Reports whether a value is a list of texts, which a policy takes as lines."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
