"""Composition as an encoder: the floor that a language model must beat.

A k-mer is a token, its hidden state is one-hot, and the mean over the tokens is the frequency of each k-mer, so
that composition goes through the same loop and the same pooling as a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from virnuc_assets.encoders.alphabet import AMINO_ACIDS, NUCLEOTIDES
from virnuc_assets.encoders.registry import EncoderSpec
from virnuc_assets.encoders.tokenization import TokenIds, letter_ids, letter_table

_LETTERS = {"dna": NUCLEOTIDES, "protein": AMINO_ACIDS}


class KmerTokenization:
    """Overlapping k-mers, numbered in the lexical order of their letters; one id for all with another letter."""

    def __init__(self, letters: str, k: int) -> None:
        self._base, self._k = len(letters), k
        self._table = letter_table({letter: i for i, letter in enumerate(letters)}, other=-1)
        self._places = self._base ** np.arange(k)[::-1]
        self.special = {"other": self._base**k}
        self.vocabulary = self._base**k + 1

    def __call__(self, sequences: Sequence[str]) -> list[TokenIds]:
        """k-mer ids of each sequence, (max(length - k + 1, 0),)."""
        return [self._kmers(letter_ids(sequence, self._table)) for sequence in sequences]

    def _kmers(self, letters: TokenIds) -> TokenIds:
        if len(letters) < self._k:
            return np.empty(0, dtype=np.int64)
        words = np.lib.stride_tricks.sliding_window_view(letters, self._k)  # (l - k + 1, k)
        return np.where((words >= 0).all(axis=1), words @ self._places, self.special["other"])


class Kmer(nn.Module):
    """One-hot vectors of k-mers; `other` is all zeros and pooling leaves it out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("table", torch.eye(dim + 1, dim), persistent=False)
        self.table: Tensor

    def forward(self, token_ids: Tensor) -> Tensor:
        """(b, l) int64 to (b, l, d)."""
        return F.embedding(token_ids, self.table)

    def layers(self) -> nn.ModuleList:
        """There are none: counting is exact in any order, and nothing is worth tuning."""
        return nn.ModuleList()

    def layer_inputs(self, token_ids: Tensor) -> tuple[Tensor]:
        """(b, l) to (b, l, d), which no layer follows."""
        return (self(token_ids),)


def load_kmer(spec: EncoderSpec) -> tuple[Kmer, KmerTokenization]:
    """Composition of the spec's alphabet and word length."""
    tokenization = KmerTokenization(_LETTERS[spec.alphabet], spec.k)
    return Kmer(tokenization.special["other"]), tokenization
