"""The stages on single files, for the command line: the assets' domain functions, without an orchestrator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.accounting import ledger_totals
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table, merged_ledger
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.sequences.shard_keys import source_name
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import TableWriter, content_digest, read_rows

if TYPE_CHECKING:
    from virnuc_assets.encoders.loading import Encoder
    from virnuc_assets.encoders.registry import EncoderSpec

# Told how many were done now, and how many there are in all.
Report = Callable[[int, int], None]
# Told for whom is waited.
Say = Callable[[str], None]
CHUNK_WINDOW = 1000


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
        self._plan = plan_source(path, source_name(path), chunk_length, CHUNK_WINDOW)
        self._path, self._chunk_length = path, chunk_length
        self._ledgers: list[pa.Table] = []
        self.recipe = {"table": "frames", "source_sha256": self._plan.sha256, "chunk_length": chunk_length}

    def windows(self, report: Report) -> Iterator[pa.Table]:
        """Frames of so many chunks at a time; at least one table."""
        pieces, total = self._plan.pieces, sum(piece.chunks for piece in self._plan.pieces)
        for window, chunks in chunk_tables(self._path, pieces, self._chunk_length, self._plan.sha256):
            found = open_frames(chunks, None)
            self._ledgers.append(ledger_table(window, found.counts))
            report(chunks.num_rows, total)
            yield found.table

    def ledger(self) -> pa.Table:
        """A line a record, in file order."""
        return merged_ledger(self._plan.pieces, self._ledgers)


def frame_file(source: Path, to: Path, chunk_length: int, report: Report) -> dict[str, Any]:
    """Write the frames table of a file; returns what was counted."""
    framed = Framed(source, chunk_length)
    with TableWriter(to, frames_schema(), framed.recipe) as writer:
        for window in framed.windows(report):
            writer.write(window)
    return ledger_totals(framed.ledger())


def embed_file(
    workspace: Workspace, frames: Path, encoder_name: str, to: Path, report: Report, say: Say
) -> dict[str, Any]:
    """Write the embeddings of a frames table by a named encoder; returns what was counted.

    A language model's device is this process's from then on until it ends, as in a run.
    """
    from virnuc_assets.encoders.embedding import embed_windows, read_frames
    from virnuc_assets.storage.schemas import embeddings_schema

    rows = read_rows(frames)
    encoder = _loaded(workspace, workspace.encoder_named(encoder_name), say)
    recipe = {"table": "embeddings", "frames": content_digest(frames), "encoder": encoder.fingerprint}
    with TableWriter(to, embeddings_schema(encoder.dim), recipe) as writer:
        for table in embed_windows(encoder, read_frames(encoder, frames), lambda done: report(done, rows)):
            writer.write(table)
    return {"frames": rows, "encoder": encoder.spec.name, "dim": encoder.dim, "device": encoder.device}


def predict_file(workspace: Workspace, source: Path, to: Path, report: Report, say: Say) -> dict[str, Any]:
    """Write VirNucPro's two files and `records.tsv` for a file; returns what was counted.

    Encoders and the serving classifier are loaded first: what is missing or does not fit is told before any work. The
    device is held as `embed_file` holds it.
    """
    from virnuc_assets.classifier.calling import ServingClassifier, write_sample_report
    from virnuc_assets.encoders.embedding import embed_frames
    from virnuc_assets.storage.merging import merge_features

    settings, layout = workspace.settings, workspace.layout
    variant = workspace.variant(settings.serving.variant)
    sides = {"dna": variant.dna, "protein": variant.protein}
    encoders = {side: _loaded(workspace, workspace.encoder(name), say) for side, name in sides.items()}
    fingerprints = {side: encoder.fingerprint for side, encoder in encoders.items()}
    chunk_length = settings.sequences.chunk_length
    dims = {side: encoder.dim for side, encoder in encoders.items()}
    classifier = ServingClassifier.load(layout.classifier(variant.name), fingerprints, dims, chunk_length)
    framed = Framed(source, chunk_length)
    frames = pa.concat_tables(framed.windows(lambda done, total: None))
    predictions = [classifier.predictions(classifier.features_schema.empty_table())]
    window_rows = max(encoder.window_rows for encoder in encoders.values())
    for start in range(0, frames.num_rows, window_rows):
        window = frames.slice(start, window_rows)
        dna = embed_frames(encoders["dna"], window, lambda done: report(done, 2 * frames.num_rows))
        protein = embed_frames(encoders["protein"], window, lambda done: report(done, 2 * frames.num_rows))
        predictions.append(classifier.predictions(merge_features(window, dna, protein)))
    temperature, confidence = classifier.description.temperature, settings.evaluation.min_confidence
    records = write_sample_report(to, pa.concat_tables(predictions), framed.ledger(), temperature, confidence)
    calls = Counter(call or "not scored" for call in records.column("call").to_pylist())
    return {
        **ledger_totals(framed.ledger()),
        **{f"records called {call}": count for call, count in sorted(calls.items())},
    }


def _loaded(workspace: Workspace, spec: EncoderSpec, say: Say) -> Encoder:
    from virnuc_assets.encoders.golden import load_for_run
    from virnuc_assets.workstation.device_lock import hold_device

    layout, encoding = workspace.layout, workspace.settings.encoding
    if spec.architecture != "kmer":
        hold_device(layout.locks, encoding.device, say)
    return load_for_run(spec, layout.checkpoints, encoding)
