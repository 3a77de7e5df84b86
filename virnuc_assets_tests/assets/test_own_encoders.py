"""Encoders and variants of one's own, named in virnuc.toml, go through the graph to columns of the decision report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer, set_seed
from typer.testing import CliRunner

from virnuc_assets.cli.main import app
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.encoders.miniature import ESM_FIELDS, ESM_VOCABULARY
from virnuc_assets.settings import Settings
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.tables import read_provenance, read_table
from virnuc_assets.workstation.lock import LOCAL, read_lock
from virnuc_assets_tests.assets.project import Finished, Project, failures, quiet

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

FOLDER, NAMES = "models/my_esm2", ("my_esm2", "fastesm2_plain")
HIDDEN = 40
OWN: dict[str, dict[str, Any]] = {
    "encoders": {
        "my_esm2": {"folder": FOLDER, "architecture": "esm"},
        "fastesm2_plain": {"like": "fastesm2_650", "token_dropout": False},
    },
    "variants": {name: {"dna": "dnabert_s", "protein": name} for name in NAMES},
    "decision": {"also_compared": list(NAMES)},
}


def write_esm2(folder: Path) -> None:
    """An ESM2 of the shape of t6 (6 layers, 20 heads), narrower, as transformers saves it."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(ESM_VOCABULARY))
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    shape = {"hidden_size": HIDDEN, "intermediate_size": 4 * HIDDEN, "num_hidden_layers": 6, "num_attention_heads": 20}
    set_seed(0)
    EsmForMaskedLM(EsmConfig(vocab_size=len(ESM_VOCABULARY), **shape, **ESM_FIELDS)).save_pretrained(folder)


@pytest.fixture(scope="module")
def own(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with encoders of its own, set up by the command."""
    project = finished.copy(tmp_path_factory.mktemp("own") / "project")
    write_esm2(project.root / FOLDER)
    project.configure(**OWN)
    with quiet():
        done = CliRunner().invoke(app, ["setup", "--project", str(project.root)])
    assert done.exit_code == 0, done.output
    return project


@pytest.fixture(scope="module")
def embedded(own: Project) -> Project:
    """With the vectors and features of one by the job of its encoder, of the other for the first shard."""
    mine, plain = (f"{jobs.ENCODER_JOB}{name}" for name in NAMES)
    runs = [*own.run_shards(mine, REFERENCE), own.job(plain, partition_key=own.keys(REFERENCE)[0])]
    assert failures(*runs) == []
    return own


def test_samples_of_a_variant_that_does_not_serve_get_both_of_its_encoders(tmp_path: Path) -> None:
    sections = {
        "encoders": {"short_dna": {"like": "dnabert_s", "max_length": 100}},
        "variants": {"short": {"dna": "short_dna", "protein": "fastesm2_650"}},
        "decision": {"baseline": "short"},
        "serving": {"variant": "fastesm2"},
    }
    defs = build_defs(Settings.model_validate({"root": tmp_path, **sections}))
    job = defs.resolve_job_def(jobs.OTHER_VARIANT_JOB)
    found = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert found == {"samples/short_dna_embeddings", "samples/short_features"}


def test_set_up_locks_the_folder_and_nothing_else(own: Project) -> None:
    (entry,) = read_lock(own.root).entries.items()
    assert (entry[0], entry[1].source, entry[1].revision) == ("my_esm2", LOCAL, "")
    assert entry[1].files.keys() >= {"config.json", "model.safetensors", "vocab.txt"}
    assert own.workspace.encoder("my_esm2").digest == entry[1].digest


def first_table(project: Project, asset: str) -> Path:
    return project.workspace.layout.table("reference", asset, project.keys(REFERENCE)[0])


def test_they_give_vectors_of_their_own(embedded: Project) -> None:
    found = {}
    for name in (*NAMES, "fastesm2_650"):
        path = first_table(embedded, f"{name}_embeddings")
        found[name] = vectors_of(read_table(path)), read_provenance(path)["encoder"]
    (mine, of_mine), (plain, of_plain), (like, of_like) = found.values()
    assert (mine.shape, plain.shape) == ((len(like), HIDDEN), like.shape)
    assert of_mine["checkpoint_digest"] == read_lock(embedded.root).entries["my_esm2"].digest
    differing = {name for name in of_like if of_plain[name] != of_like[name]}
    assert differing == {"encoder", "token_dropout"}
    cosine = (plain * like).sum(1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(like, axis=1)
    assert 0.9 < cosine.min() < cosine.max() < 0.9999


def decision_of(project: Project) -> tuple[dict[str, Any], str]:
    """The stored decision and its page."""
    layout = project.workspace.layout
    stored: dict[str, Any] = json.loads(layout.whole("migration_decision", ".json").read_text())
    assert sorted(stored["variants"]) == ["baseline", "candidate", "fastesm2_plain", "kmer_baseline", "my_esm2"]
    return stored, layout.whole("migration_decision", ".html").read_text()


def test_a_folder_is_trained_evaluated_and_a_column_of_the_report(embedded: Project, finished: Finished) -> None:
    """It costs its own tables alone. Of the other variant, which is not trained, the decision says what is missing."""
    assets = ("my_esm2_classifier", "my_esm2_evaluation", "migration_decision")
    assert failures(*(embedded.materialize(asset) for asset in assets)) == []
    decision, html = decision_of(embedded)
    mine, plain = (decision["variants"][name] for name in NAMES)
    assert (mine["protein_encoder"], mine["problems"], mine["description"]["protein_dim"]) == ("my_esm2", [], HIDDEN)
    assert plain["problems"] != [] and plain["performance"] is None
    assert set(decision["comparisons"]) == {"baseline", "kmer_baseline", "my_esm2"}
    assert all(f"{words}<" in html for words in ("my_esm2", "encoders.protein.token_dropout"))
    judged = [criterion["explanation"] for criterion in decision["criteria"] if criterion["outcome"] != "missing"]
    assert judged and not any("my_esm2" in explanation for explanation in judged)
    before, after = ({n: p.stat().st_mtime_ns for n, p in project.tables().items()} for project in (finished, embedded))
    stages = {f"{name}_{stage}" for name in NAMES for stage in ("embeddings", "features", "evaluation")}
    assert {Path(name).parent.name for name in after.keys() - before.keys()} == stages - {"fastesm2_plain_evaluation"}
    assert {name: after[name] for name in before} == before
