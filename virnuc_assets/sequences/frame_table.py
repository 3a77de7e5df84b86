"""Open frames of a chunks table, with the evidence that training rows need and a count of all that is dropped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from virnuc_assets.sequences.catalogue import Label
from virnuc_assets.sequences.reading import UNAMBIGUOUS
from virnuc_assets.sequences.translation import FRAMES_PER_CHUNK, Frame, six_frames
from virnuc_assets.storage.schemas import frames_schema

_STOP = "*"
# No letter of a protein: a frame can never match across the border of two proteins.
_BORDER = "\n"


@dataclass(frozen=True)
class Truth:
    """What is known of reference records.

    Attributes:
        label: viral or host.
        group: virus group or host group.
        proteins: CDS translations by record id; a record that is not named here has no annotation.
    """

    label: Label
    group: str
    proteins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenFrames:
    """Frames table of a shard, and for each record what became of its chunks and frames."""

    table: pa.Table
    counts: Mapping[str, Counter[str]]


def open_frames(chunks: pa.Table, truth: Truth | None) -> OpenFrames:
    """Stop-free, non-empty frames of every chunk, in chunk order, F1 to F3 before R1 to R3.

    For reference data (`truth` given) chunks with an ambiguity code are left out, and a frame of an annotated
    record is kept only if its protein occurs inside one of the record's CDS translations.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    columns: dict[str, list[object]] = {name: [] for name in frames_schema().names}
    evidence = _Evidence(truth)
    for chunk_id, record_id, sequence in _rows(chunks):
        count = counts[record_id]
        count["chunks"] += 1
        if truth is not None and sequence.strip(UNAMBIGUOUS):
            count["frames_dropped_ambiguous"] += FRAMES_PER_CHUNK
            continue
        annotated = evidence.is_annotated(record_id)
        for frame in six_frames(sequence.encode("ascii")):
            fate = _fate(frame, evidence, record_id)
            count[fate] += 1
            if fate == "frames_kept":
                row = (
                    f"{chunk_id}{frame.suffix}", chunk_id, record_id, frame.strand, frame.frame,
                    frame.nucleotides, frame.protein, truth and truth.label, truth and truth.group, annotated,
                )  # fmt: skip
                for values, value in zip(columns.values(), row, strict=True):
                    values.append(value)
    return OpenFrames(pa.table(columns, schema=frames_schema()), counts)


def _fate(frame: Frame, evidence: _Evidence, record_id: str) -> str:
    if not frame.protein:
        return "frames_dropped_empty"
    if _STOP in frame.protein:
        return "frames_dropped_stop"
    if not evidence.supports(record_id, frame.protein):
        return "frames_dropped_no_cds"
    return "frames_kept"


class _Evidence:
    """CDS evidence: the proteins of each record joined into one text that is searched at once."""

    def __init__(self, truth: Truth | None) -> None:
        self._known = truth is not None
        self._proteins = {record: _BORDER.join(found) for record, found in truth.proteins.items()} if truth else {}

    def is_annotated(self, record_id: str) -> bool | None:
        return record_id in self._proteins if self._known else None

    def supports(self, record_id: str, protein: str) -> bool:
        return record_id not in self._proteins or protein in self._proteins[record_id]


def _rows(chunks: pa.Table) -> Iterator[tuple[str, str, str]]:
    return zip(*(chunks.column(name).to_pylist() for name in ("chunk_id", "record_id", "sequence")), strict=True)
