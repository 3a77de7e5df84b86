"""The columns of every table; a vector's width is part of its column's type."""

from __future__ import annotations

import pyarrow as pa

_STRING = pa.string()
_COUNT = pa.int64()

LEDGER_COUNTS = (
    "chunks",
    "frames_kept",
    "frames_dropped_stop",
    "frames_dropped_empty",
    "frames_dropped_ambiguous",
    "frames_dropped_no_cds",
)


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, dtype) for name, dtype in columns.items()])


def _vector(dim: int) -> pa.DataType:
    return pa.list_(pa.float32(), dim)


def plan_schema() -> pa.Schema:
    """A row for every piece of a record in a shard; chunks are 0-based, half-open."""
    return _schema(shard=_STRING, record_id=_STRING, length_nt=_COUNT, first_chunk=_COUNT, end_chunk=_COUNT)


def chunks_schema() -> pa.Schema:
    """A row a chunk; positions 0-based, half-open, in nt of the record."""
    return _schema(chunk_id=_STRING, record_id=_STRING, start_nt=_COUNT, end_nt=_COUNT, sequence=_STRING)


def cds_schema() -> pa.Schema:
    """A row a CDS feature (1-based in its record); translation is null where the file gives none."""
    return _schema(
        record_id=_STRING,
        cds=_COUNT,
        treatment=_STRING,
        location=_STRING,
        product=_STRING,
        protein_id=_STRING,
        translation=_STRING,
    )


def frames_schema() -> pa.Schema:
    """A row a stop-free frame; label, group and annotated are null for samples."""
    return _schema(
        frame_id=_STRING,
        chunk_id=_STRING,
        record_id=_STRING,
        strand=_STRING,
        frame=pa.int8(),
        nucleotides=_STRING,
        protein=_STRING,
        label=_STRING,
        group=_STRING,
        annotated=pa.bool_(),
    )


def embeddings_schema(dim: int) -> pa.Schema:
    """A row a frame, in the order of the frames table; digest is that of the encoded sequence."""
    return _schema(frame_id=_STRING, digest=_STRING, vector=_vector(dim))


def features_schema(dim: int) -> pa.Schema:
    """A row a frame, in the order of the frames table; vector = nucleotide embedding, then protein embedding."""
    return _schema(
        frame_id=_STRING, chunk_id=_STRING, record_id=_STRING, label=_STRING, group=_STRING, vector=_vector(dim)
    )


def predictions_schema() -> pa.Schema:
    """A row a frame; scores are softmax probabilities of (other, virus); call is virus or others."""
    return _schema(
        frame_id=_STRING,
        chunk_id=_STRING,
        record_id=_STRING,
        score_other=pa.float32(),
        score_virus=pa.float32(),
        call=_STRING,
    )


def evaluation_schema() -> pa.Schema:
    """Predictions of test rows with what is known of them; cluster names the record's group of relatives."""
    columns = list(predictions_schema())
    truth = [pa.field("record_length_nt", _COUNT), *(pa.field(name, _STRING) for name in ("cluster", "label", "group"))]
    return pa.schema(columns[:3] + truth + columns[3:])


def ablations_schema() -> pa.Schema:
    """Evaluation rows once for every encoder slot whose vectors alone were scored."""
    return pa.schema([pa.field("encoder", _STRING), *evaluation_schema()])


def ledger_schema() -> pa.Schema:
    """A row an input record (of a shard: its piece); six frames a chunk = kept + dropped by reason."""
    return _schema(
        record_id=_STRING,
        length_nt=_COUNT,
        disposition=_STRING,
        reason=_STRING,
        **dict.fromkeys(LEDGER_COUNTS, _COUNT),
    )


def vector_dim(schema: pa.Schema) -> int:
    """Width of the table's vector column, as its type tells it."""
    return int(schema.field("vector").type.list_size)
