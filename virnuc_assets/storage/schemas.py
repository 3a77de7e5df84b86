"""The columns of every table; a vector's width is part of its column's type."""

from __future__ import annotations

import pyarrow as pa

from virnuc_assets.storage.digests import SEQUENCE_DIGEST_BYTES

_STRING = pa.string()
_COUNT = pa.int64()
# Columns of nucleotides or residues: long, and hardly a value twice.
SEQUENCE_COLUMNS = frozenset({"sequence", "nucleotides", "protein", "translation"})
# Those of frames are not compressed: residues cannot be, and nucleotides took a tenth of all the time of framing, for
# 1.3 MB less per Mb; the vectors made of them take some fifty times that.
FRAME_SEQUENCES = frozenset({"nucleotides", "protein"})

# What became of a frame; of a chunk: kept if one of its frames is, else the reason that went furthest.
STATUSES = ("kept", "dropped_stop", "dropped_empty", "dropped_ambiguous", "dropped_no_cds")
LEDGER_COUNTS = ("chunks", *(f"{what}_{status}" for what in ("chunks", "frames") for status in STATUSES))


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, dtype) for name, dtype in columns.items()])


def _vector(dim: int) -> pa.DataType:
    return pa.list_(pa.float32(), dim)


def plan_schema() -> pa.Schema:
    """One row per segment of a record in a shard, by source in file order; chunks are 0-based, half-open.

    `number` is the record's place in its file, from 1; `status` is planned, skipped, or failed with a reason.
    """
    return _schema(
        source=_STRING,
        shard=_STRING,
        record_id=_STRING,
        number=_COUNT,
        length_nt=_COUNT,
        digest=_STRING,
        first_chunk=_COUNT,
        end_chunk=_COUNT,
        status=_STRING,
        reason=_STRING,
        evidence=_STRING,
        evidence_digest=_STRING,
    )


def incoming_schema() -> pa.Schema:
    """One row per file of the watched folder: the fields of `sequences.incoming.IncomingFile`, or null."""
    return _schema(file=_STRING, state=_STRING, status=_STRING, sample=_STRING, content=_STRING, reason=_STRING)


def chunks_schema() -> pa.Schema:
    """One row per chunk; positions 0-based, half-open, in nt of the record."""
    return _schema(chunk_id=_STRING, record_id=_STRING, start_nt=_COUNT, end_nt=_COUNT, sequence=_STRING)


def cds_schema() -> pa.Schema:
    """One row per CDS feature (1-based in its record); translation is null where the file gives none."""
    return _schema(
        record_id=_STRING,
        cds=_COUNT,
        treatment=_STRING,
        location=_STRING,
        product=_STRING,
        protein_id=_STRING,
        translation=_STRING,
    )


def frames_schema(located: bool = False) -> pa.Schema:
    """One row per open frame; label, group and annotated are null for samples.

    Where frames are stretches (`located`), start_nt and end_nt are their place on the record's forward strand.
    """
    where = {"start_nt": _COUNT, "end_nt": _COUNT} if located else {}
    return _schema(
        frame_id=_STRING,
        chunk_id=_STRING,
        record_id=_STRING,
        strand=_STRING,
        frame=pa.int8(),
        **where,
        nucleotides=_STRING,
        protein=_STRING,
        label=_STRING,
        group=_STRING,
        annotated=pa.bool_(),
    )


def embeddings_schema(dim: int) -> pa.Schema:
    """One row per frame, in the order of the frames table; digest is that of the encoded sequence."""
    return _schema(frame_id=_STRING, digest=pa.binary(SEQUENCE_DIGEST_BYTES), vector=_vector(dim))


def features_schema(dim: int) -> pa.Schema:
    """One row per frame, in the order of the frames table; vector = nucleotide embedding, then protein embedding."""
    return _schema(
        frame_id=_STRING, chunk_id=_STRING, record_id=_STRING, label=_STRING, group=_STRING, vector=_vector(dim)
    )


def predictions_schema() -> pa.Schema:
    """One row per frame; scores are softmax probabilities of (other, virus); call is virus or others."""
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
    """Evaluation rows once for every encoder whose vectors alone were scored."""
    return pa.schema([pa.field("encoder", _STRING), *evaluation_schema()])


def frame_rules_schema() -> pa.Schema:
    """One row per chunk of a test record: how many frames it has by each rule, and what one classifier makes of it.

    Columns in aa count residues; `longest_aa` those of the longest stretch, 0 where none is long enough. Probability
    is calibrated, null where the chunk is not scored.
    """
    texts = dict.fromkeys(("chunk_id", "record_id", "cluster", "label", "group"), _STRING)
    rules = ("stop_free", "longest_orf")
    counts = dict.fromkeys(
        ("length_nt", *(f"{rule}{of}" for of in ("", "_aa") for rule in rules), "longest_aa"), _COUNT
    )
    return _schema(**texts, **counts, probability=pa.float64())


def ledger_schema() -> pa.Schema:
    """One row per input record (of a shard: its segment).

    Chunks = kept + dropped by reason, and so are six frames a chunk. Disposition is scored, skipped or failed; evidence
    is the word of what CDS evidence the record's annotation gives, null for samples.
    """
    return _schema(
        record_id=_STRING,
        length_nt=_COUNT,
        disposition=_STRING,
        reason=_STRING,
        evidence=_STRING,
        **dict.fromkeys(LEDGER_COUNTS, _COUNT),
    )


def reference_ledger_schema() -> pa.Schema:
    """Ledger rows of all sources."""
    return pa.schema([pa.field("source", _STRING), *ledger_schema()])


def vector_dim(schema: pa.Schema) -> int:
    """Width of the table's vector column."""
    return int(schema.field("vector").type.list_size)
