"""A plain statement of what a FASTA file holds and what must become of its records; whole in memory, as strings."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from dataclasses import dataclass

from virnuc_assets_tests.sequences.plain import plain_frames, walked_chunks

IUPAC = "ACGTRYKMSWBDHVN"
BLANKS = " \t\r\n\v\f"
LONGEST_ID = 1000
FOREIGN = (b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True)
class PlainRecord:
    """A record and what must become of it: scored or skipped by its frames (None), or skipped or failed by its id."""

    record_id: str
    sequence: str
    disposition: str | None = None


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
        letters = "".join(letter for letter in lines if letter not in BLANKS)
        if not words or not letters.isascii() or set(letters.upper()) - set(IUPAC + "U"):
            return None
        record_id = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words[0])
        if len(record_id) > LONGEST_ID:
            return None
        read.append((record_id, letters.upper().replace("U", "T")))
    if re.split("^>", text, flags=re.MULTILINE)[0].strip():
        return None
    sequences: dict[str, set[str]] = {}
    for record_id, sequence in read:
        sequences.setdefault(record_id, set()).add(sequence)
    seen: Counter[str] = Counter()
    records = []
    for record_id, sequence in read:
        fate = "failed" if len(sequences[record_id]) > 1 else "skipped" if seen[record_id] else None
        seen[record_id] += 1
        records.append(PlainRecord(record_id, sequence, fate))
    return records


def plain_rows(record: PlainRecord, chunk_length: int) -> tuple[list[tuple[str, str, str]], Counter[str]]:
    """Kept frames (frame_id, nucleotides, protein) of a record as a sample, and the counts of its ledger line."""
    rows, counts = [], Counter[str]()
    if record.disposition is None and record.sequence:
        for number, (start, end) in enumerate(walked_chunks(len(record.sequence), chunk_length), start=1):
            counts["chunks"] += 1
            for name, nucleotides, protein in plain_frames(record.sequence[start:end]):
                if not protein:
                    counts["frames_dropped_empty"] += 1
                elif "*" in protein:
                    counts["frames_dropped_stop"] += 1
                else:
                    counts["frames_kept"] += 1
                    rows.append((f"{record.record_id}_chunk_{number}{name}", nucleotides, protein))
    return rows, counts
