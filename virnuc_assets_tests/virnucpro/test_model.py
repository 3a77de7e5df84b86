"""A model of VirNucPro becomes a classifier that gives its scores; another architecture or width is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from virnuc_assets.classifier.checkpoint import load_classifier, save_classifier, score
from virnuc_assets.errors import VirnucError
from virnuc_assets.virnucpro.model import describe_model, imported_fingerprint, model_in
from virnuc_assets.virnucpro.torch_files import ImportRefused, read_torch_file


@pytest.mark.parametrize("name", ["small", "older_torch"])
def test_an_imported_model_scores_as_the_original(upstream_models: Path, tmp_path: Path, name: str) -> None:
    file = read_torch_file(upstream_models / f"{name}.pth")
    original = torch.load(upstream_models / f"{name}.scores", weights_only=True)
    encoders = {
        "dna": imported_fingerprint("dnabert_s", "dna", 2),
        "protein": imported_fingerprint("esm2_3b", "protein", 4),
    }
    model = model_in(file)
    described = save_classifier(tmp_path, model, describe_model(file, model, encoders, {"dna": 2, "protein": 4}, 500))
    loaded, read = load_classifier(tmp_path)
    assert read == described
    np.testing.assert_allclose(score(loaded, original["rows"].numpy()), original["scores"].numpy(), atol=1e-6, rtol=0)
    assert np.ptp(original["scores"].numpy()[:, 1]) > 0.01  # not all alike: BatchNorm's running values are at work
    assert not torch.equal(loaded.bn1.running_mean, torch.zeros(4))
    assert int(loaded.bn1.num_batches_tracked) == 1
    written = json.loads((tmp_path / "classifier.json").read_text())
    assert written["origin"] == {"made_by": "VirNucPro", "file": f"{name}.pth", "sha256": file.sha256}
    unknown = ("seed", "training", "split_digest", "data_digest", "best_epoch")
    assert [written[field] for field in unknown] == [None] * len(unknown)
    assert [written[name] for name in ("dna_dim", "protein_dim", "merged_dim", "chunk_length")] == [2, 4, 6, 500]


REFUSED = {
    "three_classes": r"not the tensors of VirNucPro's classifier: [^/]*size mismatch for output_layer.weight",
    "another_layer": r"another architecture: expected layers .*, found .*'bn2': 'BatchNorm1d'",
    "renamed": r"another architecture: expected layers .*, found .*'hidden': 'Linear'",
    "half": r"whose dtypes differ: .*'bn1.bias': torch.float16",
    "nested": r"another architecture: expected tensors in its layers, found \['hidden_layer.inner'\]",
    "other_eps": r"bn1 has eps 0.5, VirNucPro's has 1e-05",
    "not_finite": r"values that are not finite in output_layer.bias",
    "repeated": r"17592186044\d+ bytes of tensors claimed by a file of \d+ bytes",
    "state_dict": r"expected a whole module of class __main__.MLPClassifier, found a OrderedDict",
    "activation": r"names 'torch.nn.modules.activation.ReLU', which no file of VirNucPro does",
    "another_class": r"names '__main__.Net', which no file of VirNucPro does",
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_architecture_is_refused_by_what_was_found(upstream_models: Path, name: str) -> None:
    path = upstream_models / f"{name}.pth"
    with pytest.raises(ImportRefused, match=REFUSED[name]) as refused:
        model_in(read_torch_file(path))
    assert str(path) in str(refused.value)


def test_a_fingerprint_is_of_an_encoder_that_reads_its_side() -> None:
    with pytest.raises(VirnucError, match="dnabert_s reads dna; expected one that reads protein"):
        imported_fingerprint("dnabert_s", "protein", 768)
