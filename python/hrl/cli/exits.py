"""The exit codes of the command. Each has one meaning, whatever the sub-command; `hrl health` alone speaks its own."""

import enum
import errno
from typing import Self


class Exit(enum.IntEnum):
    """How a command ended: the code, its meaning, and what to do about it.

    Codes 2 to 15, 20 and 21 are the kinds of `hrl.HrlError` in upper case.
    """

    meaning: str
    advice: str

    def __new__(cls, code: int, meaning: str, advice: str) -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.advice = advice
        return member

    DONE = 0, "done", ""
    FAILED = 1, "an error without a code of its own", "see the message"
    INVALID_INPUT = 2, "invalid input", "fix the request"
    NOT_FOUND = 3, "not found", "name another object"
    ALREADY_EXISTS = 4, "already exists", "choose another name"
    CORRUPT = 5, "corrupt", "use another copy"
    WRONG_KEY = 6, "wrong key", "supply the right key"
    UNSUPPORTED = 7, "unsupported", "install what is missing, or upgrade"
    UNAVAILABLE = 8, "unavailable", "try again later"
    FULL = 9, "full", "make room"
    POISONED = 10, "poisoned", "restart: a flush failed"
    FENCED = 11, "fenced", "stop: another agent or source has the volume"
    CHANGED = 12, "changed", "the disk is not the one that was protected"
    READ_ONLY = 13, "read-only", "write elsewhere"
    NOT_ORDERED = 14, "not ordered", "wait for the resync, or choose another state"
    IO = 15, "I/O error", "see the message"
    NOT_RUNNING = 16, "the agent is not running", "start it"
    CHECK_FAILED = 17, "a check failed", "restore an earlier point, such as `newest-good`"
    PLAN_FAILED = 18, "a plan failed", "look at its report, then resume it"
    TIMED_OUT = 19, "a time limit was reached", "the work goes on: look again later, or raise the limit"
    DENIED = 20, "denied", "use an identity that may do that"
    DIVERGED = 21, "not of one history", "compare: see the page When something went back"
    PARTLY = 22, "a part could not be read", "the rest is done: look at what standard error names"
    STOPPED = 130, "stopped by a signal", "run it again"

    @property
    def kind(self) -> str:
        """Returns the name of the error kind, such as `not-found`."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def of_code(cls, code: int) -> Self:
        """Returns the member of a code; `FAILED` for a code that is not known."""
        return next((one for one in cls if one == code), cls.FAILED)

    @classmethod
    def of_kind(cls, kind: str) -> Self:
        """Returns the code for the kind of an `HrlError`; `FAILED` for a kind that is not known."""
        return next((code for code in cls if code.kind == kind), cls.FAILED)

    @classmethod
    def of_errno(cls, number: int | None) -> Self:
        """Returns the code for a refusal of the operating system."""
        return cls.FULL if number in (errno.ENOSPC, errno.EDQUOT) else cls.IO


class Refused(Exception):
    """A failure that the command itself found, with its exit code."""

    def __init__(self, message: str, code: Exit | int) -> None:
        super().__init__(message)
        self.code = code
