"""`virnuc import` and `virnuc export`: VirNucPro's files become our tables and back, exactly, or nothing is written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from virnuc_assets.classifier.checkpoint import load_classifier
from virnuc_assets.classifier.virnucpro_export import ExportRefused
from virnuc_assets.classifier.virnucpro_vectors import ImportRefused
from virnuc_assets.cli.main import app
from virnuc_assets.errors import VirnucError
from virnuc_assets.exchange import ImportOptions, export_file, import_files
from virnuc_assets.storage.digests import sequence_digest
from virnuc_assets.storage.merging import MergeMismatch, features_table, vectors_of
from virnuc_assets.storage.schemas import embeddings_schema, features_schema, frames_schema
from virnuc_assets.storage.tables import content_digest, read_recipe, read_table, require_table, write_table
from virnuc_assets_tests.virnucpro_files import (
    dnabert_s,
    drawn,
    esm,
    frame_ids,
    frames,
    merged,
    save,
    upstreams_reading,
)

pytest_plugins = ["virnuc_assets_tests.upstream_models"]

DNA_DIM, PROTEIN_DIM = 3, 5
IDS = frame_ids(7)
DNA, PROTEIN = drawn(7, DNA_DIM), drawn(7, PROTEIN_DIM, 1)

FEATURES_OF_SIX = {
    "table": "features",
    "encoders": {"dna": {"encoder": "dnabert_s"}, "protein": {"encoder": "esm2_3b"}},
    "dims": {"dna": 2, "protein": 4},
}


def virnuc(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def framed(tmp_path: Path) -> Path:
    """A viral frames table."""
    path = tmp_path / "frames.parquet"
    write_table(path, frames(IDS, "viral"), {"table": "frames"})
    return path


def shuffled(tmp_path: Path, kind: str, writer: Any, vectors: np.ndarray) -> list[Path]:
    """Two files of a kind whose rows stand in another order than the frames."""
    order = [4, 2, 6, 0, 1, 5, 3]
    parts = (order[:3], order[3:])
    return [
        writer(tmp_path / f"output_{n}_{kind}.pt", [IDS[row] for row in rows], vectors[rows])
        for n, rows in enumerate(parts)
    ]


@pytest.mark.parametrize(
    ("kind", "writer", "vectors", "column", "encoder"),
    [("DNABERT_S", dnabert_s, DNA, "nucleotides", "dnabert_s"), ("ESM", esm, PROTEIN, "protein", "esm2_3b")],
)
def test_files_of_one_side_become_embeddings(
    tmp_path: Path, framed: Path, kind: str, writer: Any, vectors: np.ndarray, column: str, encoder: str
) -> None:
    files, out = shuffled(tmp_path, kind, writer, vectors), tmp_path / "made/embeddings.parquet"
    result = virnuc("import", *files, "--frames", framed, "--out", out)
    assert result.exit_code == 0, result.output
    table = read_table(out, embeddings_schema(vectors.shape[1]))
    assert table.column("frame_id").to_pylist() == IDS
    assert vectors_of(table).tobytes() == vectors.tobytes()
    sequences = read_table(framed).column(column).to_pylist()
    assert table.column("digest").to_pylist() == [sequence_digest(sequence) for sequence in sequences]
    alphabet = "dna" if kind == "DNABERT_S" else "protein"
    assert read_recipe(out) == {
        "table": "embeddings",
        "frames": content_digest(framed),
        "encoder": {"encoder": encoder, "alphabet": alphabet, "dim": str(vectors.shape[1]), "origin": "VirNucPro"},
        "origin": "VirNucPro",
        "kind": kind,
        "sources": [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in files],
    }


def test_both_sides_become_the_features_that_a_sound_merge_holds(tmp_path: Path, framed: Path) -> None:
    sides = [*shuffled(tmp_path, "DNABERT_S", dnabert_s, DNA), *shuffled(tmp_path, "ESM", esm, PROTEIN)]
    whole = merged(tmp_path / "output_1_merged.pt", IDS, np.concatenate([DNA, PROTEIN], axis=1), 1)
    tables = []
    for name, sources in {"sides": sides, "merged": [whole], "both": [whole, *sides]}.items():
        out = tmp_path / f"{name}.parquet"
        alone = ("--dna-dim", DNA_DIM) if name == "merged" else ()
        result = virnuc("import", *sources, "--frames", framed, "--out", out, *map(str, alone))
        assert result.exit_code == 0, result.output
        tables.append(read_table(out, features_schema(DNA_DIM + PROTEIN_DIM)))
        recipe = read_recipe(out)
        assert recipe["dims"] == {"dna": DNA_DIM, "protein": PROTEIN_DIM}
        assert {side: found["encoder"] for side, found in recipe["encoders"].items()} == {
            "dna": "dnabert_s",
            "protein": "esm2_3b",
        }
        assert (recipe["table"], recipe["frames"], recipe["origin"]) == (
            "features",
            content_digest(framed),
            "VirNucPro",
        )
    assert (
        tables[0]
        == tables[1]
        == tables[2]
        == features_table(read_table(framed), np.concatenate([DNA, PROTEIN], axis=1))
    )
    assert tables[0].column("label").to_pylist() == ["viral"] * 7


def refusal(error: type[VirnucError], sources: list[Path], framed: Path | None, **options: Any) -> str:
    """The message of an import, after which nothing is written."""
    out = sources[0].parent / "refused.parquet"
    with pytest.raises(error) as refused:
        import_files(sources, out, ImportOptions(frames=framed, **options))
    assert not out.exists()
    return str(refused.value)


def test_ids_that_do_not_fit_the_frames_are_counted(tmp_path: Path, framed: Path) -> None:
    ids = [*IDS[:5], "other_chunk_1F1"]
    told = refusal(MergeMismatch, [esm(tmp_path / "x_ESM.pt", ids, PROTEIN[:6])], framed)
    assert told.startswith(
        f"rows of x_ESM.pt do not fit the frames: 7 frames, 6 embeddings; 2 frames without one (e.g. {IDS[5:]}), "
        "1 embeddings without a frame (e.g. ['other_chunk_1F1']), 0 twice."
    )
    both = [esm(tmp_path / "a_ESM.pt", IDS, PROTEIN), esm(tmp_path / "b_ESM.pt", IDS[:2], PROTEIN[:2])]
    assert "rows of a_ESM.pt and 1 more files" in refusal(MergeMismatch, both, framed)
    assert ", 2 twice." in refusal(MergeMismatch, both, framed)


@pytest.mark.parametrize("side", ["DNABERT_S", "ESM"])
def test_rows_of_another_id_are_found_by_the_sides(tmp_path: Path, framed: Path, side: str) -> None:
    """What upstream's fault leaves when the counts agree by chance: rows moved up by one."""
    vectors = np.concatenate([DNA, PROTEIN], axis=1)
    wrong = merged(tmp_path / "x_merged.pt", IDS, np.concatenate([vectors[:3], vectors[4:], vectors[3:4]]))
    writer, rows = (dnabert_s, DNA) if side == "DNABERT_S" else (esm, PROTEIN)
    told = refusal(ImportRefused, [wrong, writer(tmp_path / "x.pt", IDS, rows)], framed)
    assert f"misaligned with its {side} side: of 7 rows 4 hold other values than their id's vector" in told
    assert f"(e.g. {', '.join(map(repr, IDS[3:6]))}), 0 ids have no vector there" in told
    lacking = writer(tmp_path / "x.pt", IDS[1:], rows[1:])
    sound = merged(tmp_path / "x_merged.pt", IDS, vectors)
    told = refusal(ImportRefused, [sound, lacking], framed)
    assert f"of 7 rows 0 hold other values than their id's vector, 1 ids have no vector there (e.g. '{IDS[0]}')" in told


def test_a_label_that_contradicts_the_frames_is_refused(tmp_path: Path, framed: Path) -> None:
    path = merged(tmp_path / "x_merged.pt", IDS, drawn(7, 8), 0)
    told = refusal(ImportRefused, [path], framed, dna_dim=3)
    assert "its rows are labelled host, 7 of 7 frames are not (e.g. " in told


def test_columns_must_be_told_once(tmp_path: Path, framed: Path) -> None:
    path = merged(tmp_path / "x_merged.pt", IDS, np.concatenate([DNA, PROTEIN], axis=1))
    side, protein = dnabert_s(tmp_path / "d.pt", IDS, DNA), esm(tmp_path / "e.pt", IDS, PROTEIN[:, 1:])
    assert "8 columns; expected how many of them are the nucleotides'" in refusal(ImportRefused, [path], framed)
    for dim in (0, 8, 9, -1):
        assert f"found {dim} by --dna-dim" in refusal(ImportRefused, [path], framed, dna_dim=dim)
    assert "found 3 by d.pt, 4 by --dna-dim" in refusal(ImportRefused, [path, side], framed, dna_dim=4)
    assert "found 3 by d.pt, 8 - 4 by e.pt" in refusal(ImportRefused, [path, side, protein], framed)
    wide = esm(tmp_path / "f.pt", IDS, drawn(7, 6))
    assert "files of different encoders: 4 columns in e.pt, 6 columns in f.pt" in refusal(
        ImportRefused, [protein, wide], framed
    )


def test_what_a_kind_of_file_needs_is_asked_for(tmp_path: Path, framed: Path, upstream_models: Path) -> None:
    assert "ESM vectors; give their frames: --frames" in refusal(
        VirnucError, [esm(tmp_path / "x.pt", IDS, PROTEIN)], None
    )
    model = tmp_path / "500_model.pth"
    model.write_bytes((upstream_models / "small.pth").read_bytes())
    assert "a model of 6 columns; it does not tell on what it was trained: give --features" in refusal(
        VirnucError, [model], framed
    )
    assert "a model is imported alone, found 1 more files" in refusal(VirnucError, [model, model], framed)
    assert "expected a features table, found frames" in refusal(
        VirnucError, [model], None, features=framed, chunk_length=500
    )
    assert "expected one of 300, 500, found 400" in refusal(
        VirnucError, [model], None, features=framed, chunk_length=400
    )
    assert "holds a module of class __main__.MLPClassifier, no vectors" in refusal(
        ImportRefused, [esm(tmp_path / "x.pt", IDS, PROTEIN), model], framed
    )


def test_a_model_becomes_a_classifier_of_the_features_it_is_to_score(
    tmp_path: Path, framed: Path, upstream_models: Path
) -> None:
    table, folder = tmp_path / "features.parquet", tmp_path / "made/classifier"
    import_files([merged(tmp_path / "x.pt", IDS, drawn(7, 6))], table, ImportOptions(frames=framed, dna_dim=2))
    model = upstream_models / "small.pth"
    result = virnuc("import", model, "--features", table, "--chunk-length", "300", "--out", folder)
    assert result.exit_code == 0, result.output
    _, description = load_classifier(folder)
    assert description.encoders == read_recipe(table)["encoders"]
    assert (description.dna_dim, description.protein_dim, description.chunk_length) == (2, 4, 300)
    assert description.origin is not None
    assert description.origin.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    import_files([merged(tmp_path / "x.pt", IDS, drawn(7, 9))], table, ImportOptions(frames=framed, dna_dim=2))
    result = virnuc("import", model, "--features", table, "--chunk-length", "300", "--out", tmp_path / "other")
    assert result.exit_code == 1
    assert "reads 6 columns, the features are of dnabert_s and esm2_3b (2 + 7 = 9 columns)" in result.stderr
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_refused_is_one_message(tmp_path: Path, framed: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no file of torch")
    result = virnuc("import", tmp_path / "x.pt", "--frames", framed, "--out", tmp_path / "out.parquet")
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.output
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("name", ["DNABERT_S", "ESM", "merged", "model.pth"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_imported_never_worse(
    tmp_path: Path, upstream_models: Path, name: str, data: st.DataObject
) -> None:
    path, framed = tmp_path / "x.pt", tmp_path / "frames.parquet"
    write_table(framed, frames(IDS), {"table": "frames"})
    writers = {"DNABERT_S": dnabert_s, "ESM": esm, "merged": merged}
    if name in writers:
        writers[name](path, IDS, drawn(7, 6))
    else:
        path.write_bytes((upstream_models / name.replace("model", "small")).read_bytes())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    features = tmp_path / "features.parquet"
    write_table(features, features_schema(6).empty_table(), FEATURES_OF_SIX)
    options = ImportOptions(frames=framed, dna_dim=2, features=features, chunk_length=500)
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    try:
        import_files([path], out, options)
    except VirnucError:
        assert not out.exists()


vectors = st.integers(1, 8).flatmap(
    lambda dim: st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=dim, max_size=dim),
        min_size=1,
        max_size=8,
    )
)


def written(folder: Path, kind: str, rows: np.ndarray, label: str | None) -> tuple[Path, Path]:
    """A frames table and a table of these vectors, as an import of them writes it."""
    ids = frame_ids(len(rows))
    write_table(folder / "frames.parquet", frames(ids, label), {"table": "frames"})
    number = {None: None, "host": 0, "viral": 1}[label]
    source = {
        "DNABERT_S": lambda: dnabert_s(folder / "s.pt", ids, rows),
        "ESM": lambda: esm(folder / "s.pt", ids, rows),
        "merged": lambda: merged(folder / "s.pt", ids, rows, number),
    }[kind]()
    options = ImportOptions(frames=folder / "frames.parquet", dna_dim=1 if kind == "merged" else None)
    import_files([source], folder / "table.parquet", options)
    return folder / "frames.parquet", folder / "table.parquet"


@pytest.mark.parametrize("kind", ["DNABERT_S", "ESM", "merged"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=vectors, label=st.sampled_from([None, "host", "viral"]))
def test_what_is_exported_comes_back_exactly(
    tmp_path: Path, kind: str, rows: list[list[float]], label: str | None
) -> None:
    wide = np.array([[1.0, *row] for row in rows], dtype=np.float32)
    framed, table = written(tmp_path, kind, wide, label)
    assert export_file(table, tmp_path / "back.pt")["kind"] == kind
    options = ImportOptions(frames=framed, dna_dim=1 if kind == "merged" else None)
    import_files([tmp_path / "back.pt"], tmp_path / "back.parquet", options)
    assert read_table(tmp_path / "back.parquet") == read_table(table)
    assert content_digest(tmp_path / "back.parquet") == content_digest(table)
    assert vectors_of(read_table(tmp_path / "back.parquet")).tobytes() == wide.tobytes()
    before, after = read_recipe(table), read_recipe(tmp_path / "back.parquet")
    assert {**after, "sources": None} == {**before, "sources": None}


def test_upstreams_own_code_reads_what_is_exported(tmp_path: Path, framed: Path) -> None:
    """As `merge_data` reads both sides, and as the datasets of prediction.py and train.py read merged files."""
    both = np.concatenate([DNA, PROTEIN], axis=1)
    sources = {
        "d": dnabert_s(tmp_path / "d0.pt", IDS, DNA),
        "p": esm(tmp_path / "p0.pt", IDS, PROTEIN),
        "m": merged(tmp_path / "m0.pt", IDS, both, 1),
    }
    for name, path in sources.items():
        options = ImportOptions(frames=framed, dna_dim=DNA_DIM if name == "m" else None)
        import_files([path], tmp_path / f"{name}.parquet", options)
        result = virnuc("export", tmp_path / f"{name}.parquet", "--to", tmp_path / f"{name}.pt")
        assert result.exit_code == 0, result.output
    dna, protein, whole = (upstreams_reading(tmp_path / f"{name}.pt") for name in "dpm")
    rows = dict(zip(dna["nucleotide"], dna["data"], strict=True))
    joined = [
        torch.cat((torch.tensor(rows[i]["mean_representation"]), vector), dim=-1)
        for i, vector in zip(protein["proteins"], protein["data"], strict=True)
    ]
    assert [row["label"] for row in dna["data"]] == dna["nucleotide"] == protein["proteins"] == whole["ids"] == IDS
    assert torch.equal(torch.stack(joined), torch.tensor(both))
    assert torch.equal(whole["data"][:, :], torch.tensor(both))
    assert torch.tensor(whole["labels"][0]) == 1
    assert whole["data"].size(0) == len(IDS)
    for name in "dpm":
        export_file(tmp_path / f"{name}.parquet", tmp_path / "again.pt")
        assert (tmp_path / "again.pt").read_bytes() == (tmp_path / f"{name}.pt").read_bytes()


def test_tables_that_virnucpros_files_cannot_hold_are_refused(tmp_path: Path, framed: Path) -> None:
    ids, out = frame_ids(4), tmp_path / "x.pt"

    def refused(table: pa.Table, recipe: dict[str, Any]) -> str:
        write_table(tmp_path / "t.parquet", table, recipe)
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


def test_an_export_that_fails_leaves_the_old_file(
    tmp_path: Path, framed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_files([esm(tmp_path / "x.pt", IDS, PROTEIN)], tmp_path / "t.parquet", ImportOptions(frames=framed))
    save("old", tmp_path / "out.pt")

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_file(tmp_path / "t.parquet", tmp_path / "out.pt")
    assert upstreams_old(tmp_path / "out.pt") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames.parquet", "out.pt", "t.parquet", "x.pt"]


def upstreams_old(path: Path) -> object:
    return torch.load(path, weights_only=True)


def test_imported_tables_are_not_taken_for_our_own(tmp_path: Path, framed: Path) -> None:
    """Their fingerprint tells what is known, so a stage that requires today's encoder refuses them."""
    import_files([esm(tmp_path / "x.pt", IDS, PROTEIN)], tmp_path / "t.parquet", ImportOptions(frames=framed))
    with pytest.raises(VirnucError, match="encoder.precision: expected fp32, found nothing"):
        require_table(tmp_path / "t.parquet", require={"encoder": {"encoder": "esm2_3b", "precision": "fp32"}})
