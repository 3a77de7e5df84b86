"""The folder of results by its files: cells, ids of several inputs, MultiQC, and runs that say what they were."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from virnuc_assets.classifier.checkpoint import ClassifierDescription
from virnuc_assets.classifier.novelty import SKETCH_FILE, TrainedProteins
from virnuc_assets.classifier.record_rule import Curve
from virnuc_assets.encoders import registry as encoders
from virnuc_assets.encoders.checkpoints import identity
from virnuc_assets.errors import VirnucError
from virnuc_assets.reports.sample_results import (
    RESULT_FILES,
    Input,
    Started,
    read_record_ids,
    repeated_ids,
    write_ledger,
    write_results,
    written_ids,
)
from virnuc_assets.settings import Settings, SplitSettings
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.tables import write_table
from virnuc_assets_tests.classifier.sample_fakes import FakeRecord, fake_ledger, fake_predictions
from virnuc_assets_tests.classifier.test_record_rule import rule as record_rule

SETTINGS = {
    "chunk_length": 500,
    "frame_rule": "stop_free",
    "min_confidence": 0.6,
    "max_error": 0.2,
    "min_length": 0,
    "precision": "fp32",
    "device": "auto",
}
ENCODERS = {
    "dna": {**identity(encoders.ENCODERS["dnabert_s_miniature"], "fp32"), "checkpoint_digest": "d"},
    "protein": {**identity(encoders.ENCODERS["esm2_8m_miniature"], "fp32"), "checkpoint_digest": ""},
}
SEEN, NEW = "MKTAYIAKQRQISFVKSHFSRQLEERLG", "ACDEFGHIKLMNPQRSTVWYACDEFGHI"
DIMS = {"dna_dim": 1, "protein_dim": 1, "merged_dim": 2}
DESCRIPTION = ClassifierDescription(variant="v", encoders=ENCODERS, **DIMS, chunk_length=500, best_epoch=3)


def sample(folder: Path) -> tuple[list[Input], list[FakeRecord]]:
    """Two inputs on disk, which share an id, and their records."""
    records = [
        FakeRecord("both", 900, [{"F1": 0.9}, {"F1": 0.9, "R3": 0.75}], "a.fa"),
        FakeRecord("=1+1", 300, [{"R2": 0.1}], "a.fa"),
        FakeRecord("both", 500, [{"F1": 0.875}], "b.fa"),
        FakeRecord("short", 2, [{}], "b.fa"),
    ]
    inputs = []
    for source in ("a.fa", "b.fa"):
        bases = {one.record_id: ("acgTN" * 200)[: one.length_nt] for one in records if one.source == source}
        text = "".join(f">{name} of {source}\n{sequence}\n" for name, sequence in bases.items())
        (folder / source).write_text(text)
        inputs.append(Input(source, folder / source, sha256(folder / source)))
    return inputs, records


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def written(folder: Path, description: ClassifierDescription = DESCRIPTION) -> Path:
    inputs, records = sample(folder)
    shards = []
    for rows, proteins in (([0, 1], {"both": NEW, "=1+1": SEEN}), ([2, 3], {"both": SEEN[:12]})):
        frames = folder / f"frames{rows[0]}.parquet"
        write_table(frames, pa.table({"record_id": list(proteins), "protein": list(proteins.values())}), {})
        shards.append((np.array(rows), fake_predictions([records[row] for row in rows]), frames))
    (folder / "out").mkdir()
    layout = Layout(folder / "var", "miniature")
    run = Started.now("virnuc predict a.fa b.fa", Settings(root=folder), description, layout)
    write_results(folder / "out", inputs, *write_ledger(folder / "out", fake_ledger(records)), shards, run)
    return folder / "out"


def test_every_file_says_the_same_of_the_records(tmp_path: Path) -> None:
    out = written(tmp_path)
    assert {path.name for path in out.iterdir()} == set(RESULT_FILES)
    assert (out / "summary.tsv").read_text() == (
        "source\trecord_id\tlength_nt\tcall\tprobability\tnovelty\tviral_fraction\tchunks\tchunks_scored\tchunks_viral\t"
        "chunks_uncertain\tlongest_viral_nt\treason\n"
        f"a.fa\tboth\t900\tvirus\t{(0.9 + 0.9 / (0.9 + 0.25)) / 2:.4f}\t\t1.0000\t2\t2\t2\t0\t900\t\n"
        "a.fa\t'=1+1\t300\tother\t0.1000\t\t0.0000\t1\t1\t0\t0\t0\t\n"
        "b.fa\tboth\t500\tvirus\t0.8750\t\t1.0000\t1\t1\t1\t0\t500\t\n"
        "b.fa\tshort\t2\tnot scored\t\t\t\t1\t0\t0\t0\t0\tno open frame\n"
    )
    assert read_record_ids(out) == ["both", "=1+1", "both", "short"]
    ledger = pd.read_csv(out / "ledger.tsv", sep="\t")
    assert ledger["source"].tolist() == ["a.fa", "a.fa", "b.fa", "b.fa"]
    assert ledger["frames_kept"].tolist() == [3, 1, 1, 0]
    heads = [line for line in (out / "virus.fna").read_text().splitlines() if line.startswith(">")]
    assert heads == [">both of a.fa", ">both of b.fa"]
    assert "".join(line for line in (out / "virus.fna").read_text().splitlines()[1:13]) == "acgTN" * 180
    ids = [line.split("\t")[0] for line in (out / "prediction_results.txt").read_text().splitlines()[1:]]
    assert ids == ["a.fa:both_chunk_1F1", "a.fa:both_chunk_2F1", "a.fa:both_chunk_2R3", "'=1+1_chunk_1R2",
                   "b.fa:both_chunk_1F1"]  # fmt: skip
    chunks = [line.split("\t")[3] for line in (out / "chunks.bed").read_text().splitlines()]
    assert chunks == ["a.fa:both_chunk_1", "a.fa:both_chunk_2", "=1+1_chunk_1", "b.fa:both_chunk_1", "short_chunk_1"]


def test_a_rule_and_a_sketch_change_records_and_neither_chunks_nor_virnucpros_files(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "ruled/var", "miniature")
    write_table(tmp_path / "trained.parquet", pa.table({"record_id": ["t"], "protein": [SEEN]}), {})
    settings = SplitSettings(sketch_scaled=1)
    content, sketch = TrainedProteins([tmp_path / "trained.parquet"], settings).sketch(["t"]).packed()
    layout.classifier("v").mkdir(parents=True)
    (layout.classifier("v") / SKETCH_FILE).write_bytes(content)
    (tmp_path / "plain").mkdir()
    plain = written(tmp_path / "plain")
    rule = record_rule("share_of_chunks", known=Curve(slope=9.0, slope_per_doubling=0.0, intercept=0.0))
    out = written(tmp_path / "ruled", DESCRIPTION.model_copy(update={"record_rule": rule, "sketch": sketch}))
    found = pd.read_csv(out / "summary.tsv", sep="\t")
    assert found["novelty"].tolist()[:3] == [1.0, 0.0, 0.0] and found["novelty"].isna().tolist()[3]
    # Both chunks of the first are viral; the second has relatives; the third shares 3 k-mers, which are too few.
    probability = [1 / (1 + math.exp(-odds)) for odds in (0.5 * 1.5 - 0.25, 9 * -0.5, 0.5 * 1.0 - 0.25)]
    assert found["probability"].tolist()[:3] == pytest.approx(probability, abs=5e-5)
    assert found["call"].tolist() == ["uncertain", "other", "uncertain", "not scored"]
    for name in ("chunks.bed", "chunks.gff3", "ledger.tsv", "prediction_results.txt"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()
    model = json.loads((out / "run.json").read_text())["model"]
    assert (model["record_rule"]["kind"], model["sketch"]["sha256"]) == ("share_of_chunks", sketch.sha256)
    assert model["record_rule"]["auroc"]["mean_log_odds"] == {"windows": 0.5, "records": 0.5}
    (layout.classifier("v") / SKETCH_FILE).unlink()
    (tmp_path / "ruled/out").rename(tmp_path / "before")
    with pytest.raises(VirnucError, match="train the classifier again"):
        written(tmp_path / "ruled", DESCRIPTION.model_copy(update={"sketch": sketch}))


def test_run_json_says_what_was_run(tmp_path: Path) -> None:
    run = json.loads((written(tmp_path) / "run.json").read_text())
    assert list(run) == ["virnuc_version", "command", "started", "finished", "seconds", "versions", "model",
                         "settings", "inputs", "totals"]  # fmt: skip
    assert run["command"] == "virnuc predict a.fa b.fa" and run["settings"] == SETTINGS
    assert run["model"] == {
        "variant": "v",
        "reads": DESCRIPTION.reads(),
        "encoders": ENCODERS,
        "classifier": "",
        "miniature": True,
        "trained_on": {"best_epoch": 3},
    }
    assert run["inputs"] == [
        {"source": name, "sha256": sha256(tmp_path / name), "records": 2} for name in ("a.fa", "b.fa")
    ]
    assert run["totals"]["records_skipped: no open frame"] == 1 and run["totals"]["frames_kept"] == 5
    assert digest_of(run["versions"]) and {"torch", "python"} < run["versions"].keys()


def test_multiqc_has_the_calls_of_each_input(tmp_path: Path) -> None:
    found = json.loads((written(tmp_path) / "virnuc_mqc.json").read_text())
    assert found["data"] == {
        "a.fa": {"virus": 1, "other": 1, "uncertain": 0, "not scored": 0},
        "b.fa": {"virus": 1, "other": 0, "uncertain": 0, "not scored": 1},
    }
    assert found["categories"] == ["virus", "other", "uncertain", "not scored"]


def test_a_name_that_an_id_of_several_inputs_gets_is_no_other_records() -> None:
    sources, ids = ["a.fa", "b.fa", "b.fa", "c.fa"], ["x", "x", "y", "a.fa:x"]
    ledger = pa.table({"source": sources, "record_id": ids, "chunks": [1, 1, 1, 1]})
    repeated = repeated_ids(ledger)
    names = written_ids(ledger["record_id"], ledger["source"], pc.is_in(ledger["record_id"], repeated))
    assert names.to_pylist() == ["a.fa:x", "b.fa:x", "y", "c.fa:a.fa:x"]


@pytest.mark.slow
@pytest.mark.network
def test_multiqc_itself_renders_it(tmp_path: Path) -> None:
    """Installed for the test, in an environment of its own: its requirements are many."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    place = tmp_path / "multiqc"
    folders = [written(tmp_path / "first"), written(tmp_path / "second")]
    text = (folders[1] / "virnuc_mqc.json").read_text()
    (folders[1] / "virnuc_mqc.json").write_text(text.replace("a.fa", "c.fa").replace("b.fa", "d.fa"))
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run([place / "bin/pip", "install", "-q", "multiqc"], check=True)
    command = [place / "bin/multiqc", "--outdir", tmp_path / "page", *folders]
    subprocess.run(command, capture_output=True, check=True)
    assert "virnuc_calls_plot" in (tmp_path / "page/multiqc_report.html").read_text(encoding="utf-8")
    (table,) = (tmp_path / "page/multiqc_data").glob("multiqc_virnuc_calls_plot*.txt")
    assert [line.split("\t")[:3] for line in table.read_text().splitlines()] == [
        ["Sample", "virus", "other"],
        *(["a.fa", "1", "1"], ["b.fa", "1", "0"], ["c.fa", "1", "1"], ["d.fa", "1", "0"]),
    ]
