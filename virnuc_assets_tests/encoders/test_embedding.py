import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from virnuc_assets.encoders.alphabet import AlphabetError
from virnuc_assets.encoders.embedding import (
    NonFiniteError,
    embed,
    embed_frames,
    embed_windows,
)
from virnuc_assets.encoders.loading import Encoder, load_encoder
from virnuc_assets.encoders.machine import resolve_device
from virnuc_assets.encoders.registry import ENCODERS, PROFILES
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import EncodingSettings
from virnuc_assets.storage.digests import sequence_digest
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets_tests.encoders.drawn import drawn

NAMES = sorted(PROFILES["miniature"].values())
LENGTHS = [1, 3, 20, 33, 33, 33, 34, 60, 99, 100, 100, 166]


@pytest.fixture(scope="module")
def encoders(checkpoints: Path) -> dict[str, Encoder]:
    return {name: load_encoder(ENCODERS[name], checkpoints, EncodingSettings()) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_order_and_batch_size_change_nothing(name: str, encoders: dict[str, Encoder]) -> None:
    encoder = encoders[name]
    sequences = drawn(encoder.spec.alphabet, LENGTHS)
    alone = np.concatenate([embed(encoder, [sequence]) for sequence in sequences])
    assert alone.shape == (len(sequences), encoder.dim) and alone.dtype == np.float32

    @settings(max_examples=8, deadline=None)
    @given(st.permutations(range(len(sequences))), st.sampled_from([1, 70, 333, 100_000]))
    def check(order: list[int], token_budget: int) -> None:
        seen: list[int] = []
        encoder.token_budget = token_budget
        found = embed(encoder, [sequences[i] for i in order], progress=seen.append)
        assert np.abs(found - alone[order]).max() <= 1e-5
        assert sum(seen) == len(sequences) and encoder.spec.count_truncated(sequences) == 0

    check()


@pytest.mark.parametrize("name", NAMES)
def test_vectors_follow_the_sequence(name: str, encoders: dict[str, Encoder]) -> None:
    encoder = encoders[name]
    vectors = embed(encoder, drawn(encoder.spec.alphabet, [99] * 30))
    assert len(np.unique(vectors.round(4), axis=0)) == 30
    assert np.linalg.matrix_rank(vectors - vectors.mean(axis=0), tol=1e-3) > 10


def test_a_batch_never_exceeds_the_budget_unless_it_is_one_row(encoders: dict[str, Encoder]) -> None:
    encoder, shapes = encoders["kmer_protein"], []
    forward = encoder.forward

    class Watched:
        spec, dim, device, tokenize = encoder.spec, encoder.dim, encoder.device, encoder.tokenize
        token_budget, on_gpu = 25, False

        def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(token_ids.shape))
            return forward(token_ids)

    embed(Watched(), drawn("protein", [11, 31, 11, 11, 101]))  # type: ignore[arg-type]
    assert shapes == [(2, 10), (1, 10), (1, 30), (1, 100)]


def test_long_proteins_are_cut_and_counted(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["fastesm2_650_miniature"]
    longest = drawn("protein", [1024])[0]
    proteins = [longest, longest + "W", longest + "WWW"]
    found = embed(encoder, proteins)
    assert encoder.spec.count_truncated(proteins) == 2
    assert np.abs(found - found[0]).max() <= 1e-5


def test_nothing_gives_nothing(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["dnabert_s_miniature"]
    assert embed(encoder, []).shape == (0, encoder.dim)


def test_dna_in_a_protein_encoder_is_refused_with_its_ids(encoders: dict[str, Encoder]) -> None:
    for name in ("fastesm2_650_miniature", "esm2_3b_miniature", "kmer_protein"):
        with pytest.raises(AlphabetError, match=f"{name} reads protein[^$]*bad_F1: this looks like DNA"):
            embed(encoders[name], ["MKV", *drawn("dna", [99])], ids=["good_F1", "bad_F1"])


def test_protein_in_a_dna_encoder_is_refused(encoders: dict[str, Encoder]) -> None:
    with pytest.raises(AlphabetError, match="dnabert_s_miniature reads dna"):
        embed(encoders["dnabert_s_miniature"], drawn("protein", [50]))


def test_damaged_weights_are_refused_with_the_ids(checkpoints: Path, tmp_path: Path) -> None:
    name = "fastesm2_650_miniature"
    weights = load_file(shutil.copytree(checkpoints / name, tmp_path / name) / "model.safetensors")
    weights["esm.embeddings.word_embeddings.weight"][20] = torch.nan  # M
    save_file(weights, tmp_path / name / "model.safetensors")
    encoder = load_encoder(ENCODERS[name], tmp_path, EncodingSettings())
    with pytest.raises(NonFiniteError, match=f"{name}: 2 of 3 vectors hold NaN or infinity: b, c; .*fp32"):
        embed(encoder, ["KVL", "MKV", "KVLM"], ids=["a", "b", "c"])


def test_frames_are_embedded_from_the_encoders_column_in_row_order(encoders: dict[str, Encoder]) -> None:
    frames = pa.table(
        {
            "frame_id": [f"r_chunk_1_F{i}" for i in range(1, 5)],
            "nucleotides": drawn("dna", [31, 28, 31, 100]),
            "protein": drawn("protein", [10, 9, 10, 33]),
        }
    )
    for name in ("dnabert_s_miniature", "fastesm2_650_miniature", "kmer_protein"):
        encoder = encoders[name]
        sequences = frames[encoder.spec.column].to_pylist()
        table = embed_frames(encoder, frames)
        assert table.schema.equals(embeddings_schema(encoder.dim))
        assert table["frame_id"].to_pylist() == frames["frame_id"].to_pylist()
        assert table["digest"].to_pylist() == [sequence_digest(sequence) for sequence in sequences]
        vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
        assert np.abs(vectors - embed(encoder, sequences)).max() <= 1e-5
        windows = [window for window in embed_windows(encoder, frames.to_batches(max_chunksize=3))]
        assert pa.concat_tables(windows)["digest"].equals(table["digest"])
        assert embed_frames(encoder, frames.slice(0, 0)).schema.equals(table.schema)


def test_the_encoder_records_what_it_runs_on(encoders: dict[str, Encoder], checkpoints: Path) -> None:
    encoder = encoders["fastesm2_650_miniature"]
    assert encoder.device == resolve_device("auto")
    assert encoder.fingerprint["precision"] == "fp32" and len(encoder.fingerprint["checkpoint_digest"]) == 64
    assert load_encoder(encoder.spec, checkpoints, EncodingSettings(device="cpu")).device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_absent_is_refused(checkpoints: Path) -> None:
    with pytest.raises(VirnucError, match="torch finds no GPU"):
        load_encoder(ENCODERS["kmer_dna"], checkpoints, EncodingSettings(device="cuda"))
