"""Peak memory is the model and one window, whatever the table's size."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from virnuc_assets.encoders.miniature import Shape, write_drawn_checkpoint
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import Settings
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import write_table
from virnuc_assets_tests.encoders.drawn import drawn

NAME = "fastesm2_650_miniature"
TRUE_WIDTH = Shape(hidden=1280, layers=1, heads=20, model_type="fast_esm")
FEW, MANY = 100, 10_000

# Runs in a process of its own. An allocator does not find the same places each time, and what libraries set up at
# their first use stays: a table of one window is embedded as often as FastESM2 has layers, and the highest counts.
EMBED = """
import json, sys
from pathlib import Path
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import EncodingSettings, Settings
from virnuc_assets.single_file import embed_file

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

root, frames, passes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
encoding = EncodingSettings(device="cpu", token_budget=2048, compile="never")
workspace = Workspace(Settings(root=root, encoding=encoding))
import torch
from virnuc_assets.encoders.loading import load_encoder
from virnuc_assets.encoders.registry import encoder_named
from virnuc_assets.encoders import esm, embedding
import pyarrow.parquet
libraries = memory("VmRSS")
encoder = load_encoder(encoder_named(sys.argv[3]), workspace.layout.checkpoints, encoding)
model = memory("VmRSS")
bytes_of_weights = sum(parameter.nbytes for parameter in encoder._model.parameters())
del encoder
Path("/proc/self/clear_refs").write_text("5")
for _ in range(passes):
    embed_file(workspace, frames, sys.argv[3], root / f"{frames.stem}-out.parquet", lambda done, total: None)
print(json.dumps({"peak": memory("VmHWM"), "libraries": libraries, "model": model, "weights": bytes_of_weights}))
"""


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
    folder = Workspace(Settings(root=tmp_path)).layout.checkpoints / NAME
    folder.mkdir(parents=True)
    write_drawn_checkpoint(folder, NAME, TRUE_WIDTH)
    beyond, figures = {}, {}
    for rows, passes in ((FEW, 33), (MANY, 1)):
        frames = write_frames(tmp_path / f"{rows}.parquet", rows)
        command = [sys.executable, "-c", EMBED, str(tmp_path), str(frames), NAME, str(passes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = figures[rows] = json.loads(done.stdout)
        beyond[rows] = found["peak"] - found["libraries"] - found["weights"]
    assert beyond[MANY] < 1.1 * beyond[FEW], figures
    sys.stdout.write(f"{figures}\n")
