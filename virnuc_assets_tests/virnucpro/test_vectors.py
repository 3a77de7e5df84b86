"""VirNucPro's files of vectors: distinguished by content, and refused with counts where they contradict themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from virnuc_assets.virnucpro.torch_files import ImportRefused
from virnuc_assets.virnucpro.vectors import read_vectors
from virnuc_assets_tests.virnucpro.files import dnabert_s, drawn, esm, frame_ids, merged, save

IDS = frame_ids(4)
ROWS = drawn(4, 3)


def refusal(path: Path) -> str:
    with pytest.raises(ImportRefused) as refused:
        read_vectors(path)
    shown = str(refused.value)
    assert shown.startswith(f"{path}: ")
    return shown.removeprefix(f"{path}: ")


def test_the_content_shows_the_kind(tmp_path: Path) -> None:
    written = {
        "DNABERT_S": dnabert_s(tmp_path / "a_merged.pt", IDS, ROWS),
        "ESM": esm(tmp_path / "b_DNABERT_S.pt", IDS, ROWS),
        "merged": merged(tmp_path / "c_ESM.pt", IDS, ROWS),
    }
    for kind, path in written.items():
        found = read_vectors(path)
        assert (found.kind, found.path, found.ids, found.label) == (kind, path, IDS, None)
        assert found.vectors.dtype == np.float32
        assert found.vectors.tobytes() == ROWS.tobytes()


@pytest.mark.parametrize("labels", [[2], [0, 1], [], [True, True], ["viral"], 1])
def test_other_labels_are_refused(tmp_path: Path, labels: object) -> None:
    path = save({"ids": IDS, "data": torch.tensor(ROWS), "labels": labels}, tmp_path / "x.pt")
    assert "expected labels [0] (host) or [1] (viral)" in refusal(path)


def test_upstreams_misaligned_merge_is_refused_with_the_counts(tmp_path: Path) -> None:
    """`merge_data` skips an id that one side lacks, but stores all ids of the nucleotide side."""
    protein = dict(zip(IDS, ROWS, strict=True))
    del protein[IDS[1]]
    rows = [torch.cat([torch.tensor(ROWS[n]), torch.tensor(protein[i])]) for n, i in enumerate(IDS) if i in protein]
    shown = refusal(save({"ids": IDS, "data": torch.stack(rows), "labels": [1]}, tmp_path / "x_merged.pt"))
    assert shown.startswith("4 ids, but 3 rows: misaligned by 1. VirNucPro's merge drops a row that one side lacks")


def content(kind: str, **changes: object) -> dict[str, object]:
    listed = [{"label": i, "mean_representation": row} for i, row in zip(IDS, ROWS.tolist(), strict=True)]
    whole: dict[str, dict[str, object]] = {
        "DNABERT_S": {"nucleotide": list(IDS), "data": listed},
        "ESM": {"proteins": list(IDS), "data": [torch.tensor(row) for row in ROWS]},
        "merged": {"ids": list(IDS), "data": torch.tensor(ROWS)},
    }
    return whole[kind] | changes


def listed(*rows: object, label: object = None) -> list[object]:
    names = [label or i for i in IDS[: len(rows)]]
    return [{"label": i, "mean_representation": row} for i, row in zip(names, rows, strict=True)]


FAULTS: list[tuple[object, str]] = [
    (content("ESM", data=[torch.ones(3)] * 3), "4 ids, but 3 rows: misaligned by 1"),
    (content("DNABERT_S", data=[]), "4 ids, but 0 rows: misaligned by 4"),
    (
        content("DNABERT_S", data=listed(*[[0.5]] * 4, label="other_chunk_1F1")),
        "misaligned: the row of 'NC_1.1_chunk_1F1' is labelled 'other_chunk_1F1'",
    ),
    (
        content("ESM", proteins=[IDS[0], IDS[1], IDS[0], IDS[1]]),
        f"2 of 2 ids are there more than once (e.g. '{IDS[0]}', '{IDS[1]}')",
    ),
    (
        content("merged", ids=[*IDS[:2], "contig 7", 7]),
        "2 of 4 ids are no six-frame ids, which end in F1 to F3 or R1 to R3 (e.g. 'contig 7', '7')",
    ),
    (
        content("ESM", data=[torch.ones(3), torch.ones(3), torch.ones(2), torch.ones(3)]),
        f"rows are not equally wide: 1 rows of 2, 3 rows of 3 (e.g. '{IDS[2]}')",
    ),
    (
        content("DNABERT_S", data=listed([0.5], [0.5], [0.5], [0.5, 1.0])),
        f"rows are not equally wide: 3 rows of 1, 1 rows of 2 (e.g. '{IDS[3]}')",
    ),
    (
        content(
            "ESM", data=[torch.ones(3), torch.tensor([1.0, torch.inf, 0.0]), torch.ones(3), torch.full((3,), torch.nan)]
        ),
        f"2 of 4 vectors are not finite (e.g. '{IDS[1]}', '{IDS[3]}')",
    ),
    (
        content("DNABERT_S", data=listed([0.5], [1e39], [0.5], [0.5])),
        f"1 of 4 vectors are not finite (e.g. '{IDS[1]}')",
    ),
    (content("merged", ids=[], data=torch.ones(0, 3)), "holds no vectors"),
    (content("merged", data=torch.ones(4, 0)), "holds no vectors"),
    (content("merged", data=torch.ones(4)), "expected the keys nucleotide and data (DNABERT_S)"),
    (content("merged", data=torch.ones(4, 3, dtype=torch.int64)), "expected rows of floats, found int64 of 1 dims"),
    (content("ESM", data=[torch.ones(1, 3)] * 4), "expected rows of floats, found float32 of 2 dims"),
    (content("merged", data=torch.ones(1, 1).expand(4, 1 << 40)), "4398046511104 values claimed by a file of"),
    (content("ESM", data=[0.5] * 4), "expected rows of floats, found object of type 'float' has no len()"),
    (content("DNABERT_S", data=listed(["0.5"], [0.5], [0.5], [0.5])), "expected rows of floats, found <U3 of 1 dims"),
    (content("DNABERT_S", data=[0.5] * 4), "a row is no dict with a label and a list"),
    (
        content("DNABERT_S", more=1),
        "holds a dict of the keys 'nucleotide', 'data', 'more'; expected the keys nucleotide and data",
    ),
    ({"state_dict": {}, "epoch": 3}, "holds a dict of the keys 'state_dict', 'epoch'"),
    ([torch.ones(3)], "holds a list; expected the keys"),
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_contradictions_are_counted_and_named(tmp_path: Path, number: int) -> None:
    whole, expected = FAULTS[number]
    assert expected in refusal(save(whole, tmp_path / "x.pt"))


@pytest.mark.parametrize("kind", ["DNABERT_S", "ESM"])
def test_one_row_that_stands_for_many_is_refused(tmp_path: Path, kind: str) -> None:
    """Memory stays below a multiple of the file, however often it refers to the same row."""
    ids = frame_ids(20_000)
    if kind == "ESM":
        path = save({"proteins": ids, "data": [torch.ones(100_000)] * len(ids)}, tmp_path / "x.pt")
    else:
        row = [0.5] * 100_000
        rows = [{"label": i, "mean_representation": row} for i in ids]
        path = save({"nucleotide": ids, "data": rows}, tmp_path / "x.pt")
    assert path.stat().st_size < 4_000_000
    assert refusal(path).startswith("2000000000 values claimed by a file of")


def test_doubles_and_halves_become_float32(tmp_path: Path) -> None:
    rows = torch.tensor([[0.1, 1e300**0.1], [2.0, -3.5]], dtype=torch.float64)
    for wide in (rows, rows[1:].half().repeat(2, 1)):
        found = read_vectors(save({"ids": IDS[:2], "data": wide}, tmp_path / "x.pt"))
        assert np.array_equal(found.vectors, wide.float().numpy())
