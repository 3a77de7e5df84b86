"""Plain statements of what records, chunks and frames are: slow, obvious, and written without the package's code."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

BASES = "TCAG"
# Table 1 of https://www.ncbi.nlm.nih.gov/Taxonomy/Utils/wprintgc.cgi, codons in the order TTT, TTC, TTA, TTG, TCT …
STANDARD_CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = {a + b + c: STANDARD_CODE[16 * BASES.index(a) + 4 * BASES.index(b) + BASES.index(c)]
          for a in BASES for b in BASES for c in BASES}  # fmt: skip
COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}


def walked_chunks(length_nt: int, chunk_length: int) -> list[tuple[int, int]]:
    """Starts and ends, by taking one step after the other; the first steps back are one longer than the others."""
    count = length_nt // chunk_length + (length_nt % chunk_length > 0)
    surplus = count * chunk_length - length_nt
    shorter_step = surplus // count
    longer_steps = min(surplus - (count - 1) * shorter_step, count - 1)
    chunks, start = [], 0
    for index in range(count):
        chunks.append((start, min(start + chunk_length, length_nt)))
        start += chunk_length - (shorter_step + 1 if index < longer_steps else shorter_step)
    return chunks


def plain_reverse_complement(sequence: str) -> str:
    """Read backwards, A, C, G and T exchanged, every other letter as it is."""
    return "".join(COMPLEMENT.get(letter, letter) for letter in reversed(sequence))


@lru_cache(maxsize=10_000)  # a table is asked for as a sample and as reference
def plain_frames(sequence: str) -> list[tuple[str, str, str]]:
    """Name, nucleotides and protein of all six frames."""
    frames = []
    for name, strand in (("F", sequence), ("R", plain_reverse_complement(sequence))):
        for frame in range(3):
            codons = [strand[i : i + 3] for i in range(frame, len(strand) - 2, 3)]
            protein = "".join(CODONS[codon] for codon in codons if codon in CODONS)
            frames.append((f"{name}{frame + 1}", strand[frame : frame + 3 * len(protein) + 1], protein))
    return frames


@lru_cache(maxsize=10_000)
def plain_stretches(sequence: str) -> list[tuple[str, int, int, str, str]]:
    """Of all six frames the longest stretch without a stop: name, start and end on the forward strand, bases, protein.

    The longest is the one with the most residues, of several the first that is read; no start codon is asked for.
    """
    found = []
    for name, strand in (("F", sequence), ("R", plain_reverse_complement(sequence))):
        for frame in range(3):
            stretches, begin = [], frame
            for i in [*(i for i in range(frame, len(strand) - 2, 3) if CODONS.get(strand[i : i + 3]) == "*"), None]:
                end = max(frame, frame + (len(strand) - frame) // 3 * 3) if i is None else i
                codons = [strand[j : j + 3] for j in range(begin, end, 3)]
                protein = "".join(CODONS[codon] for codon in codons if codon in CODONS)
                stretches.append((begin, end, protein))
                begin = end + 3
            begin, end, protein = max(stretches, key=lambda stretch: len(stretch[2]))
            span = (begin, end) if name == "F" else (len(strand) - end, len(strand) - begin)
            found.append((f"{name}{frame + 1}", *span, strand[begin:end], protein))
    return found


class PlainTruth(NamedTuple):
    """What is known of the records of a reference source; records that are not named have no annotation."""

    label: str
    group: str
    proteins: dict[str, list[str]]


def plain_table(
    records: list[tuple[str, str]], chunk_length: int, truth: PlainTruth | None, min_orf_aa: int | None = None
) -> list[dict[str, object]]:
    """Every row of the frames table of upper-case records (id, DNA bases), all columns, in order.

    Of stop-free frames, or with `min_orf_aa` of the longest stretches.
    """
    rows: list[dict[str, object]] = []
    for record_id, sequence in records:
        evidence = truth.proteins.get(record_id) if truth else None
        for number, (start, end) in enumerate(walked_chunks(len(sequence), chunk_length) if sequence else [], start=1):
            chunk, chunk_id = sequence[start:end], f"{record_id}_chunk_{number}"
            if truth and set(chunk) - set("ACGT"):
                continue
            stretches = [
                (name, nucleotides, protein, {"start_nt": start + begin, "end_nt": start + stop})
                for name, begin, stop, nucleotides, protein in plain_stretches(chunk)
                if min_orf_aa is not None and len(protein) >= min_orf_aa
            ]
            whole = [(*frame, {}) for frame in plain_frames(chunk) if frame[2] and "*" not in frame[2]]
            for name, nucleotides, protein, where in whole if min_orf_aa is None else stretches:
                if evidence is not None and not any(protein in known for known in evidence):
                    continue
                rows.append(
                    {
                        "frame_id": chunk_id + name,
                        "chunk_id": chunk_id,
                        "record_id": record_id,
                        "strand": "+" if name[0] == "F" else "-",
                        "frame": int(name[1]),
                        **where,
                        "nucleotides": nucleotides,
                        "protein": protein,
                        "label": truth.label if truth else None,
                        "group": truth.group if truth else None,
                        "annotated": evidence is not None if truth else None,
                    }
                )
    return rows


# ---- what a file holds ----

IUPAC = "ACGTRYKMSWBDHVN"
BLANKS = " \t\r\n\v\f"
LONGEST_ID = 1000
FOREIGN = (b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")


class PlainRecord(NamedTuple):
    """A record and what must become of it: scored or skipped by its frames (None), or skipped by its id, or failed."""

    record_id: str
    sequence: str
    disposition: str | None


def plain_text(content: bytes) -> str | None:
    """The text of a file with plain line ends, or None where it must be refused."""
    if content.startswith(FOREIGN):
        return None
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error):
            return None
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="backslashreplace")
    return re.sub("\r\n|\r", "\n", text)


def plain_records(content: bytes) -> list[PlainRecord] | None:
    """The records of a FASTA file in order, or None where the file must be refused."""
    text = plain_text(content)
    if text is None or not text.lstrip().startswith(">"):
        return None
    read: list[tuple[str, str]] = []
    for block in re.split("^>", text, flags=re.MULTILINE)[1:]:
        header, _, lines = block.partition("\n")
        words = header.lstrip(">").split()
        bases = "".join(letter for letter in lines if letter not in BLANKS)
        if not words or not bases.isascii() or set(bases.upper()) - set(IUPAC + "U"):
            return None
        record_id = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words[0])
        if len(record_id) > LONGEST_ID:
            return None
        read.append((record_id, bases.upper().replace("U", "T")))
    if re.split("^>", text, flags=re.MULTILINE)[0].strip():
        return None
    sequences: dict[str, set[str]] = {}
    for record_id, sequence in read:
        if not like_protein(sequence):
            sequences.setdefault(record_id, set()).add(sequence)
    seen: Counter[str] = Counter()
    records = []
    for record_id, sequence in read:
        if like_protein(sequence):
            records.append(PlainRecord(record_id, sequence, "failed"))
            continue
        status = "failed" if len(sequences[record_id]) > 1 else "skipped" if seen[record_id] else None
        seen[record_id] += 1
        records.append(PlainRecord(record_id, sequence, status))
    return records


def like_protein(sequence: str) -> bool:
    return len(sequence) >= 30 and sum(map(sequence.count, "ACGTN")) < len(sequence) / 2
