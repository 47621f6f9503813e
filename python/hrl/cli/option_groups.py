"""Options that several commands share.

A command has one parameter that is annotated with an `OptionGroup`, and receives the value that the group makes of its
options. `with_option_groups` turns such parameters into the options, so that no command names them all.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, get_args


class OptionGroup(ABC):
    """Marks a parameter that becomes options."""

    @abstractmethod
    def options(self, name: str) -> dict[str, tuple[Any, Any]]:
        """Returns the type and the default of each option of the parameter `name`, by the option's own name."""

    @abstractmethod
    def value(self, given: dict[str, Any]) -> Any:
        """Returns what the command receives for the options given. They come in the order of `options`."""


def with_option_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the command with options in place of its marked parameters."""
    signature = inspect.signature(command)
    marked: list[tuple[str, OptionGroup, list[str]]] = []
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        groups = [mark for mark in get_args(parameter.annotation) if isinstance(mark, OptionGroup)]
        if not groups:
            parameters.append(parameter)
            continue
        options = groups[0].options(name)
        marked.append((name, groups[0], list(options)))
        for option, (annotation, default) in options.items():
            parameters.append(parameter.replace(name=option, annotation=annotation, default=default))
    if not marked:
        return command

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        for name, group, options in marked:
            arguments[name] = group.value({option: arguments.pop(option) for option in options})
        return command(**arguments)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
