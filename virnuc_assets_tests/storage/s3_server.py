"""A real S3 server on loopback: JuiceFS's gateway, which is MinIO's, over a folder and a SQLite file."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

JUICEFS = Path(sys.executable).with_name("juicefs")
BUCKET, USER, PASSWORD = "virnuc", "virnuc-tests", "virnuc-tests-password"


class S3Server:
    """Its address, and the variables by which every client of AWS finds it."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self._folder, self._host = folder, host
        with socket.socket() as probe:
            probe.bind((host, 0))
            self._port = probe.getsockname()[1]
        self._meta = f"sqlite3://{folder / 'meta.db'}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it, with what it held before; returns when it answers."""
        if not (self._folder / "meta.db").exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            make = ["format", "--storage", "file", "--bucket", f"{self._folder}/data/", "--trash-days", "0"]
            subprocess.run([JUICEFS, *make, self._meta, BUCKET], check=True, capture_output=True)
        quiet = ["--no-usage-report", "--no-banner", "--backup-meta", "0", "--keep-etag", "--attr-cache", "0"]
        cache = ["--cache-dir", str(self._folder / "cache"), "--dir-entry-cache", "0"]
        with (self._folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [JUICEFS, "gateway", *quiet, *cache, self._meta, f"{self._host}:{self._port}"],
                env={**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        while True:
            assert self._process.poll() is None, (self._folder / "gateway.log").read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self.url}/minio/health/live", timeout=5).close()
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def s3_server(folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """A server with the empty bucket `BUCKET`, killed at the end."""
    server = S3Server(folder, host)
    try:
        server.start()
        yield server
    finally:
        server.stop()
