"""What the records of a GenBank file tell, read as a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from virnuc_assets.sequences.cds import Cds, Evidence, evidence_of, proteins_of
from virnuc_assets.sequences.genbank import Entry, read_genbank
from virnuc_assets.sequences.letters import LettersDigest
from virnuc_assets.sequences.opening import SourceFile


@dataclass(frozen=True)
class Annotation:
    """What a GenBank record tells.

    Attributes:
        record_id: accession with version.
        length_nt: of the sequence; where the file has none, as LOCUS tells it, or None.
        sequence_digest: `LettersDigest` of the sequence; None where the file has none.
        cds: its CDS features, in the order of the file.
    """

    record_id: str
    length_nt: int | None
    sequence_digest: str | None
    cds: tuple[Cds, ...]

    @property
    def proteins(self) -> tuple[str, ...]:
        """The translations that are evidence."""
        return proteins_of(self.cds)

    @property
    def treatments(self) -> Counter[str]:
        """CDS features by treatment."""
        return Counter(str(cds.treatment) for cds in self.cds)

    @property
    def evidence(self) -> Evidence:
        """Whether the record's frames can be held against CDS, or why not."""
        return evidence_of(self.cds)


def read_annotations(source: SourceFile) -> Iterator[Annotation]:
    """Stream the annotations of an open GenBank file, in file order; no sequence is kept.

    Raises:
        SequenceFileError: as `read_genbank`.
    """
    entry: Entry | None = None
    digest = LettersDigest()
    for part in read_genbank(source):
        if isinstance(part, Entry):
            if entry:
                yield _annotation(entry, digest)
            entry, digest = part, LettersDigest()
        else:
            digest.update(part)
    if entry:
        yield _annotation(entry, digest)


def _annotation(entry: Entry, letters: LettersDigest) -> Annotation:
    if letters.length_nt == 0 and entry.length_nt != 0:
        return Annotation(entry.id, entry.length_nt, None, entry.cds)
    return Annotation(entry.id, letters.length_nt, letters.hexdigest(), entry.cds)
