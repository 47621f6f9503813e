"""An S3 store of its own: SeaweedFS, which `make servers` installs."""

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from azurite import START_SECONDS_MAX, free_ports

PROGRAM = Path(os.environ.get("HRL_SERVERS", Path.home() / ".cache/hrl-servers")) / "py/bin/weed"
KEY, SECRET = "test", "testsecret"
BUCKET = "vaults"


class SeaweedFs:
    """A running store with one bucket; killed at the end of a `with` block."""

    def __init__(self, directory: Path) -> None:
        if not PROGRAM.exists():
            pytest.skip(f"{PROGRAM} not installed (make servers)")
        s3, s3_grpc, filer, filer_grpc, master, master_grpc, volume, volume_grpc = free_ports(8)
        self.port = s3
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = {"identities": [{"name": "test", "credentials": credentials, "actions": rights}]}
        (directory / "s3.json").write_text(json.dumps(identities))
        (directory / "data").mkdir()
        command: list[str | Path] = [
            PROGRAM, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data", "-filer", "-s3", "-s3.config=s3.json",
            "-master.volumeSizeLimitMB=64", "-volume.max=20", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # it would listen on ports that every such server has
            f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", f"-master.port={master}",
            f"-master.port.grpc={master_grpc}", f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}",
        ]  # fmt: skip
        with open(directory / "weed.log", "wb") as log:
            self._process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{filer}/buckets/{BUCKET}/", method="POST")
                urllib.request.urlopen(request, timeout=10).close()
                # The bucket is there before anything that holds its objects is.
                urllib.request.urlopen(f"http://127.0.0.1:{volume}/status", timeout=10).close()
                return
            except OSError:
                if time.monotonic() > end:
                    self._process.kill()
                    raise
                time.sleep(0.1)

    def __enter__(self) -> "SeaweedFs":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def url(self, prefix: str) -> str:
        """A vault in the bucket; its key stands in `environment`."""
        return f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{self.port}&allow-http=true&region=us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs in its environment to be let in."""
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
