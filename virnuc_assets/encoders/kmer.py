"""Composition as an encoder: the k-mer baseline that a language model must beat.

A k-mer is a token, and the vector is the frequency of each, so that composition goes through the same loop as a model.
Overlapping k-mers are numbered in the lexical order; the number after the last is of those with an ambiguous base or
residue, which are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from virnuc_assets.encoders.registry import AMINO_ACIDS, NUCLEOTIDES, EncoderSpec


def kmer_count(spec: EncoderSpec) -> int:
    """How many k-mers there are, the width of the vectors."""
    return int(len(_symbols(spec)) ** spec.k)


class KmerFrequencies(nn.Module):  # type: ignore[misc]
    """Token ids (b, l) to the share of each k-mer among them, (b, d) float32; the id after the last is not counted.

    One-hot vectors, pooled like a model's hidden states, would be the same at d times the memory.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=kmer_count(spec))  # as transformers' models have it
        self.one: Tensor
        self.register_buffer("one", torch.ones(1))

    def forward(self, token_ids: Tensor) -> Tensor:
        """Shares of the k-mers of sequences with equally many tokens."""
        counts = self.one.new_zeros(len(token_ids), self.config.hidden_size + 1)
        counts = counts.scatter_add_(1, token_ids, self.one.expand(token_ids.shape))[:, :-1]
        return counts / counts.sum(dim=1, keepdim=True).clamp(min=1.0)


def kmer_ids(spec: EncoderSpec, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
    """k-mer ids of each sequence, filled up to equal lengths with the id after the last, so that all are one batch."""
    symbols, k = _symbols(spec), spec.k
    number_of = np.full(256, -1, dtype=np.int64)
    number_of[np.frombuffer(symbols.encode("ascii"), np.uint8)] = np.arange(len(symbols))
    place_values = len(symbols) ** np.arange(k)[::-1]
    longest = max((len(sequence) - k + 1 for sequence in sequences), default=0)
    found = []
    for sequence in sequences:
        numbers = number_of[np.frombuffer(sequence.encode("ascii"), np.uint8)]
        short = np.empty((0, k), np.int64)
        words = np.lib.stride_tricks.sliding_window_view(numbers, k) if len(numbers) >= k else short  # (l - k + 1, k)
        ids = np.where((words >= 0).all(axis=1), words @ place_values, len(symbols) ** k)
        found.append(np.pad(ids, (0, max(longest, 0) - len(ids)), constant_values=len(symbols) ** k))
    return found


def _symbols(spec: EncoderSpec) -> str:
    return NUCLEOTIDES if spec.alphabet == "dna" else AMINO_ACIDS
