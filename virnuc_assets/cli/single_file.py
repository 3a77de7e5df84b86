"""The stages on single files, for the command line: the assets' domain functions, without an orchestrator."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import MergedLedger, ledger_table
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.outputs import require_output, require_space, unwritable
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableWriter, content_digest, read_rows
from virnuc_assets.storage.windows import in_windows
from virnuc_assets.workstation.device_lock import DeviceLock

if TYPE_CHECKING:
    from virnuc_assets.encoders.loading import Encoder
    from virnuc_assets.encoders.registry import EncoderSpec

Report = Callable[[int, int], None]  # how many were done since the last call, and how many there are in all
Log = Callable[[str], None]
STDIN = Path("-")
CHUNK_WINDOW = 1000
FLOAT_BYTES = 4
# Frames whose vectors are in memory at once. With 4096 a file of 50 Mb took 70 MB more than one of 5 Mb, with few each
# part of a table takes some kilobytes while it is written or read.
VECTOR_ROWS = 1024


def spooled(path: Path, copy: Path) -> Path:
    """The file; of what comes through a pipe (`-`, `<(…)`) a copy, as it is read more than once."""
    if path != STDIN and not path.is_fifo():
        return path
    with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as pipe, copy.open("wb") as file:
        shutil.copyfileobj(pipe, file)
    return copy


def shown_as(path: Path) -> str:
    """What messages call an input, of which a copy may be read."""
    return "standard input" if path == STDIN else str(path)


def require_chunk_length(chunk_length: int) -> None:
    """Raise unless VirNucPro knows this chunk length."""
    if chunk_length not in (allowed := SequenceSettings.model_fields["chunk_length"].annotation.__args__):  # type: ignore[union-attr]
        raise VirnucError(f"--chunk-length: expected one of {', '.join(map(str, allowed))}, found {chunk_length}")


def frame_file(
    source: Path, to: Path, chunk_length: int, report: Report, rule: FrameRule = STOP_FREE, shown: str = ""
) -> pa.Table:
    """Write the frames table of a file, which messages may call otherwise; returns its ledger, in file order."""
    require_output(to, [source])
    plan = plan_source(source, source_name(source), chunk_length, CHUNK_WINDOW, shown=shown)
    # A third of what a plan takes in memory is in columns that are not read here.
    plan = replace(plan, table=plan.table.drop_columns(["digest", "source", "evidence_digest"]))
    ledger, (read,) = MergedLedger(plan.table), plan.sources.values()
    total = pc.sum(pc.subtract(plan.table["end_chunk"], plan.table["first_chunk"])).as_py()
    provenance = {"table": "frames", "source_sha256": read.sha256, "chunk_length": chunk_length, **rule.provenance}
    with TableWriter(to, rule.schema, provenance) as writer:
        for rows, (segments, chunks) in zip(plan.rows_by_shard.values(), chunk_tables(plan), strict=True):
            frames, counts = open_frames(chunks, None, rule)
            ledger.add(rows, ledger_table(segments, counts))
            writer.write(frames)
            report(chunks.num_rows, total)
    return ledger.table()


def embed_file(
    workspace: Workspace, frames: Path, encoder_name: str, to: Path, report: Report, log: Log
) -> dict[str, Any]:
    """Write the embeddings of a frames table by a named encoder; returns what was counted."""
    from virnuc_assets.encoders.embedding import read_frames

    require_output(to, [frames])
    rows = read_rows(frames)
    with loaded_encoder(workspace, workspace.encoder_named(encoder_name), log) as encoder:
        require_space(to.parent, rows * encoder.dim * FLOAT_BYTES, "the vectors")
        provenance = {"table": "embeddings", "frames": content_digest(frames), "encoder": encoder.fingerprint}
        write_embeddings(to, encoder, read_frames(encoder, frames), provenance, lambda done: report(done, rows))
    return {"frames": rows, "encoder": encoder.spec.name, "dim": encoder.dim, "device": encoder.device}


def write_embeddings(
    path: Path,
    encoder: Encoder,
    windows: Iterator[pa.Table],
    provenance: dict[str, Any],
    progress: Callable[[int], None],
) -> None:
    """Write the embeddings table of frames that come in windows."""
    from virnuc_assets.encoders.embedding import embed_windows

    with TableWriter(path, embeddings_schema(encoder.dim), provenance) as writer:
        for table in in_windows(embed_windows(encoder, windows, progress), VECTOR_ROWS):
            writer.write(table)


@contextmanager
def loaded_encoder(workspace: Workspace, spec: EncoderSpec, log: Log, threads: int | None = None) -> Iterator[Encoder]:
    """The encoder and its device, which is locked for the block; torch has so many threads."""
    import torch

    from virnuc_assets.encoders.golden import load_for_run

    with device_locked(workspace, log):
        encoder = load_for_run(spec, workspace.layout.checkpoints, workspace.settings.encoding)
        if threads:  # loading sets it to the cores there are
            torch.set_num_threads(threads)
        yield encoder


def device_locked(workspace: Workspace, log: Log) -> AbstractContextManager[None]:
    """The device, locked for a block; not locked where the project is read-only, as for a user who only predicts."""
    if fault := unwritable(workspace.layout.locks):
        log(f"The device is not locked, other runs may use it at the same time: {fault}.")
        return nullcontext()
    return DeviceLock(workspace.layout.locks, workspace.settings.encoding.device, log).computing()
