"""The columns of every table; a vector's width is part of its column's type."""

from __future__ import annotations

import pyarrow as pa

from virnuc_assets.storage.digests import SEQUENCE_DIGEST_BYTES

# Columns of nucleotides or residues: long, and hardly a value twice.
SEQUENCE_COLUMNS = frozenset({"sequence", "nucleotides", "protein", "translation"})
# Those of frames are not compressed: residues cannot be, and nucleotides took a tenth of all the time of framing, for
# 1.3 MB less per Mb; the vectors made of them take some fifty times that.
FRAME_SEQUENCES = frozenset({"nucleotides", "protein"})

# What became of a frame; of a chunk: kept if one of its frames is, else the reason that went furthest.
STATUSES = ("kept", "dropped_stop", "dropped_empty", "dropped_ambiguous", "dropped_no_cds")
LEDGER_COUNTS = ("chunks", *(f"{what}_{status}" for what in ("chunks", "frames") for status in STATUSES))

_INTEGERS = {"number", "length_nt", "record_length_nt", "start_nt", "end_nt", "first_chunk", "end_chunk", "cds"}
_INTEGERS |= {*LEDGER_COUNTS, "stop_free", "longest_orf", "stop_free_aa", "longest_orf_aa", "longest_aa"}


def _schema(names: str, **types: pa.DataType) -> pa.Schema:
    """Columns in this order: texts, but for the integers, which are int64, and what has a type of its own."""
    return pa.schema(
        [(name, types.get(name, pa.int64() if name in _INTEGERS else pa.string())) for name in names.split()]
    )


def _vector(dim: int) -> pa.DataType:
    return pa.list_(pa.float32(), dim)


def plan_schema() -> pa.Schema:
    """One row per segment of a record in a shard, by source in file order; chunks are 0-based, half-open.

    `number` is the record's place in its file, from 1; `status` is planned, skipped, or failed with a reason.
    """
    return _schema(
        "source shard record_id number length_nt digest first_chunk end_chunk status reason evidence evidence_digest"
    )


def incoming_schema() -> pa.Schema:
    """One row per file of the watched folder: the fields of `sequences.incoming.IncomingFile`, or null."""
    return _schema("file state status sample content reason")


def chunks_schema() -> pa.Schema:
    """One row per chunk; positions 0-based, half-open, in nt of the record."""
    return _schema("chunk_id record_id start_nt end_nt sequence")


def cds_schema() -> pa.Schema:
    """One row per CDS feature (1-based in its record); translation is null where the file gives none."""
    return _schema("record_id cds treatment location product protein_id translation")


def frames_schema(located: bool = False) -> pa.Schema:
    """One row per open frame; label, group and annotated are null for samples.

    Where frames are stretches (`located`), start_nt and end_nt are their place on the record's forward strand.
    """
    where = "start_nt end_nt" if located else ""
    names = f"frame_id chunk_id record_id strand frame {where} nucleotides protein label group annotated"
    return _schema(names, frame=pa.int8(), annotated=pa.bool_())


def embeddings_schema(dim: int) -> pa.Schema:
    """One row per frame, in the order of the frames table; digest is that of the encoded sequence."""
    return _schema("frame_id digest vector", digest=pa.binary(SEQUENCE_DIGEST_BYTES), vector=_vector(dim))


def features_schema(dim: int) -> pa.Schema:
    """One row per frame, in the order of the frames table; vector = nucleotide embedding, then protein embedding."""
    return _schema("frame_id chunk_id record_id label group vector", vector=_vector(dim))


def predictions_schema() -> pa.Schema:
    """One row per frame; scores are softmax probabilities of (other, virus); call is virus or others."""
    return _scored("")


def evaluation_schema() -> pa.Schema:
    """Predictions of test rows with what is known of them; cluster names the record's group of relatives."""
    return _scored("record_length_nt cluster label group")


def _scored(truth: str) -> pa.Schema:
    names = f"frame_id chunk_id record_id {truth} score_other score_virus call"
    return _schema(names, score_other=pa.float32(), score_virus=pa.float32())


def ablations_schema() -> pa.Schema:
    """Evaluation rows once for every encoder whose vectors alone were scored."""
    return pa.schema([("encoder", pa.string()), *evaluation_schema()])


def frame_rules_schema() -> pa.Schema:
    """One row per chunk of a test record: how many frames it has by each rule, and what one classifier makes of it.

    Columns in aa count residues; `longest_aa` those of the longest stretch, 0 where none is long enough. Probability
    is calibrated, null where the chunk is not scored.
    """
    counts = "stop_free longest_orf stop_free_aa longest_orf_aa longest_aa"
    names = f"chunk_id record_id cluster label group length_nt {counts} probability"
    return _schema(names, probability=pa.float64())


def ledger_schema() -> pa.Schema:
    """One row per input record (of a shard: its segment).

    Chunks = kept + dropped by reason, and so are six frames a chunk. Disposition is scored, skipped or failed; evidence
    is the word of what CDS evidence the record's annotation gives, null for samples.
    """
    return _schema(f"record_id length_nt disposition reason evidence {' '.join(LEDGER_COUNTS)}")


def reference_ledger_schema() -> pa.Schema:
    """Ledger rows of all sources."""
    return pa.schema([("source", pa.string()), *ledger_schema()])


def vector_dim(schema: pa.Schema) -> int:
    """Width of the table's vector column."""
    return int(schema.field("vector").type.list_size)
