"""Peak memory is the model and one window, whatever the table's size."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from virnuc_assets.encoders.miniature import Shape, write_drawn_checkpoint
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import write_table
from virnuc_assets_tests.encoders.drawn import drawn

NAME = "fastesm2_650_miniature"
TRUE_WIDTH = Shape(hidden=1280, layers=1, heads=20, model_type="fast_esm")
FEW, MANY = 100, 10_000
LAYERS = 33  # of FastESM2: so often does one batch of it go through a layer
PROJECT = Path(__file__).parents[2]


def write_frames(path: Path, rows: int) -> Path:
    """Three of four proteins equally long, as those of whole chunks are."""
    draw = random.Random(rows)
    lengths = [draw.choice([33, 33, 33, draw.randint(20, 32)]) for _ in range(rows)]
    columns = {"frame_id": [f"r_chunk_{row}_F1" for row in range(rows)], "protein": drawn("protein", lengths, rows)}
    schema = frames_schema()
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.array(["A" if pa.types.is_string(field.type) else 0] * rows).cast(field.type)
        for field in schema
    ]
    write_table(path, pa.Table.from_arrays(arrays, schema=schema), {"table": "frames"})
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read and reset through /proc")
def test_ten_thousand_frames_take_no_more_memory_than_a_hundred(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    write_drawn_checkpoint(folder, NAME, TRUE_WIDTH)
    beyond = {}
    for rows, passes in ((FEW, LAYERS), (MANY, 1)):
        frames = write_frames(tmp_path / f"{rows}.parquet", rows)
        command = [sys.executable, "-m", "benchmarks.table_memory", str(folder), str(frames), "cpu", str(passes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
        assert done.returncode == 0, done.stderr
        beyond[rows] = json.loads(done.stdout)["bytes"]
    sys.stdout.write(f"{beyond}\n")
    assert beyond[MANY] < 1.1 * beyond[FEW]
