"""Azure Blob Storage by its vendor's emulator, which `make servers` installs."""

import base64
import email.utils
import hashlib
import hmac
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

PROGRAM = Path(os.environ.get("HRL_SERVERS", Path.home() / ".cache/hrl-servers")) / "node/node_modules/.bin/azurite-blob"
# The account and key that every Azurite has.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "vaults"
VERSION = "2021-08-06"
START_SECONDS_MAX = 30.0


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return found


class Azurite:
    """A running emulator with one container; killed at the end of a `with` block."""

    def __init__(self, directory: Path) -> None:
        if not PROGRAM.exists():
            pytest.skip(f"{PROGRAM} not installed (make servers)")
        (self.port,) = free_ports(1)
        command: list[str | Path] = [
            PROGRAM,
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            str(self.port),
            "--location",
            directory,
        ]
        with open(directory / "azurite.log", "wb") as log:
            self._process = subprocess.Popen([*command, "--skipApiVersionCheck", "--silent"], stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                return self._make_container()
            except OSError:
                if time.monotonic() > end:
                    self._process.kill()
                    raise
                time.sleep(0.1)

    def __enter__(self) -> "Azurite":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends it as a lost site does."""
        self._process.kill()
        self._process.wait()

    def url(self, prefix: str) -> str:
        """A vault in the container; its key stands in `environment`."""
        endpoint = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        return f"az://{CONTAINER}/{prefix}?endpoint={endpoint}&account={ACCOUNT}&allow-http=true"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs in its environment to be let in."""
        return {"AZURE_STORAGE_ACCOUNT_KEY": KEY}

    def _make_container(self) -> None:
        path = f"/{ACCOUNT}/{CONTAINER}"
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": VERSION}
        named = "".join(f"{name}:{value}\n" for name, value in headers.items())
        text = "PUT" + "\n" * 12 + named + f"/{ACCOUNT}{path}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
        headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
        url = f"http://127.0.0.1:{self.port}{path}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=10).close()
