"""How a command reads volumes: `--no-memory`, `--accept-rollback` and `--expect-at-least`.

A command has a parameter of the type `Reading` (or `ExpectingReading`, for the third option) and receives the options that
were given; `with_reading_options` turns that parameter into them. `memory` compares and remembers.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

if TYPE_CHECKING:
    from hrl import Key
    from hrl.cli.memory import Reader


class ReadingParameter:
    """Marks the parameter that becomes the options."""

    def __init__(self, *, expects: bool) -> None:
        self.expects = expects

    def options(self) -> dict[str, Any]:
        """Returns the type of each option."""
        no_memory = typer.Option("--no-memory", help="Do not compare with what was seen before, nor remember.")
        accept = typer.Option("--accept-rollback", help="Take a volume that went back as it is, and remember that.")
        expect = typer.Option(
            "--expect-at-least",
            metavar="POINT|VERSION|TIME",
            help="End with 21 unless the volume has this point, or catalog version (v12), or something as new as this time.",
        )
        found: dict[str, Any] = {"no_memory": Annotated[bool, no_memory], "accept_rollback": Annotated[bool, accept]}
        return found | ({"expect_at_least": Annotated[str | None, expect]} if self.expects else {})


@dataclass(frozen=True)
class ReadingOptions:
    """How a command reads volumes."""

    no_memory: bool = False
    accept_rollback: bool = False
    expect_at_least: str | None = None

    def open(self, url: str, key: "Key | None") -> "Reader":
        """Opens a vault to read volumes of it."""
        from hrl.cli.memory import Memory, Reader
        from hrl.cli.options import open_vault

        memory = None if self.no_memory else Memory(url)
        return Reader(open_vault(url, key), memory, self)


Reading = Annotated[ReadingOptions, ReadingParameter(expects=False)]
ExpectingReading = Annotated[ReadingOptions, ReadingParameter(expects=True)]
DEFAULT = ReadingOptions()


def with_reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the command with the options of its reading."""
    signature = inspect.signature(command)
    marked: dict[str, ReadingParameter] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        marks = [mark for mark in get_args(parameter.annotation) if isinstance(mark, ReadingParameter)]
        if not marks:
            parameters.append(parameter)
            continue
        marked[name] = marks[0]
        for option, annotation in marks[0].options().items():
            default = None if option == "expect_at_least" else False
            parameters.append(parameter.replace(name=option, annotation=annotation, default=default))
    if not marked:
        return command

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        for name, mark in marked.items():
            arguments[name] = ReadingOptions(**{option: arguments.pop(option) for option in mark.options()})
        return command(**arguments)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
