"""VirNucPro's way from FASTA to frames, stated plainly (upstream: units.py), by Biopython and a dictionary of codons.

Chunks go into a FASTA file (`split_fasta_chunk`), which is read again; each chunk is translated in six frames codon by
codon, and nucleotides and proteins of the open ones go into two FASTA files (`identify_seq`). A protein is looked for
in a list of proteins by going through the list (`seq_in_reflist`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from Bio import SeqIO
from Bio.Data.CodonTable import standard_dna_table
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

_CODONS = {**standard_dna_table.forward_table, **dict.fromkeys(standard_dna_table.stop_codons, "*")}
_COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}


def frame_source(fasta: Path, folder: Path, chunk_length: int) -> dict[str, int]:
    """Write the chunks and the open frames; returns how many there are."""
    chunks_path = folder / "chunks.fa"
    counted = {"chunks": _write_chunks(fasta, chunks_path, chunk_length), "frames": 0}
    nucleotides, proteins = [], []
    for record in SeqIO.parse(chunks_path, "fasta"):  # type: ignore[no-untyped-call]
        for name, strand, protein in open_frames(str(record.seq)):
            nucleotides.append(_record(f"{record.id}{name}", strand))
            proteins.append(_record(f"{record.id}{name}", protein))
    SeqIO.write(nucleotides, folder / "nucleotides.fa", "fasta")  # type: ignore[no-untyped-call]
    SeqIO.write(proteins, folder / "proteins.fa", "fasta")  # type: ignore[no-untyped-call]
    return {**counted, "frames": len(proteins)}


def open_frames(sequence: str) -> Iterator[tuple[str, str, str]]:
    """Name, nucleotides and protein of each stop-free frame of a chunk."""
    forward = sequence.upper()
    backward = "".join(_COMPLEMENT.get(base, base) for base in reversed(forward))
    for direction, strand in (("F", forward), ("R", backward)):
        for frame in range(3):
            protein = ""
            for start in range(frame, len(strand) - 2, 3):
                protein += _CODONS.get(strand[start : start + 3], "")
            if protein and "*" not in protein:
                yield f"{direction}{frame + 1}", strand[frame : frame + 3 * len(protein) + 1], protein


def with_evidence(frames: Sequence[str], proteins: Sequence[str]) -> list[bool]:
    """For each protein of a frame whether one of the record's proteins holds it."""
    return [_in_list(frame, proteins) for frame in frames]


def _in_list(frame: str, proteins: Sequence[str]) -> bool:
    for protein in proteins:  # noqa: SIM110 - as upstream; any() takes longer
        if frame in protein:
            return True
    return False


def _write_chunks(fasta: Path, to: Path, chunk_length: int) -> int:
    chunks = []
    for record in SeqIO.parse(fasta, "fasta"):  # type: ignore[no-untyped-call]
        sequence, start = str(record.seq), 0
        count = -(-len(sequence) // chunk_length)
        surplus = count * chunk_length - len(sequence)
        back, longer = (surplus // count, surplus - (count - 1) * (surplus // count)) if count else (0, 0)
        for number in range(count):
            chunks.append(_record(f"{record.id}_chunk_{number + 1}", sequence[start : start + chunk_length]))
            start += chunk_length - back - (number < longer)
    return int(SeqIO.write(chunks, to, "fasta"))  # type: ignore[no-untyped-call]


def _record(record_id: str, letters: str) -> SeqRecord:
    return SeqRecord(Seq(letters), record_id, description="")  # type: ignore[no-untyped-call]
