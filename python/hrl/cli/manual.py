"""The manual page hrl(1), made from the help of the commands and the exit codes: `make man`."""

from collections.abc import Iterator
from typing import Any

from hrl.cli.app import root
from hrl.cli.exits import Exit


def page() -> str:
    """Returns the page in the man macros of troff."""
    group = root()
    lines = ['.TH HRL 1 "" hrl "User Commands"', ".SH NAME", text(f"hrl - {summary(group.help)}"), ".SH SYNOPSIS"]
    lines += [".B hrl", r"\fICOMMAND\fR [\fIARGUMENT\fR...] [\fIOPTION\fR...]", ".SH COMMANDS"]
    lines += sections("", group)
    lines += [".SH DESCRIPTION", text(" ".join(group.help.split("\n\n", 1)[1].split()))]
    lines += [".SH EXIT STATUS"]
    for code in Exit:
        lines += [".TP", str(int(code)), text(f"{code.meaning}: {code.advice}" if code.advice else code.meaning)]
    return "\n".join(lines) + "\n"


def sections(before: str, group: Any) -> Iterator[str]:
    """Yields the lines about the commands of a group, and of the groups in it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from sections(f"{before}{name} ", command)
        else:
            yield from section(before + name, command)


def section(name: str, command: Any) -> Iterator[str]:
    """Yields the lines about one command, its arguments and its options."""
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
    """Returns what stands for the value."""
    return str(parameter.metavar or parameter.name.upper())


def summary(help: str | None) -> str:
    """Returns the first sentence, as the name section wants it."""
    return (help or "").split(".")[0]


def text(words: str) -> str:
    """Escapes what troff would take for itself."""
    escaped = words.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    print(page(), end="")
