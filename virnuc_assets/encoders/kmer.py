"""Composition as an encoder: the k-mer baseline that a language model must beat.

A k-mer is a token, its hidden state is one-hot, and the mean over the tokens is the frequency of each k-mer, so
that composition goes through the same loop and the same pooling as a model. Overlapping k-mers are numbered in the
lexical order; the number after the last is of those with an ambiguous base or residue, which pooling leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from virnuc_assets.encoders.registry import AMINO_ACIDS, NUCLEOTIDES, EncoderSpec


def kmer_count(spec: EncoderSpec) -> int:
    """How many k-mers there are, the width of the vectors."""
    return int(len(_symbols(spec)) ** spec.k)


def kmer_model(spec: EncoderSpec) -> nn.Module:
    """Token ids (b, l) to one-hot vectors (b, l, d), zeros for the id after the last."""
    dim = kmer_count(spec)
    model = nn.Embedding(dim + 1, dim, _weight=torch.eye(dim + 1, dim), _freeze=True)
    model.config = SimpleNamespace(hidden_size=dim)  # type: ignore[assignment]  # as transformers' models have it
    return model


def kmer_ids(spec: EncoderSpec, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
    """k-mer ids of each sequence, (max(length - k + 1, 0),)."""
    symbols, k = _symbols(spec), spec.k
    number_of = np.full(256, -1, dtype=np.int64)
    number_of[np.frombuffer(symbols.encode("ascii"), np.uint8)] = np.arange(len(symbols))
    place_values = len(symbols) ** np.arange(k)[::-1]
    found = []
    for sequence in sequences:
        numbers = number_of[np.frombuffer(sequence.encode("ascii"), np.uint8)]
        short = np.empty((0, k), np.int64)
        words = np.lib.stride_tricks.sliding_window_view(numbers, k) if len(numbers) >= k else short  # (l - k + 1, k)
        found.append(np.where((words >= 0).all(axis=1), words @ place_values, len(symbols) ** k))
    return found


def _symbols(spec: EncoderSpec) -> str:
    return NUCLEOTIDES if spec.alphabet == "dna" else AMINO_ACIDS
