"""The command line: what it writes is what the graph writes, and bad input is one message that leaves nothing."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO
from click.testing import Result
from typer.testing import CliRunner

from virnuc_assets.cli.main import app
from virnuc_assets.encoders.checkpoints import folder_digest
from virnuc_assets.settings import load_settings
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import content_digest, read_recipe, read_schema, read_table
from virnuc_assets.workstation.setup import set_up_encoders
from virnuc_assets_tests.assets.project import SAMPLE, Finished, Project, new_project, write_sample

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

COMMANDS = (
    "frames",
    "embed",
    "attention",
    "predict",
    "fasta",
    "catalogue",
    "import",
    "export",
    "doctor",
    "setup",
    "demo",
    "up",
)
FILES = ("prediction_results.txt", "prediction_results_highestscore.csv", "records.tsv")


def virnuc(*arguments: str | Path) -> Result:
    """A command in this process; stdout and stderr apart, an error that is no message raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def console(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The installed console script, in a process of its own."""
    script = Path(sys.executable).with_name("virnuc")
    return subprocess.run([script, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


def message(result: Result) -> str:
    """The one message of a command that failed."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert result.stderr.count("error:") == 1
    return " ".join(result.stderr.partition("error:")[2].split())


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "flu.fasta"
    write_sample(path, ["fluA_PB2", "two_nt", "hepatitis_delta"])
    return path


@pytest.fixture
def config(finished: Finished) -> Path:
    return finished.root / "virnuc.toml"


@pytest.fixture
def untrained(blank: Path, tmp_path: Path) -> Iterator[Project]:
    yield new_project(tmp_path / "untrained", blank)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = virnuc(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_lists_every_command() -> None:
    result = virnuc("--help")
    assert result.exit_code == 0
    assert [command for command in COMMANDS if command not in result.output] == []


@pytest.mark.parametrize("chunk_length", [300, 500])
def test_frames_writes_the_frames_table(sample: Path, tmp_path: Path, chunk_length: int) -> None:
    out = tmp_path / "made/frames.parquet"
    result = virnuc("frames", sample, "--chunk-length", str(chunk_length), "--out", out)
    assert result.exit_code == 0, result.output
    assert read_schema(out) == frames_schema()
    assert read_recipe(out)["chunk_length"] == chunk_length
    rows = read_table(out).to_pylist()
    records = {record.id: str(record.seq).upper() for record in SeqIO.parse(sample, "fasta")}
    assert {row["record_id"] for row in rows} == {"fluA_PB2", "hepatitis_delta"}
    for row in rows:
        if row["strand"] == "+":
            assert row["nucleotides"] in records[row["record_id"]]
        assert max(len(row["nucleotides"]), 3 * len(row["protein"])) <= chunk_length


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
        ("esm2_3b_miniature", "esm2_3b"),
        ("kmer_protein", None),
    ],
)
def test_embed_writes_the_vectors_of_the_graph(
    finished: Finished, config: Path, tmp_path: Path, encoder: str, name: str | None
) -> None:
    layout, out = finished.workspace.layout, tmp_path / "embeddings.parquet"
    frames = layout.table("samples", "translated_proteins", shards_of(finished)[0])
    result = virnuc("embed", frames, "--encoder", encoder, "--out", out, "--config", config)
    assert result.exit_code == 0, result.output
    found = read_table(out)
    assert found.column("frame_id") == read_table(frames).column("frame_id")
    assert read_recipe(out)["encoder"]["encoder"] == encoder
    if name is None:
        assert read_schema(out) == embeddings_schema(400)
    else:
        path = layout.table("samples", f"{name}_embeddings", shards_of(finished)[0])
        assert read_schema(out) == read_schema(path)
        assert read_recipe(out)["encoder"] == read_recipe(path)["encoder"]
        np.testing.assert_allclose(vectors_of(found), vectors_of(read_table(path)), atol=1e-5, rtol=0)


def test_predict_writes_what_the_graph_writes(finished: Finished, tmp_path: Path) -> None:
    """Through the installed script, in a process without Dagster."""
    source = finished.settings.incoming / f"{SAMPLE}.fasta"
    done = console("predict", source, "--out", tmp_path / "out", cwd=finished.root)
    assert done.returncode == 0, done.stderr
    report = finished.workspace.layout.sample_report(SAMPLE)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (report / name).read_bytes(), name


def test_predict_reads_gzip_and_genbank_alike(finished: Finished, config: Path, sample: Path, tmp_path: Path) -> None:
    packed, genbank = tmp_path / "packed.fasta.gz", tmp_path / "flat.gbk"
    packed.write_bytes(gzip.compress(sample.read_bytes()))
    records = list(SeqIO.parse(sample, "fasta"))
    for record in records:
        record.annotations["molecule_type"] = "DNA"
    SeqIO.write(records, genbank, "genbank")
    written = []
    for number, source in enumerate((sample, packed, genbank)):
        out = tmp_path / f"out{number}"
        assert virnuc("predict", source, "--out", out, "--config", config).exit_code == 0
        written.append([(out / name).read_bytes() for name in FILES])
    assert written[0] == written[1] == written[2]


def test_predict_of_records_that_are_all_too_short_says_so(config: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "short.fasta", tmp_path / "out"
    write_sample(path, ["two_nt"])
    result = virnuc("predict", path, "--out", out, "--config", config)
    assert result.exit_code == 0, result.output
    assert (out / "prediction_results.txt").read_text() == "Sequence_ID\tPrediction\tscore1\tscore2\n"
    assert "too short for a codon" in (out / "records.tsv").read_text()


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


def test_doctor_tells_the_machine_and_the_project(config: Path) -> None:
    result = virnuc("doctor", "--config", config)
    assert result.exit_code == 0, result.output
    for word in ("torch", "device", "attention backends", "memory", "fastesm2_650_miniature", "serving classifier"):
        assert word in result.stdout


def test_doctor_fails_where_a_checkpoint_is_missing(untrained: Project) -> None:
    shutil.rmtree(untrained.workspace.layout.checkpoints / "esm2_3b_miniature")
    result = virnuc("doctor", "--config", untrained.root / "virnuc.toml")
    assert "esm2_3b_miniature: no checkpoint" in message(result)
    assert "virnuc setup" in result.stderr
    assert "not trained yet" in result.stdout


def test_doctor_fails_where_a_checkpoint_is_incomplete(untrained: Project) -> None:
    (untrained.workspace.layout.checkpoints / "esm2_3b_miniature/model.safetensors").write_bytes(b"")
    (untrained.workspace.layout.checkpoints / "dnabert_s_miniature/tokenizer.json").unlink()
    result = virnuc("doctor", "--config", untrained.root / "virnuc.toml")
    told = message(result)
    assert "esm2_3b_miniature: " in told and "missing or empty: model.safetensors" in told
    assert "dnabert_s_miniature: " in told and "no vocab.txt or tokenizer.json" in told
    assert told.count("run `virnuc setup --encoder") == 2
    assert result.stdout.count(": incomplete") == 2


def test_embed_reads_the_folder_that_the_settings_name(untrained: Project, frames: Path, tmp_path: Path) -> None:
    config, out = untrained.root / "virnuc.toml", tmp_path / "vectors.parquet"
    folder = untrained.root / "models/fastesm2"
    shutil.copytree(untrained.workspace.layout.checkpoints / "fastesm2_650_miniature", folder)
    config.write_text(config.read_text() + '\n[checkpoints.fastesm2_650]\nfolder = "models/fastesm2"\n')
    embed = ("embed", frames, "--encoder", "fastesm2_650", "--out", out, "--config", config)
    assert "fastesm2_650: the checkpoint is not in virnuc.lock; run `virnuc setup" in message(virnuc(*embed))
    set_up_encoders(load_settings(config), print, ["fastesm2_650"], [])
    result = virnuc(*embed)
    assert result.exit_code == 0, result.output
    assert read_recipe(out)["encoder"]["encoder"] == "fastesm2_650"
    assert re.fullmatch("[0-9a-f]{32}", read_recipe(out)["encoder"]["checkpoint_digest"])


def test_attention_writes_maps_of_the_chosen_frames_and_a_picture(
    untrained: Project, frames: Path, tmp_path: Path
) -> None:
    config, out = untrained.root / "virnuc.toml", tmp_path / "made/maps.npz"
    config.write_text(config.read_text() + "\n[encoders.esm2_3b]\nmax_length = 50\n")
    last, first = read_table(frames).to_pylist()[::-3]
    chosen = [argument for row in (last, first, last) for argument in ("--frame", row["frame_id"])]
    options = ("--encoder", "esm2_3b_miniature", "--out", out, "--config", config)
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
    out, config = tmp_path / "made" / name, untrained.root / "virnuc.toml"
    result = virnuc("attention", frames, "--encoder", encoder, "--frame", frame, "--out", out, "--config", config)
    assert words in message(result)
    assert not out.parent.exists()


def cut(folder: Path) -> Path:
    path = folder / "cut.fasta.gz"
    whole = gzip.compress(b">a\n" + b"ACGTTGCA" * 4000 + b"\n")
    path.write_bytes(whole[: len(whole) // 2])
    return path


def protein(folder: Path) -> Path:
    path = folder / "protein.fasta"
    path.write_text(">p1\nMKVLEEFIPQLL\n")
    return path


def unnamed(folder: Path) -> Path:
    path = folder / "unnamed.fasta"
    path.write_text(">r\nACGTACGT\n>\nACGT\n")
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.fasta"
    path.write_text("")
    return path


def absent(folder: Path) -> Path:
    return folder / "absent.fasta"


BAD_INPUT = [
    (cut, ["cut.fasta.gz", "cut or corrupt"]),
    (protein, ["protein.fasta", "'p1'", "looks like protein"]),
    (unnamed, ["unnamed.fasta", "line 3", "without an id"]),
    (empty, ["empty.fasta", "empty"]),
    (absent, ["absent.fasta", "no such"]),
]


@pytest.mark.parametrize("command", ["frames", "predict"])
@pytest.mark.parametrize(("make", "words"), BAD_INPUT, ids=[make.__name__ for make, _ in BAD_INPUT])
def test_bad_input_is_one_message_and_leaves_nothing(
    config: Path, tmp_path: Path, command: str, make: object, words: list[str]
) -> None:
    assert callable(make)
    source, out = make(tmp_path), tmp_path / "deep/out"
    options = [] if command == "frames" else ["--config", config]
    told = message(virnuc(command, source, "--out", out, *options))
    assert [word for word in words if word not in told] == []
    assert not out.exists()
    assert not out.parent.exists()


def test_bad_input_reaches_the_shell_as_status_1_without_traceback(finished: Finished, tmp_path: Path) -> None:
    done = console("frames", cut(tmp_path), "--out", tmp_path / "frames.parquet", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cut.fasta.gz"]


@pytest.mark.parametrize("chunk_length", ["400", "0", "-500"])
def test_another_chunk_length_is_refused(sample: Path, tmp_path: Path, chunk_length: str) -> None:
    out = tmp_path / "frames.parquet"
    told = message(virnuc("frames", sample, "--chunk-length", chunk_length, "--out", out))
    assert told == f"--chunk-length: expected one of 300, 500, found {chunk_length}"
    assert not out.exists()


@pytest.fixture
def frames(sample: Path, tmp_path: Path) -> Path:
    path = tmp_path / "frames.parquet"
    assert virnuc("frames", sample, "--out", path).exit_code == 0
    return path


def test_an_unknown_encoder_is_refused(frames: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.parquet"
    told = message(virnuc("embed", frames, "--encoder", "esm9", "--out", out, "--config", config))
    assert "no encoder is called 'esm9'; there are: " in told
    assert "fastesm2_650_miniature" in told
    assert not out.exists()


def test_an_encoder_without_checkpoint_is_refused(frames: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.parquet"
    told = message(virnuc("embed", frames, "--encoder", "fastesm2_650", "--out", out, "--config", config))
    assert "the checkpoint is not in virnuc.lock; run `virnuc setup" in told
    assert not out.exists()


def test_predict_without_a_trained_classifier_says_what_to_do(untrained: Project, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = message(virnuc("predict", sample, "--out", out, "--config", untrained.root / "virnuc.toml"))
    assert "no classifier" in told
    assert "train the classifier" in told
    assert not out.exists()


def test_predict_refuses_a_classifier_of_another_chunk_length(copied: Project, sample: Path, tmp_path: Path) -> None:
    copied.configure(sequences={"chunk_length": 300})
    out = tmp_path / "out"
    told = message(virnuc("predict", sample, "--out", out, "--config", copied.root / "virnuc.toml"))
    assert "chunk_length: expected 500, found 300" in told
    assert not out.exists()


def test_embed_refuses_what_is_no_frames_table(finished: Finished, sample: Path, config: Path, tmp_path: Path) -> None:
    chunks = finished.workspace.layout.table("samples", "chunked_fasta", shards_of(finished)[0])
    foreign = tmp_path / "foreign.parquet"
    write_foreign(foreign)
    for source in (chunks, foreign, sample, tmp_path / "absent.parquet"):
        out = tmp_path / "embeddings.parquet"
        told = message(virnuc("embed", source, "--encoder", "kmer_dna", "--out", out, "--config", config))
        assert str(source) in told
        assert not out.exists()
        assert [path for path in tmp_path.iterdir() if "partial" in path.name] == []


def write_foreign(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"frame_id": ["a"]}), path)


def test_fasta_refuses_what_is_no_table(sample: Path, tmp_path: Path) -> None:
    assert str(sample) in message(virnuc("fasta", sample))
    assert "absent.parquet" in message(virnuc("fasta", tmp_path / "absent.parquet"))


def test_an_output_that_cannot_be_written_is_one_message(sample: Path, config: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    assert str(tmp_path / "folder") in message(virnuc("frames", sample, "--out", tmp_path / "folder"))
    assert str(tmp_path / "file") in message(virnuc("predict", sample, "--out", tmp_path / "file", "--config", config))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_missing_or_wrong_settings_file_is_named(sample: Path, tmp_path: Path) -> None:
    config = tmp_path / "virnuc.toml"
    assert "settings file not found" in message(virnuc("predict", sample, "--out", tmp_path / "o", "--config", config))
    config.write_text("[sequences]\nchunk_lenght = 500\n")
    told = message(virnuc("doctor", "--config", config))
    assert f"{config}:2: sequences.chunk_lenght" in told


def test_demo_without_the_bundled_sample_says_so(untrained: Project) -> None:
    told = message(virnuc("demo", "--config", untrained.root / "virnuc.toml"))
    assert "demo_sample.fasta: the bundled sample is missing" in told


def test_a_port_that_is_taken_is_told(untrained: Project) -> None:
    import socket

    with socket.socket() as taken, socket.socket() as free:
        for there in (taken, free):
            there.bind(("127.0.0.1", 0))
        taken.listen()
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        untrained.configure(servers={"dagster_port": other, "mlflow_port": port})
        assert f"port {port} is taken" in message(virnuc("up", "--config", untrained.root / "virnuc.toml"))
