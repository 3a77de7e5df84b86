"""The stages on single files, for the command line: the assets' domain functions, without an orchestrator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import find_checkpoint
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import MergedLedger, ledger_table, ledger_totals
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.atomic import atomic_files
from virnuc_assets.storage.outputs import require_output, require_outputs, require_space, unwritable
from virnuc_assets.storage.places import scratch_folder
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import TableWriter, content_digest, read_rows, read_windows
from virnuc_assets.storage.windows import Rows, in_windows

if TYPE_CHECKING:
    from virnuc_assets.classifier.scoring import ServingClassifier
    from virnuc_assets.encoders.loading import Encoder
    from virnuc_assets.encoders.registry import EncoderSpec

Report = Callable[[int, int], None]  # how many were done since the last call, and how many there are in all
Log = Callable[[str], None]
CHUNK_WINDOW = 1000
_FLOAT_BYTES = 4
# Frames whose vectors are in memory at once. With 4096 a file of 50 Mb took 70 MB more than one of 5 Mb, with few each
# part of a table takes some kilobytes while it is written or read.
_ROWS = 1024


def require_chunk_length(chunk_length: int) -> None:
    """Raise unless VirNucPro knows this chunk length."""
    if chunk_length not in (allowed := SequenceSettings.model_fields["chunk_length"].annotation.__args__):  # type: ignore[union-attr]
        raise VirnucError(f"--chunk-length: expected one of {', '.join(map(str, allowed))}, found {chunk_length}")


class Framed:
    """Frames of a file, window by window, and its ledger once all windows are through."""

    def __init__(self, path: Path, chunk_length: int) -> None:
        """Read the file once, to plan its windows.

        Raises:
            SequenceFileError: it cannot be read.
        """
        plan = plan_source(path, source_name(path), chunk_length, CHUNK_WINDOW)
        # A third of what a plan takes in memory is in columns that are not read here.
        self._plan = replace(plan, table=plan.table.drop_columns(["digest", "source", "evidence_digest"]))
        self._ledger = MergedLedger(self._plan.table)
        (source,) = self._plan.sources.values()
        self.provenance = {"table": "frames", "source_sha256": source.sha256, "chunk_length": chunk_length}

    def windows(self, report: Report) -> Iterator[pa.Table]:
        """Frames of so many chunks at a time; at least one table."""
        total = pc.sum(pc.subtract(self._plan.table["end_chunk"], self._plan.table["first_chunk"])).as_py()
        for rows, (segments, chunks) in zip(self._plan.rows_by_shard.values(), chunk_tables(self._plan), strict=True):
            frames, counts = open_frames(chunks, None)
            self._ledger.add(rows, ledger_table(segments, counts))
            report(chunks.num_rows, total)
            yield frames

    def write(self, path: Path, report: Report) -> None:
        """Write the frames table."""
        with TableWriter(path, frames_schema(), self.provenance) as writer:
            for window in self.windows(report):
                writer.write(window)

    def ledger(self) -> pa.Table:
        """One line per record, in file order."""
        return self._ledger.table()


def frame_file(source: Path, to: Path, chunk_length: int, report: Report) -> dict[str, Any]:
    """Write the frames table of a file; returns what was counted."""
    require_output(to, [source])
    framed = Framed(source, chunk_length)
    framed.write(to, report)
    return ledger_totals(framed.ledger())


def embed_file(
    workspace: Workspace, frames: Path, encoder_name: str, to: Path, report: Report, log: Log
) -> dict[str, Any]:
    """Write the embeddings of a frames table by a named encoder; returns what was counted."""
    from virnuc_assets.encoders.embedding import read_frames

    require_output(to, [frames])
    rows = read_rows(frames)
    with _loaded(workspace, workspace.encoder_named(encoder_name), log) as encoder:
        require_space(to.parent, rows * encoder.dim * _FLOAT_BYTES, "the vectors")
        provenance = {"table": "embeddings", "frames": content_digest(frames), "encoder": encoder.fingerprint}
        _embed(to, encoder, read_frames(encoder, frames), provenance, lambda done: report(done, rows))
    return {"frames": rows, "encoder": encoder.spec.name, "dim": encoder.dim, "device": encoder.device}


def predict_file(workspace: Workspace, source: Path, to: Path, report: Report, log: Log) -> dict[str, Any]:
    """Write VirNucPro's two files and `records.tsv` for a file, together; returns what was counted.

    What is missing or does not fit is refused before any work. One encoder is in memory at a time; frames and vectors
    are temporary tables, read in windows.
    """
    from virnuc_assets.classifier.scoring import ServingClassifier
    from virnuc_assets.encoders.checkpoints import fingerprint
    from virnuc_assets.encoders.embedding import read_frames
    from virnuc_assets.encoders.loading import vector_width
    from virnuc_assets.reports.sample_report import REPORT_FILES, write_sample_report

    require_outputs(to, REPORT_FILES, [source])
    settings, layout = workspace.settings, workspace.layout
    variant = workspace.variant(settings.serving.variant)
    specs = {"dna": workspace.encoder(variant.dna), "protein": workspace.encoder(variant.protein)}
    folders = {alphabet: find_checkpoint(spec, layout.checkpoints) for alphabet, spec in specs.items()}
    precision = settings.encoding.precision
    fingerprints = {alphabet: fingerprint(spec, folders[alphabet], precision) for alphabet, spec in specs.items()}
    widths = {alphabet: vector_width(spec, folders[alphabet]) for alphabet, spec in specs.items()}
    chunk_length = settings.sequences.chunk_length
    classifier = ServingClassifier.load(layout.classifier(variant.name), fingerprints, widths, chunk_length)
    framed = Framed(source, chunk_length)
    with scratch_folder() as scratch:
        tables = {name: scratch / f"{name}.parquet" for name in ("frames", *specs)}
        framed.write(tables["frames"], lambda done, total: None)
        rows = read_rows(tables["frames"])
        require_space(scratch, rows * sum(widths.values()) * _FLOAT_BYTES, "the vectors (in TMPDIR)")
        for alphabet, spec in specs.items():
            with _loaded(workspace, spec, log) as encoder:
                windows = read_frames(encoder, tables["frames"])
                _embed(tables[alphabet], encoder, windows, {}, lambda done: report(done, 2 * rows))
        ledger, predictions = framed.ledger(), _predictions(classifier, tables, widths)
        temperature, confidence = classifier.description.temperature, settings.evaluation.min_confidence
        with atomic_files(to) as temporary:
            records = write_sample_report(temporary, predictions, ledger, temperature, confidence)
    calls = Counter(call or "not scored" for call in records.column("call").to_pylist())
    return {
        **ledger_totals(ledger),
        **{f"records classified as {call}": count for call, count in sorted(calls.items())},
    }


def _predictions(
    classifier: ServingClassifier, tables: Mapping[str, Path], widths: Mapping[str, int]
) -> Iterator[pa.Table]:
    """Predictions of a frames table, whose vectors are in the same order, in windows."""
    from virnuc_assets.storage.merging import merge_features

    embeddings = {
        alphabet: Rows(read_windows(tables[alphabet], _ROWS, embeddings_schema(widths[alphabet])))
        for alphabet in widths
    }
    for frames in read_windows(tables["frames"], _ROWS, frames_schema()):
        if not frames.num_rows:  # of a table without rows
            return
        vectors = {alphabet: rows.take(frames.num_rows) for alphabet, rows in embeddings.items()}
        yield classifier.predictions(merge_features(frames, vectors["dna"], vectors["protein"]))


def _embed(
    path: Path,
    encoder: Encoder,
    windows: Iterator[pa.Table],
    provenance: dict[str, Any],
    progress: Callable[[int], None],
) -> None:
    from virnuc_assets.encoders.embedding import embed_windows

    with TableWriter(path, embeddings_schema(encoder.dim), provenance) as writer:
        for table in in_windows(embed_windows(encoder, windows, progress), _ROWS):
            writer.write(table)


@contextmanager
def _loaded(workspace: Workspace, spec: EncoderSpec, log: Log) -> Iterator[Encoder]:
    """The encoder, and for a language model the device, which is locked for the block."""
    from virnuc_assets.encoders.golden import load_for_run

    with nullcontext() if spec.architecture == "kmer" else device_locked(workspace, log):
        yield load_for_run(spec, workspace.layout.checkpoints, workspace.settings.encoding)


def device_locked(workspace: Workspace, log: Log) -> AbstractContextManager[None]:
    """The device, locked for a block; not locked where the project is read-only, as for a user who only predicts."""
    from virnuc_assets.workstation.device_lock import DeviceLock

    if fault := unwritable(workspace.layout.locks):
        log(f"The device is not locked, other runs may use it at the same time: {fault}.")
        return nullcontext()
    return DeviceLock(workspace.layout.locks, workspace.settings.encoding.device, log).computing()
