"""Chunks of a sample as tracks for a genome browser: BED (0-based, half-open) and GFF3 (1-based, closed)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.calls import VIRUS
from virnuc_assets.classifier.sample_calls import CALLS, NOT_SCORED, OTHER, UNCERTAIN, SampleCalls
from virnuc_assets.sequences.planning import starts_of
from virnuc_assets.sequences.translation import FRAME_NAMES

BED_FILE, GFF_FILE = "chunks.bed", "chunks.gff3"
# RGB, as in the report.
COLOURS = {VIRUS: "179,72,12", OTHER: "11,97,181", UNCERTAIN: "107,111,118", NOT_SCORED: "201,203,200"}
_FULL_SCORE = 1000  # of BED
_WINDOW = 10_000  # chunks
_SEQID = ".:^*$@!+_?-|"  # what GFF3 leaves as it is, with letters and digits; quote() has `~`, too
_ATTRIBUTE = _SEQID + " ()/<>[]'#"
_FRAMES = [",".join(name for bit, name in enumerate(FRAME_NAMES) if bits >> bit & 1) for bits in range(64)]


def write_tracks(folder: Path, calls: SampleCalls, names: pa.ChunkedArray) -> None:
    """Write `chunks.bed` (BED9+3) and `chunks.gff3` with all chunks, those that are not scored included.

    The sequences' names in the tracks are one per record, each of a record with chunks once.
    """
    lengths = calls.records["length_nt"]
    with (folder / BED_FILE).open("w", encoding="utf-8") as bed, (folder / GFF_FILE).open("w", encoding="utf-8") as gff:
        gff.write("##gff-version 3\n")
        for record, number, start_nt, end_nt, probability, call, frames in _chunks(calls):
            if number == 0:
                name = names[record].as_py()
                seqid, attribute = (quote(name, safe=safe).replace("~", "%7E") for safe in (_SEQID, _ATTRIBUTE))
                # A line that begins so is a comment or a header.
                chrom = f"%{ord(name[0]):02X}{name[1:]}" if name.startswith(("#", "track", "browser")) else name
                gff.write(f"##sequence-region {seqid} 1 {lengths[record]}\n")
            scored = call != NOT_SCORED
            score, shown = (round(_FULL_SCORE * probability), f"{probability:.6f}") if scored else (0, ".")
            bed.write(
                f"{chrom}\t{start_nt}\t{end_nt}\t{name}_chunk_{number + 1}\t{score}\t.\t{start_nt}\t{end_nt}\t"
                f"{COLOURS[call]}\t{call}\t{shown}\t{frames or '.'}\n"
            )
            gff.write(
                f"{seqid}\tvirnuc\tregion\t{start_nt + 1}\t{end_nt}\t{shown}\t.\t.\t"
                f"ID={attribute}_chunk_{number + 1};call={call}{frames and f';frames={frames}'}\n"
            )


def _chunks(calls: SampleCalls) -> Iterator[tuple[int, int, int, int, float, str, str]]:
    """Of each chunk its record, its number from 0, start, end, probability, call and open frames."""
    lengths = calls.records["length_nt"].to_numpy()
    for first in range(0, len(calls.probability), _WINDOW):
        window = slice(first, min(first + _WINDOW, len(calls.probability)))
        index = np.arange(window.start, window.stop)
        record = np.searchsorted(calls.offsets, index, side="right") - 1
        number, length_nt = index - calls.offsets[record], lengths[record]
        starts = starts_of(number, length_nt, calls.chunk_length)
        ends = np.minimum(starts + calls.chunk_length, length_nt)
        columns = (record, number, starts, ends, calls.probability[window])
        words = [CALLS[code] for code in calls.chunk_calls(window).tolist()]
        frames = [_FRAMES[bits] for bits in calls.frames[window].tolist()]
        yield from zip(*(column.tolist() for column in columns), words, frames, strict=True)
