"""The control socket of a running agent: JSON lines over a UNIX socket in its state directory.

An answer is `{"result": …}`, or `{"error": TEXT, "kind": KIND, "code": N}` with the exit code that the failure has.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hrl import HrlError
from hrl.cli.exits import Exit, Refused
from hrl.cli.output import plain
from hrl.cli.sockets import reachable
from hrl.words import clean

SOCKET = "control.sock"
REQUEST_BYTES_MAX = 64 * 1024
ANSWER_SECONDS_MAX = 120
Handler = Callable[[dict[str, Any]], Any]


class ControlServer:
    """Answers requests of the form {"command": NAME, ...} until closed, each on a thread of its own."""

    def __init__(self, state: Path, handlers: dict[str, Handler]) -> None:
        self._path = state / SOCKET
        self._handlers = handlers
        # The state directory is locked, so a socket that is there was left by a dead agent.
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        old = os.umask(0o177)
        try:
            with reachable(self._path) as path:
                self._socket.bind(path)
        finally:
            os.umask(old)
        self._socket.listen()
        threading.Thread(target=self._serve, name="hrl-control", daemon=True).start()

    def close(self) -> None:
        """Takes the socket away; answers under way are given."""
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
        peer.settimeout(30)
        try:
            with peer.makefile("rb") as stream:
                line = stream.readline(REQUEST_BYTES_MAX)
        except OSError:
            return peer.close()
        # The process waits for this thread when it ends, so a request that ends the process is answered, too.
        threading.Thread(target=self._give, args=(peer, line), daemon=False).start()

    def _give(self, peer: socket.socket, line: bytes) -> None:
        with peer, contextlib.suppress(OSError):
            peer.sendall(json.dumps(self._handle(line), default=plain).encode() + b"\n")

    def _handle(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (ValueError, KeyError, TypeError):
            return failure("the request is not understood", Exit.INVALID_INPUT)
        try:
            return {"result": handler(request)}
        except HrlError as error:
            return failure(str(error), Exit.of_kind(error.kind))
        except Refused as refused:
            return failure(str(refused), refused.code)
        except UnicodeEncodeError as error:
            return failure(f"cannot use {clean(error.object)}: it is not UTF-8", Exit.INVALID_INPUT)
        except Exception as error:
            return failure(str(error), Exit.INVALID_INPUT)


def failure(message: str, code: int) -> dict[str, Any]:
    """Returns the answer about a failure."""
    return {"error": message, "kind": Exit.of_code(code).kind, "code": int(code)}


def ask(state: Path, command: str, **arguments: Any) -> Any:
    """Sends a request to the agent of a state directory and returns its answer.

    Raises `Refused` with the code of the agent's failure, or with `NOT_RUNNING` if no agent answers.
    """
    if not state.is_dir():
        raise Refused(f"{state} is no state directory", Exit.NOT_FOUND)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(ANSWER_SECONDS_MAX)
        try:
            with reachable(state / SOCKET) as path:
                peer.connect(path)
        except OSError:
            raise Refused(f"no agent is running with {state}", Exit.NOT_RUNNING) from None
        try:
            peer.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with peer.makefile("rb") as stream:
                line = stream.readline()
        except TimeoutError:
            problem = f"the agent of {state} did not answer within {ANSWER_SECONDS_MAX} s"
            raise Refused(problem, Exit.TIMED_OUT) from None
        except ConnectionError:
            line = b""
    if not line:
        raise Refused(f"the agent of {state} ended before it answered", Exit.NOT_RUNNING)
    answer = json.loads(line)
    if "error" in answer:
        # An older agent says the kind alone.
        raise Refused(answer["error"], answer.get("code") or Exit.of_kind(answer.get("kind", "")))
    return answer["result"]
