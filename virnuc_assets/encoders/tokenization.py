"""Sequences to token ids with the checkpoint's own files; one small class for each kind of vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from virnuc_assets.encoders.verification import CheckpointError, read_json

TokenIds = NDArray[np.int64]


class Tokenization(Protocol):
    """What every kind of vocabulary offers.

    Attributes:
        special: Ids of the special tokens that pooling may leave out, by role.
        vocabulary: Count of token ids.
    """

    special: dict[str, int]
    vocabulary: int

    def __call__(self, sequences: Sequence[str]) -> list[TokenIds]:
        """Token ids of each sequence, (l,) int64, special tokens included, in input order."""
        ...


def letter_table(ids: dict[str, int], other: int) -> NDArray[np.int64]:
    """Table (256,) from ASCII code to id, `other` for letters without one."""
    table = np.full(256, other, dtype=np.int64)
    for letter, index in ids.items():
        table[ord(letter)] = index
    return table


def letter_ids(sequence: str, table: NDArray[np.int64]) -> TokenIds:
    """Ids (len(sequence),) of the letters of an ASCII sequence."""
    return table[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]


class EsmTokenization:
    """One token a residue between `<cls>` and `<eos>`, as transformers' EsmTokenizer does, from `vocab.txt`."""

    def __init__(self, folder: Path) -> None:
        """Read the vocabulary.

        Raises:
            CheckpointError: `vocab.txt` is missing or lacks a special token.
        """
        path = folder / "vocab.txt"
        if not path.is_file():
            raise CheckpointError(f"{folder}: no vocab.txt; fetch the checkpoint again")
        index = {token: i for i, token in enumerate(path.read_text(encoding="utf-8").split())}
        if missing := {"<cls>", "<eos>", "<pad>", "<unk>"} - set(index):
            raise CheckpointError(f"{path}: lacks {', '.join(sorted(missing))}; not an ESM vocabulary")
        self.vocabulary = len(index)
        self.special = {"begin": index["<cls>"], "end": index["<eos>"], "pad": index["<pad>"]}
        residues = {token: i for token, i in index.items() if len(token) == 1}
        self._table = letter_table(residues, other=index["<unk>"])

    def __call__(self, sequences: Sequence[str]) -> list[TokenIds]:
        """Token ids of each protein, (length_aa + 2,)."""
        begin, end = [self.special["begin"]], [self.special["end"]]
        return [np.concatenate([begin, letter_ids(sequence, self._table), end]) for sequence in sequences]


class BpeTokenization:
    """DNABERT-2's byte pairs between `[CLS]` and `[SEP]`, from `tokenizer.json`."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer.

        Raises:
            CheckpointError: `tokenizer.json` is missing, damaged, or does not frame sequences by CLS and SEP.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder}: no tokenizer.json; fetch the checkpoint again")
        self._tokenizer = _read_tokenizer(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        tokens = self._tokenizer.encode("ACGT").tokens
        pad = self._tokenizer.token_to_id("[PAD]")
        if tokens[0] != "[CLS]" or tokens[-1] != "[SEP]" or pad is None:
            raise CheckpointError(f"{path}: expected [CLS] ... [SEP] and a [PAD] token, found {tokens}")
        self.vocabulary = self._tokenizer.get_vocab_size()
        self.special = {"pad": pad}

    def __call__(self, sequences: Sequence[str]) -> list[TokenIds]:
        """Token ids of each nucleotide sequence."""
        encodings = self._tokenizer.encode_batch_fast(list(sequences))
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def _read_tokenizer(path: Path) -> Tokenizer:
    model = read_json(path).get("model")
    if not isinstance(model, dict) or not {"vocab", "merges"} <= set(model):
        raise CheckpointError(
            f"{path}: expected byte pairs (a model with vocab and merges); fetch the checkpoint again"
        )
    return Tokenizer.from_file(str(path))
