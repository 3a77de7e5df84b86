"""MMseqs2 finds similar proteins, in whatever order they come; without it, one error tells how to install it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from virnuc_assets.classifier import similarity
from virnuc_assets.classifier.similarity import SimilarityError, similar_records, tool_version
from virnuc_assets.settings import SplitSettings
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import write_table
from virnuc_assets_tests.classifier.mmseqs import needs_mmseqs

ASKED = SplitSettings(protein_similarity="mmseqs2")
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def protein(seed: int, length: int = 160) -> str:
    return "".join(random.Random(seed).choices(LETTERS, k=length))


def altered(sequence: str, share: float, seed: int) -> str:
    generator = random.Random(seed)
    letters = list(sequence)
    for position in generator.sample(range(len(letters)), round(share * len(letters))):
        letters[position] = generator.choice(LETTERS)
    return "".join(letters)


def frames(folder: Path, proteins: list[tuple[str, str]]) -> list[Path]:
    rows = [{"record_id": record, "protein": sequence} for record, sequence in proteins]
    for shard in (0, 1):
        table = pa.Table.from_pylist(rows[shard::2], schema=frames_schema())
        write_table(folder / f"{shard}.parquet", table, {"table": "frames"})
    return sorted(folder.glob("*.parquet"))


PROTEINS = [
    ("a", protein(1)),
    ("a", protein(2)),
    ("b", altered(protein(1), 0.3, 5)),
    ("c", altered(protein(2), 0.2, 6)),
    ("c", altered(protein(1), 0.1, 7)),
    ("d", protein(3)),
    ("e", protein(3)),
    ("e", protein(3)),
    ("f", altered(protein(1), 0.85, 8)),
    ("g", protein(2)[:60] + protein(9)),
    ("unasked", protein(1)),
]


@needs_mmseqs
def test_records_with_similar_proteins_are_pairs_with_their_count(tmp_path: Path) -> None:
    expected = {("a", "b"): 1, ("a", "c"): 2, ("b", "c"): 1, ("d", "e"): 1}
    records = [record for record, _ in PROTEINS if record != "unasked"]
    assert similar_records(frames(tmp_path, PROTEINS), records, ASKED) == expected


@needs_mmseqs
def test_identity_and_coverage_are_those_asked_for_in_whatever_order_rows_come(tmp_path: Path) -> None:
    paths = frames(tmp_path, random.Random(3).sample(PROTEINS, len(PROTEINS)))
    other = ASKED.model_copy(update={"protein_min_identity": 0.75, "protein_min_coverage": 0.2})
    assert similar_records(paths, "abcdefg", other) == {("a", "c"): 2, ("a", "g"): 1, ("c", "g"): 1, ("d", "e"): 1}


@needs_mmseqs
def test_no_proteins_are_no_pairs(tmp_path: Path) -> None:
    assert similar_records(frames(tmp_path, []), [], ASKED) == {}
    assert similar_records(frames(tmp_path, PROTEINS), ["d", "e"], ASKED) == {("d", "e"): 1}


@needs_mmseqs
def test_the_version_is_told_and_a_failure_keeps_its_words(tmp_path: Path) -> None:
    assert tool_version(ASKED).startswith("mmseqs2 ")
    assert len(tool_version(ASKED).split()) == 2
    with pytest.raises(SimilarityError, match=r"easy-search failed with exit status \d+:\n"):
        similarity._run("easy-search", str(tmp_path / "missing.fasta"), "x", "y", "z")


def test_where_it_is_not_asked_nothing_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert similar_records(frames(tmp_path, PROTEINS), ["a", "b"], SplitSettings()) == {}
    assert tool_version(SplitSettings()) == "none"


def test_a_missing_tool_is_one_error_that_tells_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("mmseqs") is None
    with pytest.raises(SimilarityError, match=r"not installed; run `pip install -e '.\[similarity\]'`") as caught:
        tool_version(ASKED)
    assert "protein_similarity = 'none'" in str(caught.value)
    (tmp_path / "mmseqs").write_text("#!/bin/sh\necho 99-test\n")
    (tmp_path / "mmseqs").chmod(0o755)
    assert tool_version(ASKED) == "mmseqs2 99-test"
