"""Writes that break off or are killed: the table is whole or absent, the former one stays, no scratch folder does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableWriter, is_made_by, read_table, write_table

from .examples import PROVENANCE, embeddings, files

PROJECT = Path(__file__).parents[2]


class InterruptedInTheMiddleError(Exception):
    """What goes wrong in the middle."""


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("written", [0, 1, 3])
@pytest.mark.parametrize("error", [InterruptedInTheMiddleError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_what_was_there(
    path: Path, former: bool, written: int, error: type[BaseException]
) -> None:
    if former:
        write_table(path, embeddings(2), {"former": True})
    with pytest.raises(error), TableWriter(path, embeddings_schema(4), PROVENANCE) as writer:
        for _ in range(written):
            writer.write(embeddings(5))
        raise error
    assert files(path) == ([path.name] if former else [])
    if former:
        assert read_table(path, require={"former": True}).equals(embeddings(2))


def test_a_provenance_that_is_no_json_leaves_nothing(path: Path) -> None:
    """Listed while the error is still held, as a run that continues with other shards holds it."""
    with pytest.raises(TypeError) as caught:
        write_table(path, embeddings(2), {"path": path})
    assert caught.value.__traceback__ is not None
    assert files(path) == []


CHILD = """
import sys, time
from pathlib import Path
import pyarrow as pa
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableWriter

path, rows = Path(sys.argv[1]), range(5000)
vectors = [[float(n), 1.0, 2.0, 3.0] for n in rows]
columns = {"frame_id": [str(n) for n in rows], "digest": ["d" * 16 for n in rows], "vector": vectors}
batch = pa.table(columns, schema=embeddings_schema(4))
with TableWriter(path, batch.schema, {"from": "child"}) as writer:
    writer.write(batch)
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("former", [False, True])
def test_a_killed_process_leaves_no_table_but_the_former_one(path: Path, former: bool) -> None:
    if former:
        write_table(path, embeddings(2), {"former": True})
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, cwd=PROJECT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert list(path.parent.glob("*.parquet")) == ([path] if former else [])
    assert is_made_by(path, {"former": True}) == former
    write_table(path, embeddings(3), PROVENANCE)
    assert read_table(path, require=PROVENANCE).num_rows == 3


LIVE = """
import sys
from virnuc_assets.storage.places import scratch_folder
with scratch_folder() as folder:
    (folder / "large.bin").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def living(top: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A process within its scratch folder, below `top`; ends when its input does."""
    environment = {**os.environ, "TMPDIR": str(top)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LIVE], **pipes, text=True, env=environment) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process


def test_a_folder_is_removed_once_its_process_is_dead_and_no_sooner(tmp_path: Path) -> None:
    other = tmp_path / "virnuc-other"
    other.mkdir()
    with living(tmp_path) as (killed, process):
        process.kill()
        process.wait()
    with living(tmp_path) as (folder, _):
        assert not killed.exists()
        with living(tmp_path) as (another, _):
            assert folder.exists() and another != folder
        assert not another.exists()
    assert list(tmp_path.iterdir()) == [other]
