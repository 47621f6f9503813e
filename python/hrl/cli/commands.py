"""The commands: which there are, and how the one that is asked for is made.

`SECTIONS` names every command with its module. A module is imported when its command runs, is completed or shows its
help, so the command starts without the others. In a module `@command` registers a function and `group` a set of them.
"""

import enum
import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from hrl.cli.hints import with_hints
from hrl.cli.option_groups import with_option_groups

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Protect a disk": {
        "protect": ("protect", "Capture every write to a disk into a vault"),
        "attach": ("attach", "Protect a disk in use by points at intervals"),
        "status": ("protect", "Show how an agent is doing"),
        "point": ("protect", "Take a recovery point now"),
        "resync": ("protect", "Read the whole disk again"),
        "in-sync": ("protect", "Say that the copy onto a disk is in sync"),
        "health": ("health", "Tell monitoring whether all is well"),
        "track": ("track", "List what changes on a disk in use, without data"),
    },
    "Look into a vault": {
        "points": ("vault", "List recovery points"),
        "timeline": ("vault", "Show ordered intervals, and gaps with their causes"),
        "changes": ("vault", "List what changed between two points"),
        "verify": ("verify", "Check what is stored, or try recovery points out"),
        "report": ("report", "Write an HTML page about a vault"),
    },
    "Get data back": {
        "restore": ("vault", "Write a volume as of a point or time to a file or disk"),
        "serve": ("vault", "Serve a point over NBD without restoring it"),
    },
    "Fail over, and come home": {
        "failover": ("failover", "Go on elsewhere, in earnest or as a test"),
        "plan": ("plan", "Fail over many volumes, in order"),
        "reprotect": ("failback", "Bring the old disk up to date"),
        "failback": ("failback", "Take the volume home"),
        "branch": ("failback", "Look at what an old source wrote after a failover"),
        "migrate": ("failover", "Move a volume here for good"),
    },
    "Keep, and forget": {
        "compact": ("retention", "Carry retention out now"),
        "maintain": ("keep", "Carry retention and delayed deletes out"),
        "vault": ("keep", "Bring back what was deleted"),
        "pin": ("retention", "Keep a recovery point through retention"),
        "unpin": ("retention", "Let a recovery point go"),
        "trust": ("retention", "Declare suspicious points to be good"),
        "key": ("encryption", "Make a key-encryption key"),
        "rotate-key": ("encryption", "Open volumes with another key from now on"),
        "shred": ("encryption", "Make an encrypted volume unreadable for ever"),
    },
    "Many machines": {
        "group": ("group", "Make one cut across machines"),
        "gateway": ("gateway", "Receive segments over HTTPS for a vault"),
        "enroll": ("enroll", "Make certificates for a gateway and its clients"),
        "audit": ("audit", "Show who changed what in a vault"),
        "mirror": ("mirror", "Keep a second vault the same as the first"),
    },
    "Size, and look closer": {
        "churn": ("sizing", "Show how much volumes are written to"),
        "plan-capacity": ("sizing", "Predict RPO, spool and vault on a link"),
        "inspect": ("vault", "Show what a journal segment holds"),
        "convert": ("vault", "Convert journals from and to other formats"),
        "demo": ("demo_command", "See it work: write, crash, recover, prove"),
    },
}
STYLE: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}
registered: dict[str, typer.Typer] = {}
Function = TypeVar("Function", bound=Callable[..., Any])


def command(name: str, *, cls: "type[Command] | None" = None) -> Callable[[Function], Function]:
    """Registers a function as a command."""

    def register(function: Function) -> Function:
        registered[name] = typer.Typer(**STYLE)
        registered[name].command(name, cls=cls or Command)(function)
        return function

    return register


def group(name: str, help: str, *, cls: "type[Group] | None" = None) -> typer.Typer:
    """Registers a command that has commands of its own, and returns what they are added to."""
    registered[name] = typer.Typer(name=name, cls=cls or Group, help=help, no_args_is_help=True, **STYLE)
    return registered[name]


class Commands(MutableMapping[str, Any]):
    """Every command by name. Each is made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._modules = {name: module for names in SECTIONS.values() for name, (module, _) in names.items()}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            importlib.import_module(f"hrl.cli.{self._modules[name]}")
            self._made[name] = made(name)
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command
        self._modules.setdefault(name, "")

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


class Plain:
    """A command that converts its values by `Conversion`, and whose help shows arguments by their names alone.

    For conversions typer imports pydantic, which takes longer than all else. If a later typer has other internals, these
    assignments have no effect and the start is slow again; a test notices.
    """

    def get_params(self, ctx: Any) -> Any:
        """Returns the parameters, that of the help among them."""
        found = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            parameter._runtime_param = Conversion()
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = no_type
                parameter._usage_display_name = functools.partial(name_of, parameter)
        return found


def no_type(ctx: Any) -> str:
    """Returns what the help shows of an argument's type: nothing."""
    return ""


def name_of(parameter: Any) -> str:
    """Returns an argument as the line of usage shows it."""
    name = str(parameter.metavar or parameter.name.upper())
    return name if parameter.required or name.startswith("[") else f"[{name}]"


class Command(Plain, TyperCommand):
    """A command that does something."""


class Group(Plain, TyperGroup):
    """A command that has commands. Its help lists them with their first sentences, in full."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, " ".join((one.help or "").split()).split(". ")[0].rstrip(".")) for name, one in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Root(Group):
    """The command `hrl`: its help lists the commands in sections, and its commands are made one by one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                # The first column is as wide everywhere.
                rows = [(f"{name:<13}", summary) for name, (_, summary) in commands.items()]
                formatter.write_dl(rows)


def made(name: str) -> Any:
    """Makes a command that its module has registered."""
    found = registered[name]
    for one in found.registered_commands:
        if one.cls is None or not issubclass(one.cls, Plain):
            one.cls = Command
        if one.callback is not None:
            one.callback = with_hints(with_option_groups(one.callback))
    built: Any = typer.main.get_command(found)
    built.name = name
    return built


class Conversion:
    """Turns what was typed into the type of a parameter; takes the place of typer's own conversion."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Returns the value of a parameter. Raises `typer.BadParameter`."""
        described = param.type_descriptor
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        element, info = element_of(described.annotation), described.parameter_info
        if isinstance(value, list | tuple):
            return [converted(one, element, info) for one in value]
        return converted(value, element, info)


def element_of(annotation: Any) -> Any:
    """Returns the type in a list, and the type besides `None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation


def converted(value: Any, to: Any, info: Any) -> Any:
    """Turns one value into the type of an option or argument, and checks its limits."""
    if info.parser is not None:
        return info.parser(value)
    if not inspect.isclass(to) or isinstance(value, to):
        return value
    try:
        found: Any = Path(value) if issubclass(to, Path) else to(value)  # type: ignore[call-arg]
    except ValueError:
        if issubclass(to, enum.Enum):
            names = ", ".join(str(one.value) for one in to)
            raise typer.BadParameter(f"cannot read {value!r}: expected one of {names}") from None
        what = "a whole number" if to is int else "a number"
        raise typer.BadParameter(f"cannot read {value!r}: expected {what}") from None
    if info.min is not None and found < info.min:
        raise typer.BadParameter(f"{value} is too small: expected at least {info.min}")
    return found
