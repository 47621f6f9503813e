"""Secrets that a command takes from its environment: they leave it, so no program that the command starts has them.

Commands of this package that the command starts inherit a file in memory instead, and read the key from `/dev/fd/N`.
"""

import os
import re

KEY_VARIABLE = re.compile(r"--(new-)?key-env")
KEY_FILE = re.compile(r"--(?:new-)?key-file")
INHERITED = re.compile(r"/dev/fd/(\d+)")
_taken: dict[str, bytes] = {}
_files: dict[str, int] = {}


def take(name: str) -> bytes | None:
    """Returns the value of a variable, and removes it from the environment."""
    value = os.environb.pop(os.fsencode(name), None)
    if value is not None:
        _taken[name] = value
    return _taken.get(name)


def keep_from_children(file: str) -> None:
    """Keeps an inherited file from programs that this command starts."""
    if found := INHERITED.fullmatch(file):
        os.set_inheritable(int(found[1]), False)


def passed_on(arguments: list[str]) -> tuple[list[str], tuple[int, ...]]:
    """Returns arguments for a command of this package, and the descriptors that it must inherit for them."""
    given: list[str] = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        known = equals and (KEY_VARIABLE.fullmatch(option) or KEY_FILE.fullmatch(option))
        given += [option, value] if known else [argument]
    descriptors = []
    for at in range(len(given) - 1):
        if found := KEY_VARIABLE.fullmatch(given[at]):
            descriptors.append(file_of(given[at + 1]))
            given[at : at + 2] = [f"--{found[1] or ''}key-file", f"/dev/fd/{descriptors[-1]}"]
        elif KEY_FILE.fullmatch(given[at]) and (inherited := INHERITED.fullmatch(given[at + 1])):
            descriptors.append(int(inherited[1]))
    return given, tuple(descriptors)


def file_of(name: str) -> int:
    """Returns a file in memory with the value of a variable."""
    if name not in _files:
        descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, take(name) or b"")
        _files[name] = descriptor
    return _files[name]
