"""MMseqs2 finds similar proteins, in whatever order they come; without it, one error says how to install it."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from virnuc_assets.settings import SplitSettings
from virnuc_assets.split import similarity
from virnuc_assets.split.similarity import SimilarityError, similar_records, tool_version
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import write_table

ASKED = SplitSettings(protein_similarity="mmseqs2")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def protein(seed: int) -> str:
    return "".join(random.Random(seed).choices(RESIDUES, k=160))


def altered(sequence: str, share: float, seed: int) -> str:
    generator = random.Random(seed)
    residues = list(sequence)
    for position in generator.sample(range(len(residues)), round(share * len(residues))):
        residues[position] = generator.choice(RESIDUES)
    return "".join(residues)


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
    ("not asked for", protein(1)),
]


@pytest.mark.parametrize(
    ("records", "limits", "expected"),
    [
        ("abcdefg", {}, {("a", "b"): 1, ("a", "c"): 2, ("b", "c"): 1, ("d", "e"): 1}),
        (
            "abcdefg",
            {"protein_min_identity": 0.75, "protein_min_coverage": 0.2},
            {("a", "c"): 2, ("a", "g"): 1, ("c", "g"): 1, ("d", "e"): 1},
        ),
        ("de", {}, {("d", "e"): 1}),
        ("", {}, {}),
    ],
)
def test_records_with_similar_proteins_are_pairs_with_their_count(
    tmp_path: Path, records: str, limits: dict[str, float], expected: dict[tuple[str, str], int]
) -> None:
    for proteins in (PROTEINS, random.Random(3).sample(PROTEINS, len(PROTEINS))):
        assert similar_records(frames(tmp_path, proteins), records, ASKED.model_copy(update=limits)) == expected


def test_a_failure_shows_the_last_lines_of_the_tool(tmp_path: Path) -> None:
    with pytest.raises(SimilarityError, match=r"easy-search failed with exit status \d+:\n"):
        similarity._run("easy-search", str(tmp_path / "missing.fasta"), "x", "y", "z")


def test_a_missing_tool_is_missed_only_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(tool_version(ASKED).split()) == 2
    monkeypatch.setattr(similarity.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert similar_records(frames(tmp_path, PROTEINS), "ab", SplitSettings()) == {}
    assert tool_version(SplitSettings()) == "none"
    with pytest.raises(SimilarityError, match=r"run `pip install -e '.\[similarity\]'.*protein_similarity = 'none'"):
        tool_version(ASKED)
    (tmp_path / "mmseqs").write_text("#!/bin/sh\necho 99-test\n")
    (tmp_path / "mmseqs").chmod(0o755)
    assert tool_version(ASKED) == "mmseqs2 99-test"
