"""The one embedding loop: sequences in, pooled vectors in the same order out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from virnuc_assets.encoders.alphabet import check_alphabet
from virnuc_assets.encoders.loading import Encoder
from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.schemas import embeddings_schema

_DIGEST_BYTES = 16
_EXAMPLES = 5


class NonFiniteError(VirnucError):
    """An encoder returned NaN or infinity."""


@dataclass(frozen=True)
class Embedded:
    """Vectors of some sequences.

    Attributes:
        vectors: (n, dim) float32, in input order.
        truncated: Count of sequences that were cut at the encoder's longest length.
    """

    vectors: NDArray[np.float32]
    truncated: int


def embed(
    encoder: Encoder,
    sequences: Sequence[str],
    token_budget: int,
    progress: Callable[[int], None] | None = None,
    ids: Sequence[str] | None = None,
) -> Embedded:
    """Embed sequences in groups of equally many tokens.

    Args:
        encoder: A loaded encoder.
        sequences: Upper-case sequences of the encoder's alphabet.
        token_budget: Tokens a batch at most; a longer sequence is a batch of its own.
        progress: Called after each batch with the count of sequences done in it.
        ids: Names of the sequences for error messages; their positions without.

    Raises:
        AlphabetError: a sequence is empty, has unknown letters, or is DNA for a protein encoder.
        NonFiniteError: a vector is not finite.
    """
    spec = encoder.spec
    check_alphabet(sequences, spec.alphabet, spec.name, ids)
    token_ids = encoder.tokenize([sequence[: spec.max_length] for sequence in sequences])
    vectors = np.empty((len(sequences), encoder.dim), dtype=np.float32)
    lengths = np.array([len(tokens) for tokens in token_ids], dtype=np.int64)
    for rows in _batches(lengths, token_budget):
        batch = torch.from_numpy(np.stack([token_ids[row] for row in rows])).to(encoder.device)  # (b, l)
        vectors[rows] = encoder.forward(batch).cpu().numpy()  # (b, d)
        if progress is not None:
            progress(len(rows))
    _check_finite(encoder, vectors, ids)
    return Embedded(vectors, count_truncated(spec, sequences))


def embed_frames(
    encoder: Encoder,
    frames: pa.Table | pa.RecordBatch,
    token_budget: int,
    progress: Callable[[int], None] | None = None,
) -> pa.Table:
    """Embed the column of a frames table that the encoder reads.

    Args:
        encoder: A loaded encoder.
        frames: Columns frame_id and `encoder.spec.column`; a window of a larger table will do.
        token_budget: As `embed`.
        progress: As `embed`.

    Returns:
        Columns frame_id, digest (of the whole sequence, also where it was cut) and vector
        fixed_size_list<float32>[dim]; rows in the order of the frames.

    Raises:
        AlphabetError, NonFiniteError: as `embed`, naming frame ids.
    """
    ids = frames.column("frame_id").to_pylist()
    sequences = frames.column(encoder.spec.column).to_pylist()
    vectors = embed(encoder, sequences, token_budget, progress, ids).vectors
    columns = [
        pa.array(ids, pa.string()),
        pa.array(sequence_digests(sequences), pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dim),
    ]
    return pa.Table.from_arrays(columns, schema=embeddings_schema(encoder.dim))


def count_truncated(spec: EncoderSpec, sequences: Sequence[str]) -> int:
    """Count of sequences of which the encoder reads only the beginning."""
    return 0 if spec.max_length is None else sum(len(sequence) > spec.max_length for sequence in sequences)


def sequence_digest(sequence: str) -> str:
    """blake2b of a sequence, 16 bytes as 32 hex digits."""
    return hashlib.blake2b(sequence.encode("ascii"), digest_size=_DIGEST_BYTES).hexdigest()


def sequence_digests(sequences: Sequence[str]) -> list[str]:
    """`sequence_digest` of each."""
    return [sequence_digest(sequence) for sequence in sequences]


def _batches(lengths: NDArray[np.int64], token_budget: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each batch: equal lengths, at most `token_budget` tokens or one row."""
    order = np.argsort(lengths, kind="stable")
    starts = np.flatnonzero(np.diff(lengths[order])) + 1
    for group in np.split(order, starts):
        if len(group):
            rows = max(token_budget // max(int(lengths[group[0]]), 1), 1)
            yield from (group[first : first + rows] for first in range(0, len(group), rows))


def _check_finite(encoder: Encoder, vectors: NDArray[np.float32], ids: Sequence[str] | None) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        names = ", ".join(ids[row] if ids is not None else f"sequence {row}" for row in bad[:_EXAMPLES])
        raise NonFiniteError(
            f"{encoder.spec.name}: {len(bad)} of {len(vectors)} vectors hold NaN or infinity: {names}"
            f"{', ...' if len(bad) > _EXAMPLES else ''}; the weights are damaged or the precision "
            f"{encoder.fingerprint['precision']} is too narrow: fetch the checkpoint again, or use fp32"
        )
