"""A real Postgres on loopback, with a role and two databases, whose password is in a password file only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROLE, PASSWORD = "virnuc", "a pass:word"
DATABASES = ("dagster", "mlflow")


class PostgresServer:
    """Its address, and the variable by which every client of it finds the password."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        """`folder` is to be one that the server's user can enter; Postgres refuses to run as root."""
        self._programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.folder, self.host = folder, host
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.port = probe.getsockname()[1]
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []

    def url(self, database: str) -> str:
        """Without a password."""
        return f"postgresql://{ROLE}@{self.host}:{self.port}/{database}"

    @property
    def environment(self) -> dict[str, str]:
        return {"PGPASSFILE": str(self.folder / "pgpass")}

    def make(self) -> None:
        """A new cluster of databases."""
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        if self._as:
            for path in (self.folder, secret):
                shutil.chown(path, "postgres", "postgres")
        auth = ["--auth=scram-sha-256", f"--pwfile={secret}", f"--username={ROLE}", "--no-sync"]
        self._run(self._programs / "initdb", "-D", self.folder / "data", *auth)
        secret.unlink()
        with (self.folder / "data/pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self.host}/24 scram-sha-256\n")
        passwords = self.folder / "pgpass"
        passwords.write_text(f"{self.host}:{self.port}:*:{ROLE}:{PASSWORD.replace(':', chr(92) + ':')}\n")
        passwords.chmod(0o600)

    def start(self) -> None:
        options = f"-c listen_addresses={self.host} -c port={self.port} -c unix_socket_directories={self.folder}"
        log = self.folder / "server.log"
        self._run(self._programs / "pg_ctl", "-D", self.folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run(self._programs / "pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")

    def ask(self, database: str, query: str) -> str:
        """What `psql` prints of a query, unadorned."""
        psql = [str(self._programs / "psql"), "-X", "-q", "-A", "-t", "-d", self.url(database), "-c", query]
        environment = {**os.environ, **self.environment}
        return subprocess.run(psql, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def cut_off(self, database: str) -> None:
        """End all connections to a database, in the middle of what they are about."""
        others = f"datname = '{database}' AND pid <> pg_backend_pid()"
        self.ask(database, f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")

    def _run(self, *command: str | Path) -> None:
        # Into files: a server that keeps a pipe open would never let its reader end.
        with (self.folder / "commands.log").open("ab") as log:
            words = [*self._as, *map(str, command)]
            done = subprocess.run(words, check=False, stdout=log, stderr=log, cwd=self.folder)
        assert done.returncode == 0, (self.folder / "commands.log").read_text()


@contextlib.contextmanager
def postgres_server(host: str = "127.0.0.1") -> Iterator[PostgresServer]:
    """A server with the empty databases `DATABASES`, for its host's neighbours, too; gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="virnuc-postgres-"))
    server = PostgresServer(folder, host)
    try:
        server.make()
        server.start()
        try:
            for database in DATABASES:
                server.ask("postgres", f"CREATE DATABASE {database}")
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
