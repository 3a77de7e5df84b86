"""k-mers of proteins against a plain statement; containment of a record in itself, in others and in nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.classifier import novelty
from virnuc_assets.classifier.novelty import SKETCH_FILE, Sketch, TrainedProteins, kept_kmers, load_sketch
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings
from virnuc_assets.storage.tables import write_table

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
EVERY = (1 << 63) - 1
PROTEINS = st.lists(st.text("ACDEFGHIKL", max_size=40), max_size=8)


def random_proteins(seed: int, count: int, length: int = 60) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list(AMINO_ACIDS), length)) for _ in range(count)]


def trained(folder: Path, proteins: dict[str, list[str]], **changes: int) -> TrainedProteins:
    """Where the proteins of these records are: in two tables."""
    rows = [(record, protein) for record, of in proteins.items() for protein in of]
    paths = []
    for number, part in enumerate((rows[::2], rows[1::2])):
        table = pa.table({"record_id": [row[0] for row in part], "protein": [row[1] for row in part]})
        write_table(path := folder / f"{number}.parquet", table, {})
        paths.append(path)
    return TrainedProteins(paths, SplitSettings(**{"sketch_scaled": 1, **changes}))


def containment(sketch: Sketch, proteins: list[str]) -> float:
    kmers, shared = sketch.shared(pa.chunked_array([proteins], pa.string()))
    return float(shared.sum() / kmers.sum())


def plain_kmers(proteins: list[str], k: int) -> list[tuple[str, int]]:
    """Each k-mer of enough different residues, and the number of its protein."""
    windows = [
        (protein[at : at + k], row) for row, protein in enumerate(proteins) for at in range(len(protein) - k + 1)
    ]
    return [(kmer, row) for kmer, row in windows if len(set(kmer)) >= min(k, 6)]


@settings(deadline=None)
@given(PROTEINS, st.integers(5, 12), st.sampled_from([7, 50, 1 << 16]))
def test_kmers_are_those_of_a_plain_walk(proteins: list[str], k: int, block: int) -> None:
    """Equal k-mers have equal numbers, others have others, wherever a block of residues or the table begins or ends."""
    expected = plain_kmers(proteins, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "_BLOCK", block)
        kmers, rows = kept_kmers(pa.chunked_array([["ACDEFGHIKL", *proteins]], pa.string()).slice(1), k, EVERY)
    assert rows.tolist() == [row for _, row in expected]
    number_of = dict(zip((kmer for kmer, _ in expected), kmers.tolist(), strict=True))
    assert [number_of[kmer] for kmer, _ in expected] == kmers.tolist()
    assert len(set(number_of.values())) == len(number_of)
    some, _ = kept_kmers(pa.chunked_array([proteins[:3], proteins[3:]], pa.string()), k, EVERY // 3)
    assert some.tolist() == [kmer for kmer in kmers.tolist() if kmer <= EVERY // 3]


@pytest.mark.parametrize("scaled", [1, 2, 20])
def test_a_record_is_contained_in_itself_and_random_proteins_in_nothing(scaled: int, tmp_path: Path) -> None:
    records = {name: random_proteins(seed, 30) for seed, name in enumerate(("a", "b", "other"))}
    sketch = trained(tmp_path, records, sketch_scaled=scaled).sketch(["a", "b"])
    assert containment(sketch, records["a"]) == containment(sketch, records["b"][::-1]) == 1.0
    assert containment(sketch, records["other"]) == 0.0
    assert containment(sketch, records["a"] + records["other"]) == pytest.approx(0.5, abs=0.1)
    assert len(sketch.kmers) == pytest.approx(2 * 30 * 51 / scaled, rel=0.2)
    assert sketch.kmers.tolist() == sorted(set(sketch.kmers.tolist()))


def test_a_sketch_that_is_too_large_keeps_the_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of a sample shrinks with it, so containment stays what it is."""
    records = {f"r{seed}": random_proteins(seed, 20) for seed in range(6)}
    whole = trained(tmp_path, records).sketch(records)
    monkeypatch.setattr(novelty, "MOST", 1000)
    monkeypatch.setattr(novelty, "_WINDOW_ROWS", 7)
    small = trained(tmp_path, records).sketch(records)
    assert small.kmers.tolist() == whole.kmers[:1000].tolist()
    assert (small.description.largest, small.description.kmers) == (int(whole.kmers[999]), 1000)
    assert containment(small, records["r3"]) == 1.0 and containment(small, random_proteins(9, 20)) == 0.0


def test_relatives_share_enough_of_enough() -> None:
    description = novelty.SketchDescription(
        ksize_aa=10, largest=EVERY, kmers=0, containment_threshold=0.1, min_shared_hashes=5
    )
    sketch = Sketch(np.empty(0, np.int64), description)
    kmers, shared = np.array([50, 51, 40, 0, 1000]), np.array([5, 5, 4, 0, 100])
    assert sketch.known(kmers, shared).tolist() == [True, False, False, False, True]
    assert containment(sketch, random_proteins(0, 1)) == 0.0


def test_a_sketch_comes_back_or_is_refused(tmp_path: Path) -> None:
    sketch = trained(tmp_path, {"a": random_proteins(0, 5)}).sketch(["a"])
    content, description = sketch.packed()
    assert load_sketch(tmp_path, None) is None
    with pytest.raises(VirnucError, match=f"{SKETCH_FILE}: not found.*train the classifier again"):
        load_sketch(tmp_path, description)
    (tmp_path / SKETCH_FILE).write_bytes(content)
    read = load_sketch(tmp_path, description)
    assert read is not None and read.description == description
    np.testing.assert_array_equal(read.kmers, sketch.kmers)
    (tmp_path / SKETCH_FILE).write_bytes(content[:-1] + b"x")
    with pytest.raises(VirnucError, match=f"expected proteins of sha256 {description.sha256}, found "):
        load_sketch(tmp_path, description)
