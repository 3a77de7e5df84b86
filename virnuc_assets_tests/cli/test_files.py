"""Commands on files: what they write is what the graph writes; bad input is one message that leaves nothing."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO

from virnuc_assets.encoders.checkpoints import folder_digest
from virnuc_assets.reports.sample_results import RESULT_FILES
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import content_digest, read_provenance, read_schema, read_table
from virnuc_assets_tests.assets.project import SAMPLE, Finished, Project, write_sample
from virnuc_assets_tests.cli.commands import console, message, virnuc

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "flu.fasta"
    write_sample(path, ["fluA_PB2", "two_nt", "hepatitis_delta"])
    return path


@pytest.fixture
def root(finished: Finished) -> Path:
    return finished.root


@pytest.mark.parametrize("chunk_length", [300, 500])
def test_frames_writes_the_frames_table(sample: Path, tmp_path: Path, chunk_length: int) -> None:
    out = tmp_path / "made/frames.parquet"
    result = virnuc("frames", sample, "--chunk-length", str(chunk_length), "--out", out)
    assert result.exit_code == 0, result.output
    assert read_schema(out) == frames_schema()
    assert read_provenance(out)["chunk_length"] == chunk_length
    rows = read_table(out).to_pylist()
    records = {record.id: str(record.seq).upper() for record in SeqIO.parse(sample, "fasta")}
    assert {row["record_id"] for row in rows} == {"fluA_PB2", "hepatitis_delta"}
    for row in rows:
        if row["strand"] == "+":
            assert row["nucleotides"] in records[row["record_id"]]
        assert max(len(row["nucleotides"]), 3 * len(row["protein"])) <= chunk_length


def test_another_chunk_length_is_refused(sample: Path, tmp_path: Path) -> None:
    text = message(virnuc("frames", sample, "--chunk-length", "400", "--out", tmp_path / "frames.parquet"))
    assert text == "--chunk-length: expected one of 300, 500, found 400"


def test_frames_of_nothing_that_can_be_scored_fails_with_the_most_frequent_reason(tmp_path: Path) -> None:
    path, out = tmp_path / "blanks.fa", tmp_path / "frames.parquet"
    path.write_text(">genome #1\nATGAAACCC\n>genome #2\nATGAAACCA\n>genome #3\nATGAAACCG\n>short\nAC\n")
    result = virnuc("frames", path, "--out", out)
    assert message(result) == (
        f"{path}: none of 4 records could be scored; most frequent reason (3): duplicate id: 3 different sequences "
        "have this first word of the header"
    )
    assert "records_skipped: too short for a codon" in result.stdout
    assert read_table(out, frames_schema()).num_rows == 0


def test_frames_reads_standard_input(sample: Path, tmp_path: Path) -> None:
    """Which is read to its end once, though the frames need the file twice."""
    expected, out = tmp_path / "file.parquet", tmp_path / "pipe.parquet"
    assert virnuc("frames", sample, "--out", expected).exit_code == 0
    done = console("frames", "-", "--out", out, cwd=tmp_path, stdin=sample.read_text())
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == expected.read_bytes()
    done = console("frames", "-", "--out", out, cwd=tmp_path, stdin=">short\nAC\n")
    assert (done.returncode, "error: standard input: none of 1 records" in done.stderr) == (1, True)
    done = console("frames", "-", "--out", out, cwd=tmp_path, stdin=">a\nMEL\n")
    assert (done.returncode, "error: standard input: record 'a', line 2: expected IUPAC" in done.stderr) == (1, True)


def test_frames_of_a_sample_are_those_of_the_graph(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "frames.parquet"
    source = finished.settings.incoming / f"{SAMPLE}.fasta"
    assert virnuc("frames", source, "--out", out).exit_code == 0
    shards = [finished.workspace.layout.table("samples", "translated_proteins", key) for key in shards_of(finished)]
    assert read_table(out).to_pylist() == [row for shard in shards for row in read_table(shard).to_pylist()]


def shards_of(finished: Finished) -> list[str]:
    return [f"{SAMPLE}-000001", f"{SAMPLE}-000002"]


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ("dnabert_s_miniature", "dnabert_s"),
        ("fastesm2_650_miniature", "fastesm2_650"),
    ],
)
def test_embed_writes_the_vectors_of_the_graph(
    finished: Finished, root: Path, tmp_path: Path, encoder: str, name: str
) -> None:
    layout, out = finished.workspace.layout, tmp_path / "embeddings.parquet"
    frames = layout.table("samples", "translated_proteins", shards_of(finished)[0])
    result = virnuc("embed", frames, "--encoder", encoder, "--out", out, "--project", root)
    assert result.exit_code == 0, result.output
    found = read_table(out)
    assert found.column("frame_id") == read_table(frames).column("frame_id")
    assert read_provenance(out)["encoder"]["encoder"] == encoder
    path = layout.table("samples", f"{name}_embeddings", shards_of(finished)[0])
    assert read_schema(out) == read_schema(path)
    assert read_provenance(out)["encoder"] == read_provenance(path)["encoder"]
    np.testing.assert_allclose(vectors_of(found), vectors_of(read_table(path)), atol=1e-5, rtol=0)


def test_predict_writes_what_the_graph_writes(finished: Finished, tmp_path: Path) -> None:
    """Through the installed script, in a process without Dagster; what the graph calls a sample's file is its name."""
    out, report = tmp_path / "out", finished.workspace.layout.sample_report(SAMPLE)
    done = console(
        "predict", f"{SAMPLE}.fasta", "--out", out, "--project", finished.root, cwd=finished.settings.incoming
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {path.name for path in report.iterdir()} - {"provenance.json"}
    for name in set(RESULT_FILES) - {"run.json", "report.html", "frames.parquet"}:
        assert (out / name).read_bytes() == (report / name).read_bytes(), name
    assert read_table(out / "frames.parquet") == read_table(report / "frames.parquet")
    assert read_provenance(out / "frames.parquet") == read_provenance(report / "frames.parquet")
    runs = [json.loads((folder / "run.json").read_text()) for folder in (out, report)]
    differ = {key for key in runs[0] if runs[0][key] != runs[1][key]}
    assert differ <= {"command", "started", "finished", "seconds"}, differ
    assert runs[0]["model"].keys() >= {"trained_on", "tested"}
    classifier, trained, written = (" ".join(line.split()) for line in done.stdout.splitlines()[-3:])
    assert classifier == "classifier fastesm2: dnabert_s_miniature and fastesm2_650_miniature"
    assert re.fullmatch(r"trained on \d+ viral and \d+ host records, \d+ clusters of relatives", trained)
    assert written == f"written to {out}"
    assert "Warning: the encoders have random weights; the calls say nothing." in done.stderr


def test_fasta_prints_a_table(finished: Finished) -> None:
    layout = finished.workspace.layout
    chunks = layout.table("samples", "chunked_fasta", shards_of(finished)[0])
    result = virnuc("fasta", chunks)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    rows = read_table(chunks).to_pylist()
    assert [line[1:].split()[0] for line in lines if line.startswith(">")] == [row["chunk_id"] for row in rows]
    assert "".join(line for line in lines if not line.startswith(">")) == "".join(row["sequence"] for row in rows)
    frames = layout.table("samples", "translated_proteins", shards_of(finished)[0])
    assert ">rabies_N_chunk_" in virnuc("fasta", frames, "--column", "protein").stdout
    assert "no column 'dna'; it has frame_id" in message(virnuc("fasta", frames, "--column", "dna"))


def test_attention_writes_maps_of_the_chosen_frames_and_a_picture(
    untrained: Project, frames: Path, tmp_path: Path
) -> None:
    root, out = untrained.root, tmp_path / "made/maps.npz"
    config = root / "virnuc.toml"
    config.write_text(config.read_text() + "\n[encoders.esm2_3b]\nmax_length = 50\n")
    last, first = read_table(frames).to_pylist()[::-3]
    chosen = [argument for row in (last, first, last) for argument in ("--frame", row["frame_id"])]
    options = ("--encoder", "esm2_3b_miniature", "--out", out, "--project", root)
    result = virnuc("attention", frames, *chosen, *options)
    assert result.exit_code == 0, result.output
    assert f"{first['frame_id']}: {len(first['protein'])} residues or bases, cut to the first 50" in result.stderr
    ids = [last["frame_id"], first["frame_id"]]
    folder = untrained.workspace.layout.checkpoints / "esm2_3b_miniature"
    model = json.loads((folder / "config.json").read_text())
    with np.load(out) as arrays:
        assert arrays.files == ["provenance", *(f"{kind}/{each}" for each in ids for kind in ("attention", "tokens"))]
        for row in (last, first):
            tokens, weights = (arrays[f"{kind}/{row['frame_id']}"] for kind in ("tokens", "attention"))
            assert tokens.tolist() == ["<cls>", *row["protein"][:50], "<eos>"]
            assert weights.shape == (model["num_hidden_layers"], model["num_attention_heads"], *2 * tokens.shape)
            assert weights.dtype == np.float32
        provenance = json.loads(str(arrays["provenance"]))
    assert provenance["frames"] == content_digest(frames)
    assert provenance["encoder"]["checkpoint_digest"] == folder_digest(folder)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.parent.iterdir()) == ["maps.npz", "maps.png"]


@pytest.mark.parametrize(
    ("encoder", "frame", "name", "words"),
    [
        ("esm2_3b_miniature", "nobody", "a.npz", "no frame is called nobody; there are, for example: fluA_PB2_chunk_"),
        ("kmer_protein", "nobody", "a.npz", "kmer_protein: architecture kmer has no attention"),
        ("esm2_3b_miniature", "nobody", "a.np", "--out: expected a file name that ends in .npz, found "),
    ],
)
def test_attention_that_cannot_be_written_is_one_message(
    untrained: Project, frames: Path, tmp_path: Path, encoder: str, frame: str, name: str, words: str
) -> None:
    out, root = tmp_path / "made" / name, untrained.root
    result = virnuc("attention", frames, "--encoder", encoder, "--frame", frame, "--out", out, "--project", root)
    assert words in message(result)
    assert not out.parent.exists()


@pytest.mark.parametrize("command", ["frames", "predict"])
@pytest.mark.parametrize(("name", "words"), [("cut.fasta.gz", "cut or corrupt"), ("absent.fasta", "no such")])
def test_bad_input_is_one_message_and_leaves_nothing(
    root: Path, tmp_path: Path, command: str, name: str, words: str
) -> None:
    whole = gzip.compress(b">a\n" + b"ACGTTGCA" * 4000 + b"\n")
    (tmp_path / "cut.fasta.gz").write_bytes(whole[: len(whole) // 2])
    options = [] if command == "frames" else ["--project", root]
    text = message(virnuc(command, tmp_path / name, "--out", tmp_path / "deep/out", *options))
    assert name in text and words in text
    assert not (tmp_path / "deep").exists()


@pytest.fixture
def frames(sample: Path, tmp_path: Path) -> Path:
    path = tmp_path / "frames.parquet"
    assert virnuc("frames", sample, "--out", path).exit_code == 0
    return path


def test_predict_without_a_trained_classifier_says_what_to_do(untrained: Project, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = message(virnuc("predict", sample, "--out", out, "--project", untrained.root))
    assert "no classifier" in text
    assert "train one: `virnuc demo`" in text
    assert not out.exists()


def test_what_is_no_table_of_the_kind_is_refused(finished: Finished, sample: Path, root: Path, tmp_path: Path) -> None:
    chunks = finished.workspace.layout.table("samples", "chunked_fasta", shards_of(finished)[0])
    out = tmp_path / "embeddings.parquet"
    for source in (chunks, sample, tmp_path / "absent.parquet"):
        text = message(virnuc("embed", source, "--encoder", "fastesm2_650_miniature", "--out", out, "--project", root))
        assert str(source) in text
        assert [path for path in tmp_path.iterdir() if "parquet" in path.name] == []
    assert str(sample) in message(virnuc("fasta", sample))
    text = message(virnuc("embed", chunks, "--encoder", "kmer_dna", "--out", out, "--project", root))
    assert "kmer_dna is no language model: the k-mer variant reads chunks" in text
