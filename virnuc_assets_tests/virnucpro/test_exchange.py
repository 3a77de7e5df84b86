"""`virnuc import` and `virnuc export`: VirNucPro's files become our tables and back, exactly, or nothing is written."""

from __future__ import annotations

import hashlib
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnuc_assets.classifier.checkpoint import load_classifier
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.digests import sequence_digest
from virnuc_assets.storage.merging import MergeMismatch, features_table, vector_column, vectors_of
from virnuc_assets.storage.schemas import embeddings_schema, features_schema, frames_schema
from virnuc_assets.storage.tables import TableMismatch, content_digest, read_provenance, read_table, write_table
from virnuc_assets.virnucpro.exchange import ExportRefused, export_file, exported_vectors, import_files
from virnuc_assets.virnucpro.torch_files import ImportRefused
from virnuc_assets_tests.cli.commands import virnuc
from virnuc_assets_tests.virnucpro.files import WRITERS, drawn, esm, frame_ids, frames, merged, upstreams_reading

DNA_DIM, PROTEIN_DIM = 3, 5
IDS = frame_ids(7)
DNA, PROTEIN = drawn(7, DNA_DIM), drawn(7, PROTEIN_DIM, 1)
BOTH, SIDES = np.concatenate([DNA, PROTEIN], axis=1), {"DNABERT_S": DNA, "ESM": PROTEIN}

FEATURES_OF_SIX = {
    "table": "features",
    "encoders": {"dna": {"encoder": "dnabert_s"}, "protein": {"encoder": "esm2_3b"}},
    "dims": {"dna": 2, "protein": 4},
}


@pytest.fixture
def framed(tmp_path: Path) -> Path:
    """A viral frames table."""
    path = tmp_path / "frames.parquet"
    write_table(path, frames(IDS, "viral"), {"table": "frames"})
    return path


def shuffled(tmp_path: Path, kind: str) -> list[Path]:
    """Two files of a side whose rows are in another order than the frames."""
    return [
        WRITERS[kind](tmp_path / f"output_{n}_{kind}.pt", [IDS[row] for row in rows], SIDES[kind][rows])
        for n, rows in enumerate(([4, 2, 6], [0, 1, 5, 3]))
    ]


@pytest.mark.parametrize(
    ("kind", "alphabet", "column", "encoder"),
    [("DNABERT_S", "dna", "nucleotides", "dnabert_s"), ("ESM", "protein", "protein", "esm2_3b")],
)
def test_files_of_one_side_become_embeddings(
    tmp_path: Path, framed: Path, kind: str, alphabet: str, column: str, encoder: str
) -> None:
    files, vectors, out = shuffled(tmp_path, kind), SIDES[kind], tmp_path / "made/embeddings.parquet"
    result = virnuc("import", *files, "--frames", framed, "--out", out)
    assert result.exit_code == 0, result.output
    table = read_table(out, embeddings_schema(vectors.shape[1]))
    assert table.column("frame_id").to_pylist() == IDS
    assert vectors_of(table).tobytes() == vectors.tobytes()
    sequences = read_table(framed).column(column).to_pylist()
    assert table.column("digest").to_pylist() == [sequence_digest(sequence) for sequence in sequences]
    assert read_provenance(out) == {
        "table": "embeddings",
        "frames": content_digest(framed),
        "encoder": {"encoder": encoder, "alphabet": alphabet, "dim": str(vectors.shape[1]), "origin": "VirNucPro"},
        "origin": "VirNucPro",
        "kind": kind,
        "sources": [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in files],
    }


def test_both_sides_become_the_features_that_a_sound_merge_holds(tmp_path: Path, framed: Path) -> None:
    sides = [*shuffled(tmp_path, "DNABERT_S"), *shuffled(tmp_path, "ESM")]
    whole = merged(tmp_path / "output_1_merged.pt", IDS, BOTH, 1)
    for name, sources in {"sides": sides, "merged": [whole], "both": [whole, *sides]}.items():
        out = tmp_path / f"{name}.parquet"
        alone = ("--dna-dim", str(DNA_DIM)) if name == "merged" else ()
        result = virnuc("import", *sources, "--frames", framed, "--out", out, *alone)
        assert result.exit_code == 0, result.output
        assert read_table(out, features_schema(DNA_DIM + PROTEIN_DIM)) == features_table(read_table(framed), BOTH)
        provenance = read_provenance(out)
        encoders = {side: found["encoder"] for side, found in provenance["encoders"].items()}
        assert (encoders, provenance["dims"]) == ({"dna": "dnabert_s", "protein": "esm2_3b"}, {"dna": 3, "protein": 5})
        expected = ("features", content_digest(framed), "VirNucPro")
        assert (provenance["table"], provenance["frames"], provenance["origin"]) == expected


@pytest.mark.parametrize("kind", ["ESM", "merged"])
def test_the_memory_of_an_import_is_that_of_one_file(tmp_path: Path, kind: str) -> None:
    """As Python and numpy allocate it; processes of 12,000 rows in 6 files took 1 to 7 % more than of 2,000 in one."""
    rows, peaks = 600, []
    for count in (1, 6):
        ids, framed = frame_ids(rows * count), tmp_path / f"{count}.parquet"
        write_table(framed, frames(ids), {"table": "frames"})
        parts = [ids[start : start + rows] for start in range(0, len(ids), rows)]
        files = [WRITERS[kind](tmp_path / f"{n}.pt", part, drawn(rows, 512)) for n, part in enumerate(parts)]
        tracemalloc.start()
        import_files(files, tmp_path / "out.parquet", frames=framed, dna_dim=100 if kind == "merged" else None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def refusal(error: type[VirnucError], sources: list[Path], framed: Path | None, **options: Any) -> str:
    """The message of an import, after which nothing is written."""
    out = sources[0].parent / "refused.parquet"
    with pytest.raises(error) as refused:
        import_files(sources, out, frames=framed, **options)
    assert not out.exists()
    return str(refused.value)


def test_ids_that_do_not_fit_the_frames_are_counted(tmp_path: Path, framed: Path) -> None:
    ids = [*IDS[:5], "other_chunk_1F1"]
    shown = refusal(MergeMismatch, [esm(tmp_path / "x_ESM.pt", ids, PROTEIN[:6])], framed)
    assert shown.startswith(
        f"rows of x_ESM.pt do not fit the frames: 7 frames, 6 embeddings; 2 frames without one (e.g. {IDS[5:]}), "
        "1 embeddings without a frame (e.g. ['other_chunk_1F1']), 0 twice."
    )
    both = [esm(tmp_path / "a_ESM.pt", IDS, PROTEIN), esm(tmp_path / "b_ESM.pt", IDS[:2], PROTEIN[:2])]
    assert "rows of a_ESM.pt and 1 more files" in refusal(MergeMismatch, both, framed)
    assert ", 2 twice." in refusal(MergeMismatch, both, framed)


@pytest.mark.parametrize("side", ["DNABERT_S", "ESM"])
def test_rows_of_another_id_are_found_by_the_sides(tmp_path: Path, framed: Path, side: str) -> None:
    """What upstream's fault leaves when the counts agree by chance: rows moved up by one."""
    wrong = merged(tmp_path / "x_merged.pt", IDS, np.concatenate([BOTH[:3], BOTH[4:], BOTH[3:4]]))
    writer, rows = WRITERS[side], SIDES[side]
    shown = refusal(ImportRefused, [wrong, writer(tmp_path / "x.pt", IDS, rows)], framed)
    assert f"misaligned with its {side} side: of 7 rows 4 hold other values than their id's vector" in shown
    assert f"(e.g. {', '.join(map(repr, IDS[3:6]))}); import both sides" in shown
    lacking = writer(tmp_path / "x.pt", IDS[1:], rows[1:])
    sound = merged(tmp_path / "x_merged.pt", IDS, BOTH)
    shown = refusal(MergeMismatch, [sound, lacking], framed)
    assert f"rows of x.pt do not fit the frames: 7 frames, 6 embeddings; 1 frames without one (e.g. {IDS[:1]})" in shown


def test_labels_and_columns_must_agree(tmp_path: Path, framed: Path) -> None:
    path = merged(tmp_path / "x_merged.pt", IDS, BOTH)
    side, protein = WRITERS["DNABERT_S"](tmp_path / "d.pt", IDS, DNA), esm(tmp_path / "e.pt", IDS, PROTEIN[:, 1:])
    labelled = merged(tmp_path / "host_merged.pt", IDS, drawn(7, 8), 0)
    shown = refusal(ImportRefused, [labelled], framed, dna_dim=3)
    assert "its rows are labelled host, 7 of 7 frames are not (e.g. " in shown
    assert "8 columns; expected how many of them are the nucleotides'" in refusal(ImportRefused, [path], framed)
    assert "found 8 by --dna-dim" in refusal(ImportRefused, [path], framed, dna_dim=8)
    assert "found 3 by the DNABERT_S files, 4 by --dna-dim" in refusal(ImportRefused, [path, side], framed, dna_dim=4)
    assert "found 3 by the DNABERT_S files, 4 by the ESM files" in refusal(ImportRefused, [path, side, protein], framed)
    wide = esm(tmp_path / "f.pt", IDS, drawn(7, 6))
    shown = refusal(ImportRefused, [protein, wide], framed)
    assert f"{wide}: 6 columns, the ESM files before it have 4, of another encoder" in shown


def test_what_a_kind_of_file_needs_is_asked_for(tmp_path: Path, framed: Path, upstream_models: Path) -> None:
    vectors, model = esm(tmp_path / "x.pt", IDS, PROTEIN), tmp_path / "500_model.pth"
    shutil.copy(upstream_models / "small.pth", model)
    assert "ESM vectors; give their frames: --frames" in refusal(VirnucError, [vectors], None)
    shown = "a model of 6 columns; it does not say on what it was trained: give --features"
    assert shown in refusal(VirnucError, [model], framed)
    assert "a model is imported alone, found 1 more files" in refusal(VirnucError, [model, model], framed)
    shown = refusal(VirnucError, [model], None, features=framed, chunk_length=500)
    assert "expected a features table, found frames" in shown
    arguments = ("import", model, "--features", framed, "--chunk-length", "400", "--out", tmp_path / "x")
    assert "expected one of 300, 500, found 400" in virnuc(*arguments).stderr
    shown = "holds a module of class __main__.MLPClassifier, no vectors"
    assert shown in refusal(ImportRefused, [vectors, model], framed)


def test_a_model_becomes_a_classifier_of_the_features_it_is_to_score(
    tmp_path: Path, framed: Path, upstream_models: Path
) -> None:
    table, folder = tmp_path / "features.parquet", tmp_path / "made/classifier"
    import_files([merged(tmp_path / "x.pt", IDS, drawn(7, 6))], table, frames=framed, dna_dim=2)
    model, other = upstream_models / "small.pth", tmp_path / "other.parquet"
    write_table(other, read_table(table), {**read_provenance(table), "frame_rule": "longest_orf"})
    assert "features of frames by longest_orf; a model of VirNucPro reads those of stop_free frames" in refusal(
        VirnucError, [model], None, features=other, chunk_length=300
    )
    result = virnuc("import", model, "--features", table, "--chunk-length", "300", "--out", folder)
    assert result.exit_code == 0, result.output
    _, description = load_classifier(folder)
    assert description.encoders == read_provenance(table)["encoders"]
    assert (description.dna_dim, description.protein_dim, description.chunk_length) == (2, 4, 300)
    assert description.origin is not None
    assert description.origin.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    import_files([merged(tmp_path / "x.pt", IDS, drawn(7, 9))], table, frames=framed, dna_dim=2)
    result = virnuc("import", model, "--features", table, "--chunk-length", "300", "--out", tmp_path / "other")
    assert result.exit_code == 1
    assert "reads 6 columns, the features are of dnabert_s and esm2_3b (2 + 7 = 9 columns)" in result.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["DNABERT_S", "ESM", "merged", "model.pth"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_imported_never_worse(
    tmp_path: Path, upstream_models: Path, name: str, data: st.DataObject
) -> None:
    path, framed = tmp_path / "x.pt", tmp_path / "frames.parquet"
    write_table(framed, frames(IDS), {"table": "frames"})
    if name in WRITERS:
        WRITERS[name](path, IDS, drawn(7, 6))
    else:
        path.write_bytes((upstream_models / name.replace("model", "small")).read_bytes())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    features = tmp_path / "features.parquet"
    write_table(features, features_schema(6).empty_table(), FEATURES_OF_SIX)
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    try:
        import_files([path], out, frames=framed, dna_dim=2, features=features, chunk_length=500)
    except VirnucError:
        assert not out.exists()


VECTORS = st.integers(1, 8).flatmap(
    lambda dim: st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=dim, max_size=dim),
        min_size=1,
        max_size=8,
    )
)


@pytest.mark.parametrize("kind", ["DNABERT_S", "ESM", "merged"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=VECTORS, label=st.sampled_from([None, "host", "viral"]))
def test_what_is_exported_comes_back_exactly(
    tmp_path: Path, kind: str, rows: list[list[float]], label: str | None
) -> None:
    wide = np.array([[1.0, *row] for row in rows], dtype=np.float32)
    ids, framed, table = frame_ids(len(rows)), tmp_path / "frames.parquet", tmp_path / "table.parquet"
    write_table(framed, frames(ids, label), {"table": "frames"})
    labels = {"label": ("host", "viral").index(label)} if kind == "merged" and label else {}
    options: dict[str, Any] = {"frames": framed, "dna_dim": 1 if kind == "merged" else None}
    import_files([WRITERS[kind](tmp_path / "s.pt", ids, wide, **labels)], table, **options)
    assert export_file(table, tmp_path / "back.pt")["kind"] == kind
    import_files([tmp_path / "back.pt"], tmp_path / "back.parquet", **options)
    assert read_table(tmp_path / "back.parquet") == read_table(table)
    assert vectors_of(read_table(tmp_path / "back.parquet")).tobytes() == wide.tobytes()
    before, after = read_provenance(table), read_provenance(tmp_path / "back.parquet")
    assert {**after, "sources": None} == {**before, "sources": None}


def test_upstreams_own_code_reads_what_is_exported(tmp_path: Path, framed: Path) -> None:
    """As `merge_data` reads both sides, and as the datasets of prediction.py and train.py read merged files."""
    vectors = {**SIDES, "merged": BOTH}
    for kind, dna_dim in {"DNABERT_S": None, "ESM": None, "merged": DNA_DIM}.items():
        path, table = tmp_path / f"{kind}.pt", tmp_path / f"{kind}.parquet"
        label = {"label": 1} if kind == "merged" else {}
        import_files([WRITERS[kind](path, IDS, vectors[kind], **label)], table, frames=framed, dna_dim=dna_dim)
        path.unlink()
        result = virnuc("export", table, "--to", path)
        assert result.exit_code == 0, result.output
    dna, protein, whole = (upstreams_reading(tmp_path / f"{kind}.pt") for kind in vectors)
    rows = dict(zip(dna["nucleotide"], dna["data"], strict=True))
    joined = [
        torch.cat((torch.tensor(rows[i]["mean_representation"]), vector), dim=-1)
        for i, vector in zip(protein["proteins"], protein["data"], strict=True)
    ]
    assert [row["label"] for row in dna["data"]] == dna["nucleotide"] == protein["proteins"] == whole["ids"] == IDS
    assert torch.equal(torch.stack(joined), torch.tensor(BOTH))
    assert torch.equal(whole["data"][:, :], torch.tensor(BOTH))
    assert torch.tensor(whole["labels"][0]) == 1
    assert whole["data"].size(0) == len(IDS)


def test_tables_that_virnucpros_files_cannot_hold_are_refused(tmp_path: Path, framed: Path) -> None:
    ids, out = frame_ids(4), tmp_path / "x.pt"

    def refused(table: pa.Table, provenance: dict[str, Any]) -> str:
        write_table(tmp_path / "t.parquet", table, provenance)
        with pytest.raises(ExportRefused) as error:
            export_file(tmp_path / "t.parquet", out)
        assert not out.exists()
        return str(error.value)

    mixed = pa.concat_tables([frames(ids[:3], "viral"), frames(ids[3:], "host")])
    features = {"table": "features", "encoders": {}, "dims": {}}
    assert "rows of several labels (3 viral, 1 host)" in refused(features_table(mixed, drawn(4, 3)), features)
    half = pa.concat_tables([frames(ids[:3], "viral"), frames(ids[3:])])
    assert "(3 viral, 1 without label)" in refused(features_table(half, drawn(4, 3)), features)
    assert "has no rows" in refused(features_schema(3).empty_table(), features)
    assert "a table of frames; VirNucPro has files of embeddings and of features" in refused(
        frames_schema().empty_table(), {"table": "frames"}
    )


@pytest.mark.parametrize("rows", [3, 5])
def test_a_table_that_is_replaced_while_it_is_exported_is_refused(tmp_path: Path, rows: int) -> None:
    ids = frame_ids(rows)
    table = pa.table([pa.array(ids), vector_column(drawn(rows, 2))], ["frame_id", "vector"])
    write_table(tmp_path / "t.parquet", table, {"table": "embeddings"})
    with pytest.raises(TableMismatch, match="t.parquet: replaced while it was exported"):
        list(exported_vectors(tmp_path / "t.parquet", frame_ids(4)))
