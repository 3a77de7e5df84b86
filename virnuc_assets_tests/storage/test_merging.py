"""The merge: rows and order of the frames, nucleotides before proteins, and no id missing, extra or twice."""

import resource

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.storage.atomic import DiskFull
from virnuc_assets.storage.merging import MergeMismatch, ScratchVectors, merge_features
from virnuc_assets.storage.schemas import embeddings_schema, features_schema
from virnuc_assets_tests.virnucpro.files import frames

IDS = ["b_chunk_1F1", "b_chunk_1R2", "a_chunk_1F3", "a_chunk_2F1"]


def embeddings(ids: list[str], dim: int, offset: float) -> pa.Table:
    """Vectors that tell their id: the place in IDS, plus an offset for the side, plus 1/8 a column."""
    vectors = [[IDS.index(frame_id) + offset + column / 8 for column in range(dim)] for frame_id in ids]
    return pa.table(
        {"frame_id": ids, "digest": [b"d" * 16] * len(ids), "vector": vectors}, schema=embeddings_schema(dim)
    )


DNA, PROTEIN = embeddings(IDS, 2, 100), embeddings(IDS, 3, 200)


def test_a_row_is_the_frame_with_nucleotide_and_protein_vector() -> None:
    merged = merge_features(frames(IDS[1:3], "viral"), DNA.slice(1, 2), PROTEIN.slice(1, 2))
    assert merged.schema == features_schema(5)
    columns = ["frame_id", "chunk_id", "record_id", "label", "group"]
    assert merged.select(columns) == frames(IDS[1:3], "viral").select(columns)
    assert merged.column("vector").to_pylist() == [
        [101.0, 101.125, 201.0, 201.125, 201.25],
        [102.0, 102.125, 202.0, 202.125, 202.25],
    ]


@given(st.permutations(range(4)), st.permutations(range(4)), st.permutations(range(4)))
def test_the_order_of_embeddings_changes_nothing_and_that_of_frames_is_kept(
    order: list[int], dna: list[int], protein: list[int]
) -> None:
    merged = merge_features(frames([IDS[n] for n in order]), DNA.take(dna), PROTEIN.take(protein))
    whole = merge_features(frames(IDS), DNA, PROTEIN)
    assert merged.to_pylist() == whole.take(order).to_pylist()


@pytest.mark.parametrize("side", ["dna", "protein"])
@pytest.mark.parametrize(
    ("frame_rows", "embedding_rows", "words"),
    [
        ([0, 1, 2, 3], [0, 2], ["4 frames", "2 embeddings", "2 frames without", IDS[1], IDS[3]]),
        ([0, 1], [0, 1, 2, 3], ["2 frames", "4 embeddings", "2 embeddings without", IDS[2], IDS[3]]),
        ([0, 1], [0, 1, 1], ["3 embeddings", "1 twice"]),
        ([0, 1], [0, 0], ["1 frames without", IDS[1], "1 twice"]),
    ],
    ids=["missing", "extra", "twice", "twice instead of another"],
)
def test_ids_that_do_not_fit_are_counted_and_shown(
    side: str, frame_rows: list[int], embedding_rows: list[int], words: list[str]
) -> None:
    known = frames([IDS[n] for n in frame_rows])
    right, wrong = [IDS[n] for n in frame_rows], [IDS[n] for n in embedding_rows]
    dna, protein = (wrong, right) if side == "dna" else (right, wrong)
    with pytest.raises(MergeMismatch) as caught:
        merge_features(known, embeddings(dna, 2, 100), embeddings(protein, 3, 200))
    message = str(caught.value)
    assert message.startswith(f"{side} embeddings")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("embedding_rows", [[0, 1, 1], [1, 0, 0]])
def test_an_id_that_is_twice_among_the_frames_is_refused(embedding_rows: list[int]) -> None:
    twice = frames([IDS[0], IDS[0], IDS[1]])
    with pytest.raises(MergeMismatch, match="twice"):
        merge_features(twice, DNA.take(embedding_rows), PROTEIN.take(embedding_rows))


def test_a_scratch_row_that_is_cut_is_a_full_disk() -> None:
    """The second row of 64 bytes is cut, and no error is raised."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    vectors = ScratchVectors()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(DiskFull, match="a scratch file for vectors: no space.* set TMPDIR to a folder of a larger"):
            vectors.write([0, 1], np.ones((2, 16), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
