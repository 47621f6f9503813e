"""The manual page of the command, hrl(1), from what the command says of itself: `make man`."""

from collections.abc import Iterator
from typing import Any

import typer

import hrl.cli  # noqa: F401  (it registers the commands)
from hrl.cli.base import CHECK_FAILED, EXIT_CODES, NOT_RUNNING, app


def page() -> str:
    """The page in the man macros of troff."""
    group: Any = typer.main.get_command(app)
    lines = ['.TH HRL 1 "" hrl "User Commands"', ".SH NAME", text(f"hrl - {summary(group.help)}"), ".SH SYNOPSIS"]
    lines += [".B hrl", r"\fICOMMAND\fR [\fIARGUMENT\fR...] [\fIOPTION\fR...]", ".SH COMMANDS"]
    lines += sections("", group)
    lines += [".SH EXIT STATUS", ".TP", "0", "done"]
    for kind, code in EXIT_CODES.items():
        lines += [".TP", str(code), text(kind.replace("-", " "))]
    lines += [".TP", str(NOT_RUNNING), "the agent is not running"]
    lines += [".TP", str(CHECK_FAILED), "a check failed"]
    return "\n".join(lines) + "\n"


def sections(before: str, group: Any) -> Iterator[str]:
    """The commands of a group, and those of the groups in it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from sections(f"{before}{name} ", command)
        else:
            yield from section(before + name, command)


def section(name: str, command: Any) -> Iterator[str]:
    """One command with its arguments and options."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    words = "".join(rf" \fI{text(metavar(argument))}\fR" for argument in arguments)
    yield rf".SS \fBhrl {name}\fR{words}"
    yield text(" ".join((command.help or "").split()))
    for parameter in command.params:
        if parameter in arguments:
            yield from (".TP", rf"\fI{text(metavar(parameter))}\fR")
        else:
            value = "" if parameter.is_flag else rf" \fI{text(metavar(parameter))}\fR"
            yield from (".TP", ", ".join(rf"\fB{text(option)}\fR" for option in parameter.opts) + value)
        yield text(parameter.help or "")


def metavar(parameter: Any) -> str:
    """What stands for the value."""
    return str(parameter.metavar or parameter.name.upper())


def summary(help: str | None) -> str:
    """The first sentence, as the name section wants it."""
    return (help or "").split(".")[0]


def text(words: str) -> str:
    """Escapes what troff would take for itself."""
    escaped = words.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    print(page(), end="")
