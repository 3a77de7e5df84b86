"""Fine-tuning of an ESM encoder: low-rank adapters (LoRA), trained by transformers' Trainer, merged into a checkpoint.

Source: Hu et al. 2021. Needs peft and accelerate (extra `finetune`); no network.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from transformers import EsmForMaskedLM, Trainer, TrainerState
from transformers.modeling_outputs import SequenceClassifierOutput

from virnuc_assets.encoders.checkpoints import FINETUNING_FILE, TOKENIZER_OPTIONS, VOCABULARY_FILES, note_digest
from virnuc_assets.encoders.loading import load_tokenizer, mean_pool, residues_to_ids
from virnuc_assets.encoders.machine import prepare_cpu, resolve_device
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import FinetuningSettings
from virnuc_assets.storage.atomic import atomic_folder
from virnuc_assets.storage.digests import digest_of

ADAPTERS_FOLDER = "adapters"
_STATE_FILE = "trainer_state.json"  # Trainer writes it last
_LOG_SHARE = 0.01  # of all steps, between two entries of the training loss
_LOGGED = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy", "eval_auroc")
_LIBRARIES = ("torch", "transformers", "peft", "accelerate")

Row = dict[str, Any]
Log = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Examples:
    """Proteins of frames, and for each whether its record is viral (1) or not (0)."""

    proteins: Sequence[str]
    labels: Sequence[int]


@dataclass(frozen=True)
class FinetuneJob:
    """One fine-tuning of the ESM encoder in folder `base`; validation decides when to stop and what is kept."""

    base: Path
    train: Examples
    validation: Examples
    settings: FinetuningSettings
    max_length: int | None  # residues read of a protein; None = all
    provenance: Mapping[str, Any]  # JSON, written next to the weights
    token_dropout: bool | None = None  # instead of the base's; written into the new config
    device: str = "auto"  # "auto", "cpu" or "cuda": the current GPU of this process, never several


class FrameClassifier(EsmForMaskedLM):  # type: ignore[misc]
    """An ESM encoder with a linear head on the mean over residues; its masked-language head stays as it is."""

    def __init__(self, config: transformers.EsmConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, special_tokens_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Loss and logits (b, 2) of token ids (b, l); `special_tokens_mask` is 1 at BOS, EOS and padding."""
        hidden = self.esm(input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.classifier(mean_pool(hidden, special_tokens_mask == 0)).float()
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def finetune(job: FinetuneJob, work: Path, out: Path, log: Log) -> dict[str, Any]:
    """Train adapters on an encoder and write the merged encoder as an ordinary checkpoint folder.

    A run that was killed continues from its last complete checkpoint in `work`, if nothing of the job has changed, to
    the same result; masked modelling that is resumed within an epoch (`eval_steps`) draws other masks. All else in
    `work` is deleted, and itself at the end. `out` gets config, weights, tokenizer, `adapters/` (peft, with the frame
    head) and `finetuning.json`, whose content is returned; it is replaced as a whole, or untouched.
    """
    settings, device = job.settings, resolve_device(job.device)
    prepare_cpu()
    train, validation = _rows(job, "train", job.train), _rows(job, "validation", job.validation)
    if settings.precision == "fp16" and device.type == "cpu":
        raise VirnucError("fine-tuning in fp16 expects a GPU, found the device cpu; set precision to 'fp32'")
    run = work / _digest(job)
    for stale in set(work.glob("*")) - {run}:
        shutil.rmtree(stale)
    last = _last_checkpoint(run)
    transformers.logging.set_verbosity_error()  # what a checkpoint lacks is an error here, or a head
    transformers.set_seed(settings.seed)
    model, absent = load_trainable(job.base, settings.objective, job.token_dropout)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=rf"esm\.encoder\.layer\.\d+\..*\.({'|'.join(settings.target_modules)})",
        modules_to_save=["classifier"] if settings.objective == "classification" else None,
    )
    adapted = get_peft_model(model, lora)
    trainer = _trainer(adapted, job, (train, validation), _arguments(settings, run, device, last is None), log)
    best = _train(trainer, last)
    facts = {
        "best": best,
        "steps": trainer.state.global_step,
        "resumed_from_step": _step(last) if last else 0,
        "rows": {"train": len(train.proteins), "validation": len(validation.proteins)},
        "history": _history(trainer.state),
        "settings": settings.model_dump(mode="json", exclude={"encoders"}),
        "max_length": job.max_length,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {library: importlib.metadata.version(library) for library in _LIBRARIES},
        "provenance": dict(job.provenance),
    }
    _write(adapted, job.base, absent, facts, out)
    shutil.rmtree(work)
    return facts


def load_trainable(base: Path, objective: str, token_dropout: bool | None = None) -> tuple[Any, set[str]]:
    """The model that an objective trains, in fp32, and the heads' parameters that the checkpoint lacks and may lack."""
    classify = objective == "classification"
    config = transformers.EsmConfig.from_pretrained(base, local_files_only=True)
    config.token_dropout = config.token_dropout if token_dropout is None else token_dropout
    model, info = (FrameClassifier if classify else EsmForMaskedLM).from_pretrained(
        base, config=config, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    absent = set(info["missing_keys"])
    replaceable = ("esm.contact_head.", "classifier.", "lm_head.") if classify else "esm.contact_head."
    if needed := sorted(name for name in absent if not name.startswith(replaceable)):
        raise VirnucError(
            f"{base}: fine-tuning by {objective} expects parameters {', '.join(needed)}, found none; use a complete "
            "ESM checkpoint, or objective = 'classification', which needs no lm_head"
        )
    return model, absent


def _rows(job: FinetuneJob, name: str, given: Examples) -> Examples:
    count, most, what = len(given.proteins), job.settings.max_rows, f"fine-tuning of {job.base.name}: {name} rows"
    if most is not None and most < count:
        drawn = np.sort(np.random.default_rng(job.settings.seed).choice(count, most, replace=False))
        given = Examples([given.proteins[i] for i in drawn], [given.labels[i] for i in drawn])
    if not count or (job.settings.objective == "classification" and set(given.labels) != {0, 1}):
        raise VirnucError(f"{what}: expected both classes (0 other, 1 virus), found {sorted(set(given.labels))}")
    return given


def _digest(job: FinetuneJob) -> str:
    """Digest of all that decides the result; of the base its files' names, sizes and times."""
    base = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in job.base.glob("*.*"))
    rows = [(list(each.proteins), [int(label) for label in each.labels]) for each in (job.train, job.validation)]
    read = {"base": base, "rows": rows, "max_length": job.max_length, "token_dropout": job.token_dropout}
    return digest_of({**read, **job.settings.model_dump(mode="json", exclude={"encoders"})})


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint; what a kill cut off is deleted."""
    for checkpoint in sorted(run.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            json.loads((checkpoint / _STATE_FILE).read_text(encoding="utf-8"))
            return checkpoint
        except (FileNotFoundError, ValueError):
            shutil.rmtree(checkpoint)
    return None


class _Arguments(transformers.TrainingArguments):  # type: ignore[misc]
    """Arguments for one device: Trainer by itself takes the first GPU, or spreads over all of them."""

    @functools.cached_property
    def _setup_devices(self) -> torch.device:
        own = torch.cuda.current_device() if torch.cuda.is_available() and not self.use_cpu else None
        device: torch.device = super()._setup_devices
        if own is not None:
            torch.cuda.set_device(own)
            device, self._n_gpu = torch.device("cuda", own), 1
        return device


def _arguments(settings: FinetuningSettings, run: Path, device: torch.device, first: bool) -> _Arguments:
    every = "epoch" if settings.eval_steps is None else "steps"
    return _Arguments(
        output_dir=str(run),
        num_train_epochs=settings.max_epochs,
        per_device_train_batch_size=settings.batch_rows,
        per_device_eval_batch_size=settings.batch_rows,
        learning_rate=settings.learning_rate,
        warmup_ratio=settings.warmup_fraction,
        seed=settings.seed,
        eval_strategy=every,
        save_strategy=every,
        eval_steps=settings.eval_steps,
        save_steps=settings.eval_steps or 1,  # not read where every = "epoch"
        eval_on_start=first,
        logging_steps=_LOG_SHARE,
        load_best_model_at_end=True,  # by the loss of validation
        save_total_limit=2,  # the best one and the last one
        restore_callback_states_from_checkpoint=True,
        prediction_loss_only=settings.objective == "masked",
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},  # reentrant, frozen embeddings give no gradient
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
    )


class _Logging(transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self, log: Log) -> None:
        self._log = log

    def on_log(self, args: object, state: TrainerState, control: object, **given: Any) -> None:  # noqa: ANN401
        """Pass on the metrics of a step, without Trainer's own statistics."""
        if metrics := _metrics(given["logs"]):
            self._log(state.global_step, metrics)


def _trainer(
    model: PeftModel, job: FinetuneJob, examples: tuple[Examples, Examples], arguments: _Arguments, log: Log
) -> Trainer:
    tokenizer = load_tokenizer(job.base)
    train, validation = (_tokenized(job, tokenizer, each) for each in examples)
    classify = job.settings.objective == "classification"
    collate = transformers.DataCollatorWithPadding(tokenizer) if classify else _masking(tokenizer)
    if not classify:  # the same masks at every evaluation, so that losses compare
        masked = (collate([row]) for row in validation)
        validation = [{name: tensor[0] for name, tensor in row.items()} for row in masked]
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=_scores if classify else None,
        callbacks=[transformers.EarlyStoppingCallback(job.settings.patience), _Logging(log)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _tokenized(job: FinetuneJob, tokenizer: Any, examples: Examples) -> list[Row]:  # noqa: ANN401
    """Rows for a collator: token ids as the encoder has them, and which of them are BOS and EOS."""
    ids = residues_to_ids(tokenizer)([protein[: job.max_length] for protein in examples.proteins])
    rows = [{"input_ids": each, "special_tokens_mask": [1, *[0] * (len(each) - 2), 1]} for each in ids]
    if job.settings.objective == "masked":
        return rows
    return [{**row, "labels": label} for row, label in zip(rows, examples.labels, strict=True)]


def _masking(tokenizer: Any) -> Callable[[list[Row]], Any]:  # noqa: ANN401
    """Collator that masks 15 % of the residues, at least one, and pads rows that are masked already."""
    mask = transformers.DataCollatorForLanguageModeling(tokenizer)
    pad = transformers.DataCollatorForTokenClassification(tokenizer)

    def collate(rows: list[Row]) -> Any:  # noqa: ANN401
        batch = pad(rows) if "labels" in rows[0] else mask(rows)
        return batch if (batch["labels"] >= 0).any() else collate(rows)  # the loss of no residue is NaN

    return collate


def _scores(prediction: transformers.EvalPrediction) -> dict[str, float]:
    logits, labels = prediction.predictions, prediction.label_ids  # (n, 2), (n,)
    margin = np.nan_to_num(logits[:, 1] - logits[:, 0])  # NaN where it diverged, as the loss shows
    return {"accuracy": float(np.mean((margin > 0) == labels)), "auroc": float(roc_auc_score(labels, margin))}


def _train(trainer: Trainer, last: Path | None) -> dict[str, float]:
    """Train to the end, load the best adapters, and return the metrics of their evaluation."""
    state = TrainerState.load_from_json(str(last / _STATE_FILE)) if last else None
    if state and state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
        trainer.state = state  # killed after its last step; Trainer would train another epoch
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    state = trainer.state
    if state.best_global_step is None:
        raise VirnucError(
            f"fine-tuning: expected an evaluation with a finite loss, found none in {state.global_step} steps; "
            "lower learning_rate, or eval_steps if it is larger than that"
        )
    best = Path(trainer.args.output_dir) / f"checkpoint-{state.best_global_step}"
    trainer.model.load_adapter(str(best), trainer.model.active_adapter)
    return next(row for row in _history(state) if row["step"] == state.best_global_step and "validation_loss" in row)


def _metrics(logs: Mapping[str, float]) -> dict[str, float]:
    names = {name: name.replace("eval_", "validation_") for name in _LOGGED} | {"loss": "training_loss"}
    return {new: float(logs[name]) for name, new in names.items() if name in logs}


def _history(state: TrainerState) -> list[dict[str, float]]:
    rows = [(entry, _metrics(entry)) for entry in state.log_history]
    return [{"step": entry["step"], "epoch": entry["epoch"], **metrics} for entry, metrics in rows if metrics]


def _write(model: PeftModel, base: Path, absent: set[str], facts: Mapping[str, Any], out: Path) -> None:
    with atomic_folder(out) as folder:
        model.peft_config[model.active_adapter].base_model_name_or_path = base.name  # not a path of this machine
        model.save_pretrained(str(folder / ADAPTERS_FOLDER), save_embedding_layers=False)
        merged = model.merge_and_unload(safe_merge=True)
        weights = {name: tensor for name, tensor in merged.state_dict().items() if name not in absent}
        merged.save_pretrained(folder, state_dict=weights)
        config = merged.config
        config.architectures = ["EsmForMaskedLM" if "lm_head.bias" in weights else "EsmModel"]
        vars(config).pop("auto_map", None)  # names code of the hub, which is not in this folder
        config.save_pretrained(folder)
        for name in (*VOCABULARY_FILES, *TOKENIZER_OPTIONS):
            if (base / name).is_file():
                shutil.copyfile(base / name, folder / name)
        (folder / FINETUNING_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        note_digest(folder)
