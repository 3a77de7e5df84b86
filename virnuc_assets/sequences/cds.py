"""CDS evidence: what each CDS feature is worth, the table of a source's CDS, and which proteins lie inside of them.

Sources: the INSDC feature table, version 11 (qualifiers /translation, /pseudo, /pseudogene, /exception), and
upstream's `create_refseq_pro_list` in units.py, which takes the first /translation of each CDS as it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from Bio.SeqFeature import SeqFeature

from virnuc_assets.sequences.catalogue import require_checksum
from virnuc_assets.sequences.genbank import read_genbank
from virnuc_assets.sequences.opening import SequenceFileError, SourceFile, open_source
from virnuc_assets.sequences.records import LettersDigest, by_record
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import cds_schema
from virnuc_assets.storage.tables import TableWriter, read_table

# All 26 are amino acid codes of IUPAC or INSDC: X, B, Z and J stand for several, U and O for the rare ones. No frame
# of the standard code holds one of these six, so that a frame beside them finds evidence and one across them none.
_AMINO_ACIDS = frozenset(ascii_uppercase)
_STOP = "*"
_BATCH_ROWS = 4096  # a row group: what is read at least to look one record up
_WORD = np.dtype("<u8").itemsize  # residues of a word: a machine word of bytes
_STEP = 16
_SHORTEST = _WORD + _STEP - 1
# Measured: sorting the words of a text costs as much as searching about this many residues.
_WORTH_SORTING = 1 << 20


class Treatment(StrEnum):
    """What is done with a CDS feature."""

    USED = "used"
    """Its translation is evidence: also of joined, slipped, trans-spliced, origin-spanning and partial features."""
    PSEUDO = "pseudo"
    """/pseudo or /pseudogene: no protein is made, even if a translation is given."""
    NO_TRANSLATION = "no_translation"
    """No /translation. We make none: genetic code and exceptions are the annotator's to know."""
    EMPTY_TRANSLATION = "empty_translation"
    NOT_PROTEIN = "not_protein"
    """The translation holds a stop before its end, or what is no letter from A to Z."""


class Evidence(StrEnum):
    """Whether a record's frames can be compared with CDS; if not, they are kept as they are and marked by this word."""

    CDS = "cds"
    NO_GENBANK = "no GenBank file"
    NOT_IN_GENBANK = "record not in GenBank"
    NO_FEATURE = "no CDS feature"
    PSEUDOGENES = "pseudogenes only"
    NO_TRANSLATION = "CDS without translation"
    """None of the CDS has a translation that can be used, and not all of them are pseudogenes."""


@dataclass(frozen=True)
class Cds:
    """One CDS feature.

    Attributes:
        treatment: what is done with it.
        location: as Biopython writes it, 0-based and half-open; empty where the file's cannot be read.
        product: /product, else /gene, else /locus_tag, else empty.
        protein_id: /protein_id, or empty.
        translation: the first /translation in upper case without a stop at its end; None without one.
    """

    treatment: Treatment
    location: str
    product: str
    protein_id: str
    translation: str | None


def cds_of(feature: SeqFeature) -> Cds:
    """A CDS feature with its treatment."""
    given = {name: values[0] for name, values in feature.qualifiers.items() if values}
    translation = given["translation"].upper().removesuffix(_STOP) if "translation" in given else None
    return Cds(
        _treatment(given.keys(), translation),
        "" if feature.location is None else str(feature.location),
        given.get("product") or given.get("gene") or given.get("locus_tag") or "",
        given.get("protein_id", ""),
        translation,
    )


def _treatment(qualifiers: Iterable[str], translation: str | None) -> Treatment:
    if {"pseudo", "pseudogene"} & set(qualifiers):
        return Treatment.PSEUDO
    if translation is None:
        return Treatment.NO_TRANSLATION
    if not translation:
        return Treatment.EMPTY_TRANSLATION
    return Treatment.USED if _AMINO_ACIDS.issuperset(translation) else Treatment.NOT_PROTEIN


@dataclass(frozen=True)
class Annotation:
    """What a GenBank record says, without its sequence.

    Attributes:
        record_id: accession with version.
        length_nt: of the sequence; where the file has none, as LOCUS gives it, or None.
        sequence_digest: `LettersDigest` of the sequence; None where the file has none.
        cds: its CDS features, in the order of the file.
    """

    record_id: str
    length_nt: int | None
    sequence_digest: str | None
    cds: tuple[Cds, ...]

    @property
    def proteins(self) -> list[str]:
        """The translations that are evidence, in the order of the file."""
        return [cds.translation or "" for cds in self.cds if cds.treatment is Treatment.USED]

    @property
    def evidence(self) -> Evidence:
        """Whether the record's frames can be compared with CDS, or why not."""
        treatments = {cds.treatment for cds in self.cds}
        if not treatments:
            return Evidence.NO_FEATURE
        if Treatment.USED in treatments:
            return Evidence.CDS
        return Evidence.PSEUDOGENES if treatments == {Treatment.PSEUDO} else Evidence.NO_TRANSLATION


def read_annotations(source: SourceFile) -> Iterator[Annotation]:
    """Stream the annotations of an open GenBank file, in file order; errors as of `read_genbank`."""
    for entry, pieces in by_record(read_genbank(source)):
        letters, cds = LettersDigest(pieces), tuple(map(cds_of, entry.features))
        if letters.length_nt == 0 and entry.length_nt != 0:
            yield Annotation(entry.id, entry.length_nt, None, cds)
        else:
            yield Annotation(entry.id, letters.length_nt, letters.hexdigest(), cds)


class RecordEvidence(NamedTuple):
    """What is known of a FASTA record's CDS.

    Attributes:
        evidence: `cds`, or why there is none.
        evidence_digest: of the proteins that are evidence, in order: equal proteins, equal digest; None without any.
    """

    evidence: Evidence
    evidence_digest: str | None


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
    """Read a GenBank file once and write the CDS of the FASTA's records to a table; one row per CDS, in file order.

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
    provenance = {"table": "cds", "records": digest_of(dict(records))}
    found: dict[str, RecordEvidence] = {}
    treatments = Counter({str(treatment): 0 for treatment in Treatment})
    seen: set[str] = set()
    with open_source(genbank) as source, TableWriter(to, cds_schema(), provenance) as writer:
        batch: list[dict[str, object]] = []
        for annotation in read_annotations(source):
            if annotation.record_id in seen:
                raise SequenceFileError(
                    f"{genbank}: record {annotation.record_id!r} occurs twice (second time as record {len(seen) + 1}); "
                    "expected unique ids, because CDS evidence is joined on them. Rename or remove one."
                )
            seen.add(annotation.record_id)
            if annotation.record_id in records:
                _require_same(annotation, *records[annotation.record_id], genbank)
                found[annotation.record_id] = RecordEvidence(annotation.evidence, evidence_digest(annotation.proteins))
                treatments.update(str(cds.treatment) for cds in annotation.cds)
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
        provenance["genbank_sha256"] = source.digest()
        require_checksum(genbank, expected_sha256, provenance["genbank_sha256"])
    missing = RecordEvidence(Evidence.NOT_IN_GENBANK, None)
    evidence = {record_id: found.get(record_id, missing) for record_id in records}
    return Annotations(provenance["genbank_sha256"], evidence, treatments, len(seen) - len(found))


def _require_same(annotation: Annotation, length_nt: int, digest: str, genbank: Path) -> None:
    if annotation.length_nt in (None, length_nt) and annotation.sequence_digest in (None, digest):
        return
    raise SequenceFileError(
        f"{genbank}: record {annotation.record_id!r}: expected the FASTA's {length_nt} nt (sequence {digest}), found "
        f"{annotation.length_nt} nt (sequence {annotation.sequence_digest or 'not in the file'}); they are of two "
        "versions. Fetch both files from one release."
    )


def _rows(annotation: Annotation) -> Iterator[dict[str, object]]:
    for number, cds in enumerate(annotation.cds, start=1):
        yield {"record_id": annotation.record_id, "cds": number, **vars(cds), "treatment": str(cds.treatment)}


def _shown(ids: Collection[str]) -> str:
    return f"{min(ids)!r}" + (f" (and {len(ids) - 1} more)" if len(ids) > 1 else "")


def evidence_digest(proteins: Sequence[str]) -> str | None:
    """Digest of the proteins that are evidence, in the order of the file; None without any."""
    return digest_of(list(proteins)) if proteins else None


def read_proteins(table: Path, record_ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The translations that are evidence, by record, in the order of the file; no entry for a record without any.

    Raises:
        TableMismatch: the table is missing, damaged or another.
    """
    asked = sorted(record_ids)
    record = pc.field("record_id")
    wanted = record.isin(pa.array(asked, pa.string())) & (pc.field("treatment") == str(Treatment.USED))
    if asked:  # bounds, by which parts of the table are passed over where it is in the order of ids
        wanted &= (record >= asked[0]) & (record <= asked[-1])
    rows = read_table(table, cds_schema(), {"table": "cds"}, wanted)
    proteins: dict[str, list[str]] = {}
    for record_id, translation in zip(rows["record_id"].to_pylist(), rows["translation"].to_pylist(), strict=True):
        proteins.setdefault(record_id, []).append(translation)
    return {record_id: tuple(translations) for record_id, translations in proteins.items()}


def occur_inside(queries: Sequence[bytes], proteins: Sequence[str]) -> npt.NDArray[np.bool_]:
    """For every query whether it occurs, residue by residue, inside of at least one protein; bool (queries,).

    Upstream searches each translation in turn (`seq_in_reflist` in units.py). Here every 16th word of eight residues
    of the joined proteins is sorted: wherever a query occurs, one of its first sixteen words is such a word (as in
    BLAT, Kent 2002). For the 4,261 open frames of a genome of 1.4 M residues: 29 ms, and 131 ms by plain search.
    """
    text = b"\n".join(protein.encode() for protein in dict.fromkeys(proteins))
    if len(queries) * len(text) < _WORTH_SORTING:
        return np.array([query in text for query in queries], np.bool_)
    lengths = np.fromiter(map(len, queries), np.int64, len(queries))
    found = np.zeros(len(queries), np.bool_)
    for row in np.flatnonzero(lengths < _SHORTEST).tolist():
        found[row] = queries[row] in text
    long = np.flatnonzero(lengths >= _SHORTEST)
    starts = (np.cumsum(lengths) - lengths)[long]
    first = _words(b"".join(queries))[starts[:, None] + np.arange(_STEP)]  # (long, step)
    places = np.argsort(_words(text)[::_STEP]) * _STEP
    words = _words(text)[places]
    begin, end = np.searchsorted(words, first), np.searchsorted(words, first, side="right")
    rows, offsets = np.nonzero(begin < end)
    hits = zip(long[rows].tolist(), offsets.tolist(), begin[rows, offsets], end[rows, offsets], strict=True)
    for row, offset, a, b in hits:
        # A place before the text's begin counts from its end, where less is left than a query is long.
        found[row] |= any(text.startswith(queries[row], place - offset) for place in places[a:b].tolist())
    return found


def _words(text: bytes) -> npt.NDArray[np.uint64]:
    """The eight letters that begin at each letter, but the last seven, as numbers; a view of the text."""
    return np.ndarray(max(0, len(text) - _WORD + 1), dtype="<u8", buffer=text, strides=(1,))
