"""Composition of chunks and of their longest stretches, against counts of plain Python."""

import re
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pyarrow as pa
import pytest
from Bio.Seq import Seq
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.sequences.composition import WIDTHS, composition_features, counted
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.storage.merging import vectors_of

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SEQUENCES = st.text("ACGTN", max_size=30)


def chunks_of(*sequences: str) -> pa.Table:
    names = [f"r_chunk_{number}" for number in range(1, len(sequences) + 1)]
    return pa.table(
        {
            "chunk_id": pa.array(names, pa.string()),
            "record_id": pa.array(["r"] * len(names), pa.string()),
            "start_nt": pa.array([0] * len(names), pa.int64()),
            "end_nt": pa.array([len(each) for each in sequences], pa.int64()),
            "sequence": pa.array(sequences, pa.string()),
        }
    )


def composition_of(chunks: pa.Table, min_orf_aa: int) -> pa.Table:
    frames, _ = open_frames(chunks, None, FrameRule("longest_orf", min_orf_aa))
    return composition_features(chunks, frames, min_orf_aa)


@given(st.lists(SEQUENCES, max_size=6), st.integers(1, 3), st.sampled_from([1, 3]), st.integers(0, 3))
def test_words_are_counted_within_each_sequence(sequences: list[str], length: int, step: int, skipped: int) -> None:
    words = ["".join(word) for word in product("ACGT", repeat=length)]
    found = counted(pa.array(sequences, pa.string()).slice(skipped), "ACGT", length, step)
    assert found.shape == (len(sequences[skipped:]), len(words))
    for row, sequence in zip(found, sequences[skipped:], strict=True):
        expected = Counter(sequence[i : i + length] for i in range(0, len(sequence) - length + 1, step))
        assert dict(zip(words, row, strict=True)) == {word: expected[word] for word in words}


def test_a_chunk_is_what_its_words_and_its_longest_stretch_are() -> None:
    sequence = "TAAATGGCTGCTAAAGATTAATTAGTTAACTTAATTAG"
    chunks = chunks_of(sequence)
    stretches, _ = open_frames(chunks, None, FrameRule("longest_orf", 5))
    stretch, protein = max(
        zip(*(stretches[name].to_pylist() for name in ("nucleotides", "protein")), strict=True), key=lambda s: len(s[1])
    )
    (row,) = vectors_of(composition_of(chunks, 5))
    strands = [sequence, str(Seq(sequence).reverse_complement())]
    kmers = Counter(strand[i : i + 4] for strand in strands for i in range(len(sequence) - 3))
    forward = sorted(word for word in kmers if word <= str(Seq(word).reverse_complement()))
    assert WIDTHS["dna"] == 136
    shares = [kmers[word] / (1 if word != str(Seq(word).reverse_complement()) else 2) for word in forward]
    assert sorted(row[:136][row[:136] > 0]) == pytest.approx(sorted(np.sqrt(np.array(shares) / sum(shares))))
    codons, pairs = Counter(re.findall("...", stretch)), Counter(a + b for a, b in pairwise(protein))
    for begin, words, found in (
        (136, ["".join(codon) for codon in product("ACGT", repeat=3)], codons),
        (200, list(AMINO_ACIDS), Counter(protein)),
        (220, ["".join(pair) for pair in product(AMINO_ACIDS, repeat=2)], pairs),
    ):
        shares = [found[word] / found.total() for word in words]
        assert row[begin : begin + len(words)] == pytest.approx(np.sqrt(shares), abs=1e-6)
    assert len(row) == sum(WIDTHS.values()) == 220 + 400 + 3


def test_lengths_are_shares_of_the_chunk_and_a_missing_second_stretch_counts_as_the_shortest() -> None:
    features = composition_of(chunks_of("ATG" * 10), 5)
    longest, margin, second = vectors_of(features)[0, -3:] ** 2
    assert (longest, second) == pytest.approx((1.0, 1.0)) and margin == 0.0  # a repeat is open in several frames
    alone = composition_of(chunks_of("ATGGCTGCTAAAGATTAATTAGTTAACTTAATTAG"), 5)
    longest, margin, second = vectors_of(alone)[0, -3:] ** 2 * len("ATGGCTGCTAAAGATTAATTAGTTAACTTAATTAG") / 3
    assert second >= 5 and longest == pytest.approx(margin + second)


def test_there_is_a_row_for_each_chunk_with_a_stretch_in_their_order() -> None:
    open_chunk, stopped = "GCT" * 20, "TTAACTAACTAATTAGTTAG"
    features = composition_of(chunks_of(open_chunk, stopped, "NNNNNN", open_chunk[::-1]), 10)
    assert features["chunk_id"].to_pylist() == ["r_chunk_1", "r_chunk_4"]
    assert features["frame_id"].to_pylist() == ["r_chunk_1F1", "r_chunk_4F1"]
    assert composition_of(chunks_of(), 10).num_rows == 0
