"""A project of a few bundled genomes in a folder of its own, trained as `make demo` does it, and its `virnuc up`."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from virnuc_assets.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
# Three clusters of relatives of each label at least: one for each side of the split.
GENOMES = (
    *("phiX174", "HIV1", "dengue1", "dengue2"),
    *("plasmid_pPCP1", "plasmid_pBGR3", "Buchnera", "Saureus_NCTC8325"),
)
VIRNUC = [str(Path(sys.executable).with_name("virnuc"))]
_STOP_SECONDS = 60
SETTINGS = """
[sequences]
shard_chunks = 20
[training]
max_epochs = 5
[benchmark]
rows = 32
max_rounds = 6
[decision]
bootstrap_rounds = 100
min_group_clusters = 3
power_studies = 20
min_test_rows = 20
min_test_clusters = 2
min_clusters_per_label = 1
[servers]
dagster_port = {}
mlflow_port = {}
"""


def make_project(folder: Path) -> Settings:
    """Lay the project out, set it up, and run the demo in it."""
    catalogue = ROOT / "data/genomes"
    with (catalogue / "MANIFEST.tsv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t") if row["name"] in GENOMES]
    for name in [row[column] for row in rows for column in ("fasta", "genbank") if row[column]]:
        (folder / "data/genomes" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(catalogue / name, folder / "data/genomes" / name)
    with (folder / "data/genomes/MANIFEST.tsv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    shutil.copytree(ROOT / "data/samples", folder / "data/samples")
    (folder / "virnuc.toml").write_text(SETTINGS.format(*free_ports(2)), encoding="utf-8")
    for command in ("setup", "demo"):
        subprocess.run([*VIRNUC, command], cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return load_settings(folder / "virnuc.toml")


class Servers:
    """`virnuc up` of a project, started again whenever it is found dead, as a service manager does it."""

    def __init__(self, project: Path, log: Path) -> None:
        self._project, self._log = project, log
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def ensure(self) -> None:
        """Start it if it does not live."""
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603
                    [*VIRNUC, "up"], cwd=self._project, stdout=log, stderr=log, env={**os.environ, "COLUMNS": "200"}
                )
            self.starts += 1

    def stop(self) -> int:
        """End it as Ctrl-C does; returns its status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def wait_for(what: str, done: object, seconds: float, servers: Servers | None = None) -> float:
    """Seconds until `done()` is true, looked at every half second; the servers are kept alive meanwhile.

    Raises:
        SystemExit: it did not come true in time.
    """
    began = time.monotonic()
    while not done():  # type: ignore[operator]
        if time.monotonic() - began > seconds:
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        if servers:
            servers.ensure()
        time.sleep(0.5)
    return time.monotonic() - began


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
