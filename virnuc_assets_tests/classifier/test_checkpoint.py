"""A classifier comes back as it was, or not at all; for other encoders, dims or chunks it is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from virnuc_assets.classifier.checkpoint import (
    ClassifierDescription,
    ClassifierMismatch,
    Mlp,
    load_classifier,
    save_classifier,
)
from virnuc_assets.classifier.novelty import Sketch, SketchDescription
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.settings import TrainingSettings

DNA = {"encoder": "dnabert_s_miniature", "checkpoint_digest": "aa", "precision": "fp32"}
PROTEIN = {"encoder": "fastesm2_650_miniature", "checkpoint_digest": "bb", "precision": "fp32"}

ORIGIN = {"made_by": "VirNucPro", "file": "500_model.pth", "sha256": "ee"}
UNKNOWN = dict.fromkeys(("seed", "training", "split_digest", "data_digest", "best_epoch", "temperature"))


def description(**changes: object) -> ClassifierDescription:
    values: dict[str, object] = {
        "variant": "fastesm2",
        "encoders": {"dna": DNA, "protein": PROTEIN},
        "dna_dim": 4,
        "protein_dim": 6,
        "merged_dim": 10,
        "chunk_length": 500,
        "seed": 0,
        "training": TrainingSettings(hidden=8),
        "split_digest": "cc",
        "data_digest": "dd",
        "best_epoch": 3,
        "temperature": 1.5,
    }
    return ClassifierDescription.model_validate(values | changes)


def model(seed: int = 0) -> Mlp:
    torch.manual_seed(seed)
    fresh = Mlp(10, 8, 0.5)
    fresh(torch.randn(5, 10))  # moves BatchNorm's running mean and variance from their defaults
    return fresh


@pytest.mark.parametrize("changes", [{}, {**UNKNOWN, "origin": ORIGIN}], ids=["our own", "trained elsewhere"])
def test_comes_back_as_it_was(changes: dict[str, object], tmp_path: Path) -> None:
    saved, folder = model().eval(), tmp_path / "fastesm2"
    described = save_classifier(folder, saved, description(**changes))
    loaded, read = load_classifier(folder)
    features = torch.randn(7, 10)
    assert torch.equal(loaded(features), saved(features))
    assert (read, loaded.training, loaded.hidden) == (described, False, 8)
    assert sorted(path.name for path in folder.iterdir()) == ["classifier.json", "classifier.safetensors"]
    written = json.loads((folder / "classifier.json").read_text())
    assert written["score_columns"] == ["other", "virus"]
    weights = (folder / "classifier.safetensors").read_bytes()
    assert written["weights_sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_save_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save_classifier(tmp_path, model(), description())

    def full_disk(path: Path, data: bytes) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    rule = SketchDescription(ksize_aa=10, largest=9, kmers=1, containment_threshold=0.1, min_shared_hashes=5)
    with pytest.raises(OSError, match="no space"):
        save_classifier(tmp_path, model(1), description(), sketch=Sketch(np.array([7]), rule))
    assert load_classifier(tmp_path)[1] == saved
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_of_another_training_are_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path / "a", model(), description())
    save_classifier(tmp_path / "b", model(1), description())
    (tmp_path / "b" / "classifier.safetensors").replace(tmp_path / "a" / "classifier.safetensors")
    with pytest.raises(ClassifierMismatch, match=r"expected weights of sha256 .* found .* train the classifier again"):
        load_classifier(tmp_path / "a")


def test_absent_or_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClassifierMismatch, match=r"classifier.json not found; train one: `virnuc demo`"):
        load_classifier(tmp_path)
    save_classifier(tmp_path, model(), description())
    (tmp_path / "classifier.json").write_text('{"variant": "fastesm2"')
    with pytest.raises(ClassifierMismatch, match=r"not a classifier's description"):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").unlink()
    with pytest.raises(ClassifierMismatch, match=r": classifier.json not found; train the classifier again"):
        load_classifier(tmp_path)


def test_every_mismatch_is_listed() -> None:
    folder = Path("classifiers/fastesm2")
    description().require_match(folder, {"dna": DNA, "protein": PROTEIN}, {"dna": 4, "protein": 6}, 500, STOP_FREE)
    other = {"encoder": "esm2_3b_miniature", "precision": "fp32", "revision": "ee"}
    with pytest.raises(ClassifierMismatch) as refused:
        description().require_match(
            folder, {"dna": DNA, "protein": other}, {"dna": 4, "protein": 20}, 300, FrameRule("longest_orf", 30)
        )
    assert str(refused.value).splitlines()[1:-1] == [
        "  chunk_length: expected 500, found 300",
        "  frame rule: expected 'stop_free', found 'longest_orf of at least 30 aa'",
        "  protein encoder: checkpoint_digest: expected 'bb', found 'nothing'",
        "  protein encoder: encoder: expected 'fastesm2_650_miniature', found 'esm2_3b_miniature'",
        "  protein encoder: revision: expected 'nothing', found 'ee'",
        "  protein_dim: expected 6, found 20",
    ]
    assert str(refused.value).splitlines()[0] == (
        "classifiers/fastesm2: the fastesm2 classifier reads dnabert_s_miniature and fastesm2_650_miniature (4 + 6 = "
        "10 columns) and cannot score features of dnabert_s_miniature and esm2_3b_miniature (4 + 20 = 24 columns):"
    )
    assert str(refused.value).splitlines()[-1] == (
        "Make the features with its encoders, chunk length and frame rule, or train the classifier again on features "
        "like these."
    )
    rule = FrameRule("longest_orf", 30)
    trained = description(frame_rule=rule.name, min_orf_aa=rule.min_orf_aa)
    trained.require_match(folder, {"dna": DNA, "protein": PROTEIN}, {"dna": 4, "protein": 6}, 500, rule)
