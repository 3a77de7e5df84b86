"""CDS evidence: what each CDS feature is worth, the table of a source's CDS, and which proteins are inside of them.

Sources: the INSDC feature table, version 11 (qualifiers /translation, /pseudo, /pseudogene, /exception), and
upstream's `create_refseq_pro_list` in units.py, which takes the first /translation of each CDS as it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from Bio.SeqFeature import SeqFeature

from virnuc_assets.sequences.catalogue import require_checksum
from virnuc_assets.sequences.genbank import read_genbank
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.records import Header, SequenceDigest, by_record
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import cds_schema
from virnuc_assets.storage.tables import TableWriter, read_selected

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


Cds = Mapping[str, str | None]


def cds_of(feature: SeqFeature) -> Cds:
    """A CDS feature as a row of the table, without its place there.

    The location is as Biopython writes it, 0-based and half-open, or empty where the file's cannot be read; the
    translation the first in upper case without a stop at its end.
    """
    given = {name: values[0] for name, values in feature.qualifiers.items() if values}
    translation = given["translation"].upper().removesuffix("*") if "translation" in given else None
    if {"pseudo", "pseudogene"} & given.keys():
        treatment = Treatment.PSEUDO
    elif translation is None:
        treatment = Treatment.NO_TRANSLATION
    elif not translation:
        treatment = Treatment.EMPTY_TRANSLATION
    else:
        # All 26 letters are amino acid codes of IUPAC or INSDC: X, B, Z and J mean several, U and O for the rare
        # ones. No frame of the standard code holds one of these six, so that a frame next to them finds evidence
        # and one across them none.
        is_protein = translation.isascii() and translation.isalpha()
        treatment = Treatment.USED if is_protein else Treatment.NOT_PROTEIN
    return {
        "treatment": treatment,
        "location": "" if feature.location is None else str(feature.location),
        "product": given.get("product") or given.get("gene") or given.get("locus_tag") or "",
        "protein_id": given.get("protein_id", ""),
        "translation": translation,
    }


def evidence_of(found: Sequence[Cds]) -> tuple[Evidence, str | None]:
    """Whether a record with these CDS gives evidence, or why not; and the digest of the proteins that are evidence."""
    treatments = {cds["treatment"] for cds in found}
    if Treatment.USED in treatments:
        proteins = [str(cds["translation"]) for cds in found if cds["treatment"] == Treatment.USED]
        return Evidence.CDS, evidence_digest(proteins)
    if not treatments:
        return Evidence.NO_FEATURE, None
    return (Evidence.PSEUDOGENES if treatments == {Treatment.PSEUDO} else Evidence.NO_TRANSLATION), None


@dataclass(frozen=True)
class Annotations:
    """What a GenBank file gave for the records of a FASTA file."""

    sha256: str  # of the GenBank file
    records: Mapping[str, tuple[Evidence, str | None]]  # `evidence_of` every FASTA record, in the order given
    treatments: Mapping[str, int]  # CDS features of these records by treatment; all treatments are named
    ignored_records: int  # GenBank records that are not in the FASTA


def write_annotations(
    to: Path, genbank: Path, records: Mapping[str, tuple[int, str]], expected_sha256: str = ""
) -> Annotations:
    """Read a GenBank file once and write the CDS of the FASTA's records to a table; one row per CDS, in file order.

    Args:
        to: the table; on an error it stays what it was.
        genbank: the file; records that are not in the FASTA are counted, and not written.
        records: length in nt and digest of the bases of the FASTA's records, by id.
        expected_sha256: digest that the GenBank file must have, or empty.
    """
    provenance = {"table": "cds", "records": digest_of(dict(records))}
    evidence: dict[str, tuple[Evidence, str | None]] = dict.fromkeys(records, (Evidence.NOT_IN_GENBANK, None))
    treatments = Counter({str(treatment): 0 for treatment in Treatment})
    seen: set[str] = set()
    with open_source(genbank) as source, TableWriter(to, cds_schema(), provenance) as writer:
        batch: list[dict[str, object]] = []
        for header, blocks in by_record(read_genbank(source)):
            if header.id in seen:
                raise SequenceFileError(
                    f"{genbank}: record {header.id!r} occurs twice (second time as record {len(seen) + 1}); "
                    "expected unique ids, because CDS evidence is joined on them. Rename or remove one."
                )
            seen.add(header.id)
            if header.id in records:
                _require_same(header, SequenceDigest(blocks), *records[header.id], genbank)
                found = [cds_of(feature) for feature in header.features]
                evidence[header.id] = evidence_of(found)
                treatments.update(str(cds["treatment"]) for cds in found)
                batch += [{"record_id": header.id, "cds": number, **cds} for number, cds in enumerate(found, start=1)]
                if len(batch) >= _BATCH_ROWS:
                    writer.write(pa.Table.from_pylist(batch, schema=cds_schema()))
                    batch.clear()
        if records and seen.isdisjoint(records):
            raise SequenceFileError(
                f"{genbank}: record {_shown(seen)} is not in the FASTA, and nothing of the FASTA is here: expected "
                f"record {_shown(records)}. Ids must be equal, with their versions."
            )
        writer.write(pa.Table.from_pylist(batch, schema=cds_schema()))
        provenance["genbank_sha256"] = source.digest()
        require_checksum(genbank, expected_sha256, provenance["genbank_sha256"])
    return Annotations(provenance["genbank_sha256"], evidence, treatments, len(seen - records.keys()))


def _require_same(header: Header, bases: SequenceDigest, length_nt: int, digest: str, genbank: Path) -> None:
    """Raise unless a record has the FASTA's bases; one whose sequence is stored elsewhere may have its length."""
    found_nt, found = bases.length_nt, bases.hexdigest()
    if not bases.length_nt and header.length_nt != 0:
        if header.length_nt in (None, length_nt):
            return
        found_nt, found = header.length_nt, "not in the file"
    if (found_nt, found) != (length_nt, digest):
        raise SequenceFileError(
            f"{genbank}: record {header.id!r}: expected the FASTA's {length_nt} nt (sequence {digest}), found "
            f"{found_nt} nt (sequence {found}); they are of two versions. Fetch both files from one release."
        )


def _shown(ids: Collection[str]) -> str:
    return f"{min(ids)!r}" + (f" (and {len(ids) - 1} more)" if len(ids) > 1 else "")


def evidence_digest(proteins: Sequence[str]) -> str | None:
    """Digest of the proteins that are evidence, in the order of the file; None without any."""
    return digest_of(list(proteins)) if proteins else None


def read_proteins(table: Path, record_ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The translations that are evidence, by record, in the order of the file; no entry for a record without any."""
    asked = sorted(record_ids)
    record = pc.field("record_id")
    wanted = record.isin(pa.array(asked, pa.string())) & (pc.field("treatment") == str(Treatment.USED))
    if asked:  # bounds, by which parts of the table are passed over where it is in the order of ids
        wanted &= (record >= asked[0]) & (record <= asked[-1])
    rows = read_selected(table, cds_schema(), {"table": "cds"}, wanted)
    proteins: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for record_id, translation in zip(rows["record_id"].to_pylist(), rows["translation"].to_pylist(), strict=True):
        proteins[record_id] += (translation,)
    return dict(proteins)


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
    """The eight residues that begin at each letter, but the last seven, as numbers; a view of the text."""
    return np.ndarray(max(0, len(text) - _WORD + 1), dtype="<u8", buffer=text, strides=(1,))
