"""Composition as an encoder: the k-mer baseline that a language model must beat.

A k-mer is a token, its hidden state is one-hot, and the mean over the tokens is the frequency of each k-mer, so
that composition goes through the same loop and the same pooling as a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from virnuc_assets.encoders.alphabet import AMINO_ACIDS, NUCLEOTIDES
from virnuc_assets.encoders.registry import EncoderSpec

_LETTERS = {"dna": NUCLEOTIDES, "protein": AMINO_ACIDS}


class KmerModel(nn.Module):
    """One-hot vectors of k-mers; the id after the last is all zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=dim)
        self.register_buffer("table", torch.eye(dim + 1, dim), persistent=False)
        self.table: Tensor

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 to (b, l, d)."""
        return F.embedding(token_ids, self.table)


class Kmer:
    """Overlapping k-mers, numbered in the lexical order of their letters."""

    def __init__(self, letters: str, k: int) -> None:
        self._k, self.other = k, len(letters) ** k  # the id of k-mers with another letter, which pooling leaves out
        self._place_values = len(letters) ** np.arange(k)[::-1]
        self._table = np.full(256, -1, dtype=np.int64)
        self._table[np.frombuffer(letters.encode("ascii"), np.uint8)] = np.arange(len(letters))
        self.model = KmerModel(self.other)

    def tokenize(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """k-mer ids of each sequence, (max(length - k + 1, 0),)."""
        return [self._ids(self._table[np.frombuffer(each.encode("ascii"), np.uint8)]) for each in sequences]

    def _ids(self, letters: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(letters) < self._k:
            return np.empty(0, dtype=np.int64)
        words = np.lib.stride_tricks.sliding_window_view(letters, self._k)  # (l - k + 1, k)
        return np.where((words >= 0).all(axis=1), words @ self._place_values, self.other)


def load_kmer(spec: EncoderSpec) -> Kmer:
    """Composition of the spec's alphabet and word length."""
    return Kmer(_LETTERS[spec.alphabet], spec.k)
