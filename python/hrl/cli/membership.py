"""The membership of a running agent in a consistency group, remembered in its state directory."""

import json
import os
from pathlib import Path
from typing import Any, Self

from hrl import GroupMember, HrlError, Protection
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import note
from hrl.cli.rights import private_file

FILE = "group.json"
HOLD_PERCENT = 10


class Membership:
    """Joins the group that the state directory names, or that a request names. There is one group at a time."""

    def __init__(self, protection: Protection, state: Path) -> None:
        self._protection = protection
        self._path = state / FILE
        self._member: GroupMember | None = None
        self._group = ""

    def __enter__(self) -> Self:
        if self._path.exists():
            known = json.loads(self._path.read_text())
            try:
                self._join(known)
            except HrlError as error:
                # The disk is protected all the same, and the group reports which member is missing.
                note(f"cannot join group {known['group']} again: {error}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._member:
            self._member.close()

    def handlers(self) -> dict[str, Any]:
        """Returns the requests of the control socket and what answers them."""
        return {"group-join": self.join, "group-leave": self.leave, "group-status": self.status}

    def join(self, request: dict[str, Any]) -> dict[str, Any]:
        """Joins a group. Remembers it once a coordinator has accepted the volume."""
        if self._member:
            raise Refused(f"the volume is a member of group {self._group}; leave that first", Exit.ALREADY_EXISTS)
        wanted = {name: request[name] for name in ("group", "coordinators", "identity")}
        wanted["hold_percent"] = request.get("hold_percent", HOLD_PERCENT)
        member = self._join(wanted)
        try:
            member.wait_connected(float(request["limit"]))
        except HrlError:
            self._member = None
            member.close()
            raise
        new = self._path.with_suffix(".new")
        with private_file(new, "wb") as file:
            file.write(json.dumps(wanted).encode())
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path)
        return self.status({})

    def leave(self, request: dict[str, Any]) -> None:
        """Leaves the group."""
        if not self._member:
            raise Refused("the volume is in no group", Exit.NOT_FOUND)
        self._member.leave(float(request["limit"]))
        self._path.unlink(missing_ok=True)
        self._member = None

    def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """Returns how the membership is doing."""
        if not self._member:
            raise Refused("the volume is in no group", Exit.NOT_FOUND)
        return {"group": self._group, **self._member.stats()}

    def _join(self, wanted: dict[str, Any]) -> GroupMember:
        # An earlier version remembered no share.
        share = wanted.get("hold_percent", HOLD_PERCENT) / 100
        self._member = self._protection.join_group(
            wanted["group"], wanted["coordinators"], identity=wanted["identity"], hold_share=share
        )
        self._group = wanted["group"]
        return self._member
