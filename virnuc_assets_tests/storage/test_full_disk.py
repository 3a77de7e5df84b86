"""A file system that is really full: the failure says what to do, nothing half stays, and with room all continues."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# A file system of its own for this process alone, without being root.
MOUNTED = [
    "unshare",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"',
]
TABLES = """
import sys
from pathlib import Path
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.atomic import atomic_files, atomic_folder
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.tables import TableWriter, read_rows
from virnuc_assets_tests.storage.examples import embeddings

root = Path(sys.argv[-1])
def table(rows):
    with TableWriter(root / "reference/x_embeddings/a.parquet", embeddings_schema(4), {"rows": rows}) as writer:
        for _ in range(rows // 1000):
            writer.write(embeddings(1000))
def page(size):
    with atomic_write(root / "report/page.html") as temporary:
        temporary.write_text("x" * size)
def report(size):
    with atomic_folder(root / "samples/report/a") as folder:
        (folder / "summary.tsv").write_text("x" * size)
def together(size):
    with atomic_files(root / "mine") as folder:
        for name in ("a.txt", "b.txt"):
            (folder / name).write_text(name[0] * (size if name == "b.txt" else 1000 + size % 999))
for write in (table, page, report, together):
    write(1000)
    before = sorted((path, path.stat().st_size) for path in root.rglob("*") if path.is_file())
    try:
        write(3_000_000)
    except VirnucError as error:
        print(error)
    assert before == sorted((path, path.stat().st_size) for path in root.rglob("*") if path.is_file())
    write(2000)
assert read_rows(root / "reference/x_embeddings/a.parquet") == 2000
"""


def mounted(folder: Path, size: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds a small file system at a folder, which it gets as its argument."""
    command = [*MOUNTED, "sh", size, str(folder), sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        done = mounted(tmp_path_factory.mktemp("mount"), "1m", "")
    except FileNotFoundError:
        pytest.skip("no unshare(1) here to mount a small file system with")
    if done.returncode:
        pytest.skip(f"this machine lets no one mount a small file system: {done.stderr.strip()}")


@pytest.mark.usefixtures("mounts")
def test_tables_reports_and_folders_on_a_full_disk(tmp_path: Path) -> None:
    done = mounted(tmp_path, "2m", TABLES)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    files = ("reference/x_embeddings/a.parquet", "report/page.html", "samples/report/a", "mine")
    assert [line.partition(": ")[0] for line in shown] == [str(tmp_path / name) for name in files]
    for line in shown:
        assert "no space to write it: " in line
        assert " of 2.0 MiB are free in " in line
        assert "Free some space, or put [paths] var on a larger disk" in line


RUN = '''
import shutil, sqlite3, subprocess, sys
from pathlib import Path
from virnuc_assets.workstation.setup import dagster_home, set_up
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.workstation.up import fail_orphaned_runs, unfinished_files
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project, quiet
from virnuc_assets.defs import jobs

CHILD = """
import sys
from pathlib import Path
from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets_tests.assets.project import Project, failures
project = Project(Path(sys.argv[1]))
print(*failures(project.range(jobs.REFERENCE_JOB, project.keys(REFERENCE))))
"""
blank, root = Path(sys.argv[-1]) / "blank", Path(sys.argv[-1]) / "project"
blank.mkdir()
project = Project(blank)
project.configure(sequences={"chunk_length": 500, "shard_chunks": 10})
with quiet():
    set_up(project.settings, lambda _: None)
project = new_project(root, blank, ("phiX174", "dengue1"), in_memory=False)
assert failures(project.job(PLAN_REFERENCE_JOB)) == []
keys = project.keys(REFERENCE)
filler = root / "filler"
with filler.open("wb", buffering=0) as handle:
    while shutil.disk_usage(root).free > 500_000:
        handle.write(bytes(65_536))
project.instance.dispose()
done = subprocess.run([sys.executable, "-c", CHILD, str(root)], capture_output=True, text=True)
print(done.stdout, done.stderr)
filler.unlink()
fail_orphaned_runs(dagster_home(project.settings), print, launching=False)
for path in root.rglob("*.db"):
    if path.stat().st_size:
        assert sqlite3.connect(path).execute("pragma integrity_check").fetchone() == ("ok",), path
assert unfinished_files(project.settings) == []
assert failures(project.range(jobs.REFERENCE_JOB, keys)) == []
started = {run.status.value for run in project.instance.get_runs()} & {"STARTING", "STARTED", "CANCELING"}
assert started == set(), started
'''


@pytest.mark.slow
@pytest.mark.usefixtures("mounts")
def test_a_run_on_a_full_disk_fails_and_the_next_one_finishes(tmp_path: Path) -> None:
    """Tables, Dagster's databases and all on one disk; the databases stay whole, too."""
    done = mounted(tmp_path, "40m", RUN)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    # The last is SQLite's message where the index of its write-ahead log cannot grow.
    messages = ("no space to write it", "database or disk is full", "disk I/O error")
    assert any(message in done.stdout for message in messages), done.stdout
