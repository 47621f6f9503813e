"""The control socket of a running agent: JSON lines over a UNIX socket in its state directory."""

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hrl import HrlError
from hrl.cli.base import EXIT_CODES, NOT_RUNNING, Refused

SOCKET = "control.sock"
REQUEST_BYTES_MAX = 64 * 1024
Handler = Callable[[dict[str, Any]], Any]


class ControlServer:
    """Answers requests of the form {"command": NAME, ...} until closed. One thread; requests are short."""

    def __init__(self, state: Path, handlers: dict[str, Handler]) -> None:
        self._path = state / SOCKET
        self._handlers = handlers
        # The state directory is locked, so a socket that is there was left by a dead agent.
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        old = os.umask(0o177)
        try:
            self._socket.bind(_short(self._path))
        finally:
            os.umask(old)
        self._socket.listen()
        threading.Thread(target=self._serve, name="hrl-control", daemon=True).start()

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            peer.settimeout(30)
            try:
                with peer.makefile("rwb") as stream:
                    line = stream.readline(REQUEST_BYTES_MAX)
                    stream.write(json.dumps(self._handle(line)).encode() + b"\n")
            except OSError:
                return

    def _handle(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (ValueError, KeyError, TypeError):
            return {"error": "the request is not understood", "kind": "invalid-input"}
        try:
            return {"result": handler(request)}
        except HrlError as error:
            return {"error": str(error), "kind": error.kind}
        except Refused as refused:
            kinds = {code: kind for kind, code in EXIT_CODES.items()}
            return {"error": str(refused), "kind": kinds.get(refused.code, "invalid-input")}
        except Exception as error:
            return {"error": str(error), "kind": "invalid-input"}


def _short(path: Path) -> str:
    """A path that fits a socket address: relative to the working directory where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def ask(state: Path, command: str, **arguments: Any) -> Any:
    """Sends a request to the agent of a state directory and gives its answer."""
    if not state.is_dir():
        raise Refused(f"{state} is no state directory", EXIT_CODES["not-found"])
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(120)
        try:
            peer.connect(_short(state / SOCKET))
        except OSError:
            raise Refused(f"no agent is running with {state}", NOT_RUNNING) from None
        with peer.makefile("rwb") as stream:
            stream.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            stream.flush()
            line = stream.readline()
    if not line:
        raise Refused(f"the agent of {state} ended before it answered", NOT_RUNNING)
    answer = json.loads(line)
    if "error" in answer:
        raise Refused(answer["error"], EXIT_CODES.get(answer.get("kind", ""), 1))
    return answer["result"]
