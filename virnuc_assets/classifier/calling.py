"""A trained classifier applied to features tables, and the files that a sample's user receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from virnuc_assets.classifier.calls import chunk_calls, frame_calls, record_calls
from virnuc_assets.classifier.checkpoint import (
    ClassifierDescription,
    ClassifierMismatch,
    Mlp,
    load_classifier,
    require_matches,
)
from virnuc_assets.classifier.performance import uncertain_chunks
from virnuc_assets.classifier.scoring import score
from virnuc_assets.classifier.virnucpro_files import write_virnucpro_files
from virnuc_assets.foreign_text import spreadsheet_cell, spreadsheet_text
from virnuc_assets.storage.aside import written_aside
from virnuc_assets.storage.layout import RECORDS_FILE
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import LEDGER_COUNTS, features_schema, predictions_schema, vector_dim


@dataclass(frozen=True)
class ServingClassifier:
    """A classifier that was found to fit the encoders and the chunk length in use."""

    model: Mlp
    description: ClassifierDescription

    @classmethod
    def load(
        cls, folder: Path, encoders: Mapping[str, Mapping[str, str]], dims: Mapping[str, int], chunk_length: int
    ) -> ServingClassifier:
        """Load a classifier for features of these encoders.

        Args:
            folder: the classifier's.
            encoders: fingerprints of the features' encoders, by side.
            dims: widths of the features' two parts, by side.
            chunk_length: nt of the chunks that the features come from.

        Raises:
            ClassifierMismatch: it is absent, damaged, or was trained for others; all mismatches are listed.
        """
        model, description = load_classifier(folder)
        fingerprints = (dict(encoders["dna"]), dict(encoders["protein"]))
        require_matches(description, *fingerprints, dims["dna"], dims["protein"], chunk_length)
        return cls(model, description)

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return self.description.weights_sha256

    @property
    def features_schema(self) -> pa.Schema:
        """The only features table it can read; the width is part of the type."""
        return features_schema(self.description.merged_dim)

    def predictions(self, features: pa.Table) -> pa.Table:
        """Predictions table of a features table, row for row.

        Raises:
            ClassifierMismatch: the features are of another width.
        """
        if (found := vector_dim(features.schema)) != self.description.merged_dim:
            raise ClassifierMismatch(
                f"the {self.description.variant} classifier reads {self.description.pair()}; these features have "
                f"{found} columns. Make them with its encoders, or use the classifier of theirs."
            )
        scores = score(self.model, vectors_of(features))  # (n, 2)
        known = features.select(["frame_id", "chunk_id", "record_id"])
        columns = {"score_other": scores[:, 0], "score_virus": scores[:, 1], "call": frame_calls(scores)}
        for name, values in columns.items():
            known = known.append_column(name, pa.array(values, predictions_schema().field(name).type))
        return known.cast(predictions_schema())


def sample_records(predictions: pa.Table, ledger: pa.Table, uncertain: Mapping[str, int]) -> pa.Table:
    """A line for every record of the ledger, in its order: the call of a scored one, the reason of a skipped one.

    Args:
        predictions: of all frames.
        ledger: of all records.
        uncertain: record → chunks in the abstain band (`uncertain_chunks`); those that are absent have none.
    """
    calls = record_calls(chunk_calls(predictions)).rename_columns(_CALLED).to_pandas()
    calls["chunks_uncertain"] = calls["record_id"].map(uncertain).fillna(0)
    calls["disposition"] = "scored"  # a record that was left out may have the id of one that was scored
    lines = ledger.rename_columns({"frames_kept": "frames_scored"}).to_pandas()
    lines = lines.merge(calls, on=["record_id", "disposition"], how="left")
    if len(unscored := lines[(lines["disposition"] == "scored") & lines["call"].isna()]):
        raise ClassifierMismatch(
            f"{len(unscored)} records of the ledger are scored, but have no predictions, e.g. "
            f"{unscored['record_id'].iloc[0]}; materialize the predictions again"
        )
    counts = ["chunks_scored", "chunks_viral", "chunks_uncertain"]
    lines[counts] = lines[counts].apply(pd.to_numeric).fillna(0).astype("int64")
    lines[["call", "reason"]] = lines[["call", "reason"]].astype(object).where(lines[["call", "reason"]].notna(), None)
    return pa.Table.from_pandas(lines[_RECORDS_SCHEMA.names], schema=_RECORDS_SCHEMA, preserve_index=False, safe=True)


def write_sample_report(
    folder: Path, predictions: pa.Table, ledger: pa.Table, temperature: float | None, min_confidence: float
) -> pa.Table:
    """Write VirNucPro's two files and `records.tsv` into a folder; returns the records."""
    write_virnucpro_files(folder, predictions)
    records = sample_records(predictions, ledger, uncertain_chunks(predictions, temperature, min_confidence))
    cells = records.to_pandas()
    for name in ("record_id", "call", "reason"):
        cells[name] = cells[name].map(spreadsheet_cell, na_action="ignore")
    with written_aside(folder / RECORDS_FILE) as aside:
        cells.to_csv(aside, sep="\t", index=False, lineterminator="\n", encoding="utf-8")
    return records


def read_record_ids(folder: Path) -> list[str]:
    """Record ids of a written report, in order."""
    with (folder / RECORDS_FILE).open(encoding="utf-8", newline="") as handle:  # the folder may be in an object store
        ids = pd.read_csv(handle, sep="\t", usecols=["record_id"], dtype=str, keep_default_na=False)
    return [spreadsheet_text(each) for each in ids["record_id"]]


_CALLED = {"chunks": "chunks_scored", "viral_chunks": "chunks_viral"}
# With those scored, they add up to all chunks, and to six frames a chunk.
_DROPPED = [name for name in LEDGER_COUNTS if "dropped" in name]
_RECORDS_SCHEMA = pa.schema(
    {
        "record_id": pa.string(),
        "length_nt": pa.int64(),
        "call": pa.string(),
        "viral_fraction": pa.float64(),
        "chunks": pa.int64(),
        "chunks_scored": pa.int64(),
        "chunks_viral": pa.int64(),
        "chunks_uncertain": pa.int64(),
        "frames_scored": pa.int64(),
        "disposition": pa.string(),
        "reason": pa.string(),
        **dict.fromkeys(_DROPPED, pa.int64()),
    }
)
