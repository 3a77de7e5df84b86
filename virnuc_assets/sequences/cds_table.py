"""The CDS evidence of a source: read once from its GenBank file into a table, looked up by record afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.sequences.annotation import Annotation, read_annotations
from virnuc_assets.sequences.catalogue import require_checksum
from virnuc_assets.sequences.cds import Evidence, Treatment
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import cds_schema
from virnuc_assets.storage.tables import TableWriter, read_table

_BATCH_ROWS = 4096  # a row group: what is read at least to look one record up


@dataclass(frozen=True)
class RecordEvidence:
    """What is known of a FASTA record's CDS.

    Attributes:
        evidence: `cds`, or why there is none; None where nobody asked, as of a sample.
        digest: of the proteins that are evidence, in order: equal proteins, equal digest; None without any.
    """

    evidence: Evidence | None
    digest: str | None


@dataclass(frozen=True)
class Annotations:
    """What a GenBank file gave for the records of a FASTA file.

    Attributes:
        sha256: digest of the GenBank file.
        records: evidence of every FASTA record, in the order they were given.
        treatments: CDS features of these records by treatment; all treatments are named.
        ignored_records: GenBank records that are not in the FASTA.
    """

    sha256: str
    records: Mapping[str, RecordEvidence]
    treatments: Mapping[str, int]
    ignored_records: int


def write_annotations(
    to: Path, genbank: Path, records: Mapping[str, tuple[int, str]], expected_sha256: str = ""
) -> Annotations:
    """Read a GenBank file once and write the CDS of the FASTA's records to a table; a row a CDS, in file order.

    The table's recipe names the GenBank file's digest and that of `records`.

    Args:
        to: the table; on an error it stays what it was.
        genbank: the file; records that are not in the FASTA are counted, and not written.
        records: length in nt and digest (as `Annotation.sequence_digest`) of the FASTA's records, by id.
        expected_sha256: digest that the GenBank file must have, or empty.

    Raises:
        CatalogueError: the GenBank file has another digest.
        SequenceFileError: the file cannot be read, repeats an id, holds a record of another length or sequence than
            the FASTA's of that id, or none of the FASTA's records.
    """
    recipe = {"table": "cds", "records": digest_of(dict(records))}
    found: dict[str, RecordEvidence] = {}
    treatments = Counter({str(treatment): 0 for treatment in Treatment})
    seen: set[str] = set()
    with open_source(genbank) as source, TableWriter(to, cds_schema(), recipe) as writer:
        batch: list[dict[str, object]] = []
        for annotation in read_annotations(source):
            _require_new(annotation.record_id, seen, genbank)
            if annotation.record_id in records:
                _require_same(annotation, *records[annotation.record_id], genbank)
                found[annotation.record_id] = RecordEvidence(annotation.evidence, evidence_digest(annotation.proteins))
                treatments.update(annotation.treatments)
                batch += _rows(annotation)
                if len(batch) >= _BATCH_ROWS:
                    writer.write(pa.Table.from_pylist(batch, schema=cds_schema()))
                    batch.clear()
        if records and not found:
            raise SequenceFileError(
                f"{genbank}: record {_shown(seen)} is not in the FASTA, and nothing of the FASTA is here: expected "
                f"record {_shown(records)}. Ids must be equal, with their versions."
            )
        writer.write(pa.Table.from_pylist(batch, schema=cds_schema()))
        recipe["genbank_sha256"] = source.digest()
        require_checksum(genbank, expected_sha256, recipe["genbank_sha256"])
    missing = RecordEvidence(Evidence.NOT_IN_GENBANK, None)
    evidence = {record_id: found.get(record_id, missing) for record_id in records}
    return Annotations(recipe["genbank_sha256"], evidence, treatments, len(seen) - len(found))


def evidence_digest(proteins: Sequence[str]) -> str | None:
    """Digest of the proteins that are evidence, in the order of the file; None without any."""
    return digest_of(list(proteins)) if proteins else None


def read_proteins(table: Path, record_ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The translations that are evidence, by record, in the order of the file; no entry for a record without any.

    Args:
        table: as `write_annotations` wrote it; only parts of it that may hold the records are read.
        record_ids: those to look up.

    Raises:
        TableMismatch: the table is missing, damaged or another.
    """
    asked = pa.array(sorted(record_ids), pa.string())
    record, treatment = pc.field("record_id"), pc.field("treatment")
    wanted = record.isin(asked) & (treatment == str(Treatment.USED))
    if len(asked):  # bounds, by which parts of the table are passed over where it is in the order of ids
        wanted &= (record >= asked[0].as_py()) & (record <= asked[-1].as_py())
    rows = read_table(table, cds_schema(), {"table": "cds"}, wanted).select(["record_id", "translation"])
    proteins: dict[str, list[str]] = {}
    for record_id, translation in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        proteins.setdefault(record_id, []).append(translation)
    return {record_id: tuple(translations) for record_id, translations in proteins.items()}


def _require_new(record_id: str, seen: set[str], genbank: Path) -> None:
    if record_id in seen:
        raise SequenceFileError(
            f"{genbank}: record {record_id!r} occurs twice (second time as record {len(seen) + 1}); expected unique "
            "ids, because CDS evidence is joined on them. Rename or remove one."
        )
    seen.add(record_id)


def _require_same(annotation: Annotation, length_nt: int, digest: str, genbank: Path) -> None:
    if annotation.length_nt in (None, length_nt) and annotation.sequence_digest in (None, digest):
        return
    found = f"{annotation.length_nt} nt (sequence {annotation.sequence_digest or 'not in the file'})"
    raise SequenceFileError(
        f"{genbank}: record {annotation.record_id!r}: expected the FASTA's {length_nt} nt (sequence {digest}), found "
        f"{found}; they are of two versions. Fetch both files from one release."
    )


def _rows(annotation: Annotation) -> Iterator[dict[str, object]]:
    for number, cds in enumerate(annotation.cds, start=1):
        yield {"record_id": annotation.record_id, "cds": number, **vars(cds), "treatment": str(cds.treatment)}


def _shown(ids: Collection[str]) -> str:
    return f"{min(ids)!r}" + (f" (and {len(ids) - 1} more)" if len(ids) > 1 else "")
