"""Results on a real S3 server: objects are whole or absent, and the tables are those of a folder, byte for byte."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from virnuc_assets.defs.assets.shards import PlanSamples
from virnuc_assets.defs.jobs import PLAN_SAMPLES_JOB, PLAN_SAMPLES_OP
from virnuc_assets.defs.sensors import files_to_plan
from virnuc_assets.sequences.incoming import visible_files, waiting_files
from virnuc_assets.storage.atomic import atomic_folder, atomic_write
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.places import state_of
from virnuc_assets.storage.tables import (
    TableMismatch,
    content_digest,
    read_provenance,
    read_table,
    read_windows,
    require_content,
    write_table,
)
from virnuc_assets_tests.assets.project import GENOMES, SAMPLE, SAMPLE_RECORDS, Finished, failures, new_project, quiet
from virnuc_assets_tests.storage.s3_server import BUCKET, S3Server, s3_server

pytestmark = pytest.mark.s3
pytest_plugins = ["virnuc_assets_tests.assets.finished"]

TABLE = pa.table({"id": [f"r{number}" for number in range(1000)], "value": list(range(1000))})
MULTIPART_BYTES = 150_000_000
# Uploads as one object in several parts, and says when it begins.
UPLOAD = """
import sys
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.places import results_at
with atomic_write(results_at(sys.argv[1])) as temporary:
    with temporary.open("wb") as file:
        file.write(b"new" * (int(sys.argv[2]) // 3))
    print("uploading", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def folder(server: S3Server, tmp_path: Path) -> Path:
    """A prefix of the bucket that nobody else writes to."""
    return Layout(tmp_path, "miniature", f"s3://{BUCKET}/{tmp_path.name}").results


def test_a_table_is_what_was_written_and_appears_when_it_is_whole(folder: Path, tmp_path: Path) -> None:
    path = folder / "reference" / "frames" / "a-000001.parquet"
    assert not path.is_file()
    with pytest.raises(TableMismatch, match="does not exist; materialize reference/frames"):
        read_provenance(path)
    write_table(path, TABLE, {"of": "one"})
    first, second = state_of(path), TABLE.slice(1)
    assert read_table(path) == TABLE
    assert [window.num_rows for window in read_windows(path, 600)] == [600, 400]
    assert read_provenance(path) == {"of": "one"}
    require_content(path)
    write_table(path, second, {"of": "two"})
    assert state_of(path) != first
    assert read_table(path) == second
    write_table(tmp_path / "local.parquet", second, {})
    assert (read_provenance(path), content_digest(path)) == ({"of": "two"}, content_digest(tmp_path / "local.parquet"))
    assert [other.name for other in path.parent.glob("*")] == [path.name]


def test_a_failed_write_leaves_the_older_object_and_nothing_else(folder: Path) -> None:
    path = folder / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("older")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("newer")
        raise ZeroDivisionError
    assert path.read_text() == "older"
    assert not temporary.parent.exists()
    assert [found.name for found in folder.rglob("*")] == ["a.txt"]


@pytest.mark.parametrize("before", [True, False], ids=["over an older one", "of a new one"])
def test_an_upload_whose_process_is_killed_in_the_middle_is_not_there(
    folder: Path, before: bool, tmp_path: Path
) -> None:
    path, here = folder / "large.bin", {**os.environ, "TMPDIR": str(tmp_path)}
    if before:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"older")
    command = [sys.executable, "-c", UPLOAD, str(path), str(MULTIPART_BYTES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "uploading\n"
        time.sleep(0.3)  # of some seconds
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"older" if before else not path.exists()
    assert len(list(tmp_path.glob("virnuc-unfinished-*"))) == 1
    subprocess.run(command, check=True, capture_output=True, env=here)  # as a retry does
    assert path.stat().st_size == MULTIPART_BYTES
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(folder: Path) -> None:
    path = folder / "decision"
    for names in (["a.txt", "b/c.txt"], ["a.txt", "d.txt"]):
        with atomic_folder(path) as temporary:
            for name in names:
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text(f"{name} of {len(names[1])}")
        assert {str(found)[len(str(path)) + 1 :] for found in path.rglob("*") if found.is_file()} == set(names)
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        raise ZeroDivisionError
    assert (path / "a.txt").read_text() == "a.txt of 5"


def test_an_idle_evaluation_asks_the_store_as_often_for_many_samples_as_for_few(
    blank: Path, server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """s3fs logs each request that it makes, whoever asked for it."""
    project = new_project(tmp_path / "project", blank)
    project.configure(paths={"results": f"s3://{BUCKET}/{tmp_path.name}"})
    layout, settings = project.workspace.layout, project.settings
    counts = []
    for name, repeats in [*((f"sample{number}", number) for number in range(1, 5)), ("duplicate", 1)]:
        (settings.incoming / f"{name}.fasta").write_text(f">r\n{'ACGT' * repeats}\n")
        assert failures(project.job(PLAN_SAMPLES_JOB, run_config=planned(list(files_to_plan(project.workspace))))) == []
        assert waiting_files(layout, visible_files(settings.incoming), settings.sequences) == {}
        time.sleep(1.1)  # an object is not asked for again within the second
        with caplog.at_level(logging.DEBUG, logger="s3fs"):
            assert waiting_files(layout, visible_files(settings.incoming), settings.sequences) == {}
        counts.append(Counter(record.args[0] for record in caplog.records if record.msg.startswith("CALL")))
        caplog.clear()
    assert counts[:4] == [{"head_object": 1}] * 4
    assert counts[4].total() <= 5  # one listing, as s3fs makes it: whether a duplicate's original is there
    project.instance.dispose()


def planned(files: list[str]) -> dg.RunConfig:
    return dg.RunConfig(ops={PLAN_SAMPLES_OP: PlanSamples(files=files)})


def contents(names: Callable[[Path], str], folder: Path) -> dict[str, bytes]:
    """Bytes of all tables, classifiers and reports, by path; not plans, which name the FASTA's own folder."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and path.suffix in (".parquet", ".safetensors", ".tsv")
    ]
    kept = [path for path in files if path.parent.name not in ("shard_plan", "incoming")]
    return {names(path): path.read_bytes() for path in kept}


def test_from_fasta_to_the_decision_and_a_report_as_in_a_folder(
    finished: Finished, blank: Path, server: S3Server, tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project", blank, GENOMES, {SAMPLE: SAMPLE_RECORDS})
    project.configure(paths={"results": f"s3://{BUCKET}/results"}, tracking={"artifacts": f"s3://{BUCKET}/models"})
    (project.root / "var/mlflow/mlflow.db").unlink()
    with quiet():
        from virnuc_assets.workstation.setup import set_up

        set_up(project.settings, lambda _: None)
    assert failures(*project.run_everything()) == []
    stored, local = project.workspace.layout.results, finished.workspace.layout.results
    here = contents(lambda path: str(path.relative_to(local)), local)
    there = contents(lambda path: str(path)[len(str(stored)) + 1 :], stored)
    assert len(here) > 100
    assert there == here
    written = [path for path in (project.settings.var / "miniature").rglob("*") if path.is_file()]
    assert {path.suffix for path in written} <= {".yaml", ".db", ".lock"}
    models = Layout(tmp_path, "models", f"s3://{BUCKET}").results
    assert [path.name for path in models.rglob("MLmodel")]
    project.instance.dispose()
