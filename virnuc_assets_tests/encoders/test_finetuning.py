"""Fine-tuning on a miniature: losses, early stopping, kills, and the checkpoint folder that comes out."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("peft")

from peft import PeftModel
from transformers import EsmModel, EsmTokenizer

from virnuc_assets.encoders.finetuning import Examples, FinetuneJob, finetune, load_trainable
from virnuc_assets.encoders.miniature import write_miniature
from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import FinetuningSettings

Log = Callable[[int, Mapping[str, float]], None]

ROWS = {"train": 48, "validation": 24}
EPOCH = 3  # batches of 16
MAX_LENGTH = 20
SETTINGS = FinetuningSettings(learning_rate=5e-3, max_epochs=4, patience=4)
BASE = ENCODERS["fastesm2_650_miniature"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature(BASE, tmp_path_factory.mktemp("checkpoints"))


def rows(count: int, seed: int) -> Examples:
    """Viral proteins of hydrophobic residues, others of charged and polar ones."""
    generator = np.random.default_rng(seed)
    labels = [i % 2 for i in range(count)]
    drawn = [generator.choice(list("AVLIMF" if viral else "DEKRNQ"), generator.integers(5, 30)) for viral in labels]
    return Examples(["".join(each) for each in drawn], labels)


def job(base: Path, settings: FinetuningSettings = SETTINGS, **changes: Any) -> FinetuneJob:
    given = {name: rows(count, seed) for seed, (name, count) in enumerate(ROWS.items())}
    return FinetuneJob(
        **{"base": base, **given, "settings": settings, "max_length": MAX_LENGTH, "provenance": {}, **changes}
    )


def settings(**changes: Any) -> FinetuningSettings:
    return FinetuningSettings(**{**SETTINGS.model_dump(), **changes})


class Recorder:
    """The log of a run; `at` may end it at a step."""

    def __init__(self, end: Callable[[], None] | None = None, at: int = -1) -> None:
        self.entries: list[tuple[int, dict[str, float]]] = []
        self._end, self._at = end, at

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        self.entries.append((step, dict(metrics)))
        if self._end and step == self._at:
            self._end()

    def of(self, metric: str) -> list[float]:
        return [metrics[metric] for _, metrics in self.entries if metric in metrics]


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Recorder]:
    """One unbroken run: its folder, facts and log."""
    folder, log = tmp_path_factory.mktemp("trained"), Recorder()
    return folder / "out", finetune(job(base, provenance={"split": "abc"}), folder / "work", folder / "out", log), log


def pooled(model: Any, folder: Path, proteins: list[str]) -> torch.Tensor:
    """Mean over residues, one protein at a time, by transformers' own tokenizer."""
    tokenizer = EsmTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = [model(**tokenizer(protein, return_tensors="pt")).last_hidden_state[0, 1:-1] for protein in proteins]
    return torch.stack([each.mean(0) for each in states])


def test_the_loss_falls_and_all_is_reported(trained: tuple[Path, dict[str, Any], Recorder]) -> None:
    out, facts, log = trained
    losses = log.of("validation_loss")
    assert len(losses) == 1 + SETTINGS.max_epochs
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert facts["best"] == {
        "step": SETTINGS.max_epochs * EPOCH,
        "epoch": SETTINGS.max_epochs,
        "validation_loss": losses[-1],
        "validation_accuracy": 1.0,
        "validation_auroc": 1.0,
    }
    assert len(log.of("training_loss")) == facts["steps"] == SETTINGS.max_epochs * EPOCH
    assert facts["rows"] == ROWS
    assert facts["provenance"] == {"split": "abc"}
    assert FinetuningSettings.model_validate_json(json.dumps(facts["settings"])) == SETTINGS
    assert json.loads((out / "finetuning.json").read_text()) == facts
    assert not (out.parent / "work").exists()


def test_the_folder_is_a_checkpoint_like_its_base(base: Path, trained: tuple[Path, dict[str, Any], Recorder]) -> None:
    out = trained[0]
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert {name: tensor.shape for name, tensor in after.items()} == {name: t.shape for name, t in before.items()}
    linear = (".query.weight", ".key.weight", ".value.weight", ".dense.weight")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if ".layer." in name and name.endswith(linear)}
    _, found = EsmModel.from_pretrained(out, add_pooling_layer=False, output_loading_info=True)
    assert found["missing_keys"] == []
    assert all(name.startswith("lm_head.") for name in found["unexpected_keys"])
    config, original = (json.loads((folder / "config.json").read_text()) for folder in (out, base))
    added = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "auto_map"}
    assert {name: config[name] for name in original.keys() - added} == {n: original[n] for n in original.keys() - added}
    assert (config["model_type"], config["architectures"]) == ("esm", ["EsmForMaskedLM"])
    bases = "ACDEFGHIKLMNPQRSTVWYXBZUO"
    assert EsmTokenizer.from_pretrained(out)(bases) == EsmTokenizer.from_pretrained(base)(bases)


def test_merged_equals_adapters_applied(base: Path, trained: tuple[Path, dict[str, Any], Recorder]) -> None:
    out, proteins = trained[0], list(rows(8, seed=2).proteins)
    applied = PeftModel.from_pretrained(load_trainable(base, "classification")[0], str(out / "adapters")).eval()
    expected = pooled(applied.get_base_model().esm, base, proteins)
    merged = pooled(EsmModel.from_pretrained(out, add_pooling_layer=False), out, proteins)
    assert (merged - expected).abs().max() <= 1e-5
    unchanged = pooled(EsmModel.from_pretrained(base, add_pooling_layer=False), base, proteins)
    assert (merged - unchanged).abs().max() > 0.1


def test_the_best_loss_is_that_of_the_head_on_the_mean_over_residues(
    trained: tuple[Path, dict[str, Any], Recorder],
) -> None:
    out, facts, _ = trained
    validation = job(out).validation
    saved = load_file(out / "adapters" / "adapter_model.safetensors")
    weight, bias = (saved[f"base_model.model.classifier.{name}"] for name in ("weight", "bias"))
    model = EsmModel.from_pretrained(out, add_pooling_layer=False)
    vectors = pooled(model, out, [protein[:MAX_LENGTH] for protein in validation.proteins])
    loss = torch.nn.functional.cross_entropy(vectors @ weight.T + bias, torch.tensor(validation.labels))
    assert facts["best"]["validation_loss"] == pytest.approx(float(loss), abs=1e-5)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def killed(base: Path, folder: Path) -> None:
    """What runs in a process of its own, and is killed between its second and its third checkpoint."""
    finetune(job(base, provenance={"split": "abc"}), folder / "work", folder / "out", Recorder(kill, at=2 * EPOCH + 2))


def test_a_killed_run_continues_to_the_same_result(
    base: Path, tmp_path: Path, trained: tuple[Path, dict[str, Any], Recorder]
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(base, tmp_path))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    (run,) = (tmp_path / "work").iterdir()
    assert {path.name for path in run.iterdir()} == {f"checkpoint-{EPOCH}", f"checkpoint-{2 * EPOCH}"}
    cut_off = run / f"checkpoint-{3 * EPOCH}"  # as a kill while it is written leaves it
    cut_off.mkdir()
    (cut_off / "trainer_state.json").write_text('{"global_step": 9, "log_hist')
    log = Recorder()
    facts = finetune(job(base, provenance={"split": "abc"}), tmp_path / "work", tmp_path / "out", log)
    assert facts["resumed_from_step"] == 2 * EPOCH
    assert min(step for step, _ in log.entries) == 2 * EPOCH + 1
    out, unbroken, _ = trained
    assert facts["best"] == unbroken["best"]
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], tensor), name


def test_early_stopping_at_the_same_step_however_often_it_is_ended(base: Path, tmp_path: Path) -> None:
    """Labels of chance: validation cannot improve for long. Writing fails, as if the run was killed there."""
    chance = Examples(rows(48, 3).proteins, list(np.random.default_rng(0).integers(0, 2, 48)))
    given = job(base, settings(max_epochs=30, patience=2, learning_rate=2e-2, eval_steps=2), train=chance)
    (tmp_path / "file").touch()
    first, second = Recorder(), Recorder()
    with pytest.raises(OSError, match="file"):
        finetune(given, tmp_path / "work", tmp_path / "file" / "out", first)
    facts = finetune(given, tmp_path / "work", tmp_path / "out", second)
    losses, steps = first.of("validation_loss"), facts["steps"]
    assert second.entries == []  # nothing is trained past the end
    assert facts["resumed_from_step"] == steps == 2 * (len(losses) - 1) < 30 * EPOCH
    assert facts["best"]["validation_loss"] == min(losses[1:]) == losses[-3]
    with pytest.raises(KeyboardInterrupt):  # within an epoch, after one evaluation that was no better
        finetune(given, tmp_path / "work", tmp_path / "again", Recorder(interrupt, at=steps - 1))
    again = finetune(given, tmp_path / "work", tmp_path / "again", Recorder())
    assert (again["resumed_from_step"], again["steps"]) == (steps - 2, steps)
    assert again["best"] == facts["best"]


def test_masked_modelling_learns_reads_no_label_and_has_fixed_validation_masks(base: Path, tmp_path: Path) -> None:
    changed = settings(objective="masked", gradient_checkpointing=True, precision="bf16", max_rows=24)
    log, same = Recorder(), Examples(rows(48, 0).proteins, [1] * 48)
    facts = finetune(job(base, changed, train=same, token_dropout=False), tmp_path / "work", tmp_path / "out", log)
    losses = log.of("validation_loss")
    assert losses[-1] < 0.8 * losses[0]
    assert facts["rows"] == {"train": 24, "validation": 24}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["token_dropout"] is False
    again = Recorder()
    other = settings(objective="masked", max_epochs=1, learning_rate=1e-12)
    finetune(job(base, other, token_dropout=False), tmp_path / "work", tmp_path / "out", again)
    assert again.of("validation_loss")[1] == pytest.approx(again.of("validation_loss")[0], rel=1e-6)
    assert json.loads((tmp_path / "out" / "finetuning.json").read_text())["settings"]["max_epochs"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": Examples([], [])}, r"train rows: expected both classes .* found \[\]"),
        ({"train": Examples(["MK", "MV"], [1, 1])}, r"train rows: expected both classes .* found \[1\]"),
        ({"settings": settings(precision="fp16"), "device": "cpu"}, "fp16 expects a GPU"),
        ({"settings": settings(learning_rate=1e30, max_epochs=1)}, "expected an evaluation with a finite loss"),
    ],
)
def test_refused(base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VirnucError, match=message):
        finetune(job(base, **changes), tmp_path / "work", tmp_path / "out", Recorder())
    assert not (tmp_path / "out").exists()


def test_masked_modelling_needs_the_head_and_classification_does_not(base: Path, tmp_path: Path) -> None:
    weights = load_file(base / "model.safetensors")
    headless = {
        name: tensor for name, tensor in weights.items() if not name.startswith(("lm_head.", "esm.contact_head."))
    }
    for path in base.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(headless, tmp_path / "model.safetensors", metadata={"format": "pt"})
    absent = load_trainable(tmp_path, "classification")[1]
    assert {name.split(".")[0] for name in absent} == {"classifier", "lm_head", "esm"}
    with pytest.raises(VirnucError, match="fine-tuning by masked expects parameters lm_head.bias"):
        load_trainable(tmp_path, "masked")
