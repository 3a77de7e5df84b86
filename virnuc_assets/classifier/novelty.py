"""How novel a record is: the share of its protein k-mers that no record has on which the classifier was trained.

A k-mer is a number of 5 bits for each residue. One of `sketch_scaled` is kept, by its mixed bits (FracMinHash, as in
`split.relatives`), at most the `MOST` smallest; windows of few different residues are left out as there. Distances in
feature space were tried, too: between families that training lacks, they do not predict which calls are wrong.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.settings import SplitSettings
from virnuc_assets.split.relatives import MIN_RESIDUES_PER_KMER
from virnuc_assets.storage.digests import one_array
from virnuc_assets.storage.tables import read_windows

SKETCH_FILE = "proteins.safetensors"
MOST = 4_000_000  # k-mers of a sketch: 32 MB
LONGEST_K = 12  # residues that fit into 64 bits
_BITS = 5
_WINDOW_ROWS = 8192  # frames whose k-mers are counted at once
_BLOCK = 1 << 16  # residues whose arrays stay in the processor's cache


class SketchDescription(BaseModel):
    """What a sketch was made with, and which it is; in the classifier's description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ksize_aa: PositiveInt
    largest: NonNegativeInt  # k-mers are kept if their number is not above it
    kmers: NonNegativeInt
    containment_threshold: PositiveFloat  # a record has relatives in training if it shares this part of its k-mers
    min_shared_hashes: PositiveInt  # and so many
    sha256: str = ""  # of the file; written by `save_classifier`


@dataclass(frozen=True)
class Sketch:
    """The k-mers of the proteins that a classifier was trained and validated on."""

    kmers: np.ndarray  # (m,) int64, ascending, each once
    description: SketchDescription

    def shared(self, proteins: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Kept k-mers of each protein, as often as they occur, and how many of these the sketch has, (n,) int64."""
        kmers, row = kept_kmers(proteins, self.description.ksize_aa, self.description.largest)
        of_sketch = row[self._index.get_indexer(kmers) >= 0]
        kept, shared = (np.bincount(rows, minlength=len(proteins)) for rows in (row, of_sketch))
        return kept, shared

    @functools.cached_property
    def _index(self) -> pd.Index:
        """By a table of hashes, which is many times faster than a binary search."""
        return pd.Index(self.kmers)

    def known(self, kmers: np.ndarray, shared: np.ndarray) -> np.ndarray:
        """Which records have relatives in training, by their k-mers and those shared, (n,) bool."""
        rule = self.description
        return (shared >= rule.min_shared_hashes) & (shared >= rule.containment_threshold * kmers)

    def packed(self) -> tuple[bytes, SketchDescription]:
        """The file, and the description that names it."""
        content = save_arrays({"kmers": self.kmers})
        return content, self.description.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})


@dataclass(frozen=True)
class TrainedProteins:
    """Where the proteins are that a classifier is trained on, and how they are sketched."""

    tables: Iterable[Path]  # frames, or where there is a rule chunks, whose frames are found by it
    settings: SplitSettings
    rule: FrameRule | None = None

    def sketch(self, records: Iterable[str]) -> Sketch:
        """Of these records. Memory holds twice the k-mers of the sketch at most, and a window of frames."""
        wanted, k = pa.array(records, pa.string()), min(self.settings.ksize_aa, LONGEST_K)
        largest, parts = (1 << 63) // self.settings.sketch_scaled - 1, [np.empty(0, np.int64)]
        for window in itertools.chain.from_iterable(map(self._windows, self.tables)):
            proteins = window["protein"].filter(pc.is_in(window["record_id"], wanted))
            parts.append(kept_kmers(proteins, k, largest)[0])
            if sum(map(len, parts)) > 2 * MOST:
                found, largest = _smallest(parts, largest)
                parts = [found]
        found, largest = _smallest(parts, largest)
        rule = self.settings.model_dump(include={"containment_threshold", "min_shared_hashes"})
        return Sketch(found, SketchDescription(ksize_aa=k, largest=largest, kmers=len(found), **rule))

    def _windows(self, path: Path) -> Iterator[pa.Table]:
        if self.rule is None:
            return read_windows(path, _WINDOW_ROWS, columns=["record_id", "protein"])
        return (open_frames(chunks, None, self.rule)[0] for chunks in read_windows(path, _WINDOW_ROWS))


def _smallest(parts: Sequence[np.ndarray], largest: int) -> tuple[np.ndarray, int]:
    """The `MOST` smallest k-mers, and above which none is kept from now on."""
    found = np.unique(np.concatenate(parts))[:MOST]
    return found, int(found[-1]) if len(found) == MOST else largest


def sketch_settings(settings: SplitSettings) -> dict[str, Any]:
    """Those that decide a sketch and what follows from it."""
    names = {"ksize_aa", "sketch_scaled", "containment_threshold", "min_shared_hashes"}
    return settings.model_dump(include=names)


def load_sketch(folder: Path, description: SketchDescription | None) -> Sketch | None:
    """The sketch next to a classifier; None where its description has none.

    Raises:
        VirnucError: the file is absent, damaged, or of another training.
    """
    if description is None:
        return None
    path, remedy = folder / SKETCH_FILE, "train the classifier again"
    if not path.is_file():
        raise VirnucError(f"{path}: not found, expected the proteins that the classifier was trained on; {remedy}")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != description.sha256:
        raise VirnucError(
            f"{path}: expected proteins of sha256 {description.sha256}, found {found}: damaged, or of another "
            f"training; {remedy}"
        )
    return Sketch(load_arrays(content)["kmers"], description)


def kept_kmers(proteins: pa.ChunkedArray, k: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the kept k-mers of proteins, and the protein of each, in order; (m,) int64 both."""
    array = one_array(proteins)
    if not len(array):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    _, offsets, symbols = array.buffers()
    edges = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    residues = np.frombuffer(symbols or b"", np.uint8)
    kmers, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(int(edges[0]), int(edges[-1]) - k + 1, _BLOCK):
        block = residues[start : min(start + _BLOCK + k - 1, int(edges[-1]))] & 31
        codes, bits = block.astype(np.uint64), np.uint32(1) << block
        numbers, seen = np.zeros(len(block) - k + 1, np.uint64), np.zeros(len(block) - k + 1, np.uint32)
        for first in range(k):
            window = slice(first, first + len(numbers))
            numbers = numbers << np.uint64(_BITS) | codes[window]
            seen |= bits[window]
        mixed = (_mixed(numbers) >> np.uint64(1)).view(np.int64)
        at = np.flatnonzero((mixed <= largest) & (np.bitwise_count(seen) >= min(MIN_RESIDUES_PER_KMER, k)))
        kmers.append(mixed[at])
        places.append(at + start)
    place = np.concatenate(places)
    row = np.repeat(np.arange(len(array)), np.diff(edges))[place - edges[0]]
    inside = place + k <= edges[row + 1]
    return np.concatenate(kmers)[inside], row[inside]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Bits of (n,) uint64 mixed, one to one (the finaliser of splitmix64); in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(factor)
    return numbers
