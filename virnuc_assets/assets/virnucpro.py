"""VirNucPro's own classifier on VirNucPro's own features: a baseline in use, scored without embedding anything.

In the graph only if virnuc.toml has a section `[virnucpro]`. A decision shows it beside the variants;
nothing is judged by it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.evaluation import evaluation_check, flat_metrics, group_counts
from virnuc_assets.assets.reference import SPLIT, current_frames, current_split, record_lengths
from virnuc_assets.defs.automation import retraining_condition
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.sharded_asset import OWNERS, made_table
from virnuc_assets.defs.whole_asset import inputs_of, whole_result
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import VirnucproSettings
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import content_digest, is_made_by, read_table, require_content
from virnuc_assets.tracking import MlflowTracking

if TYPE_CHECKING:
    from virnuc_assets.migration.evidence import VariantEvidence

GROUP = "virnucpro"
NAME = "virnucpro"
EVALUATION = f"{NAME}_evaluation"
_MERGED = dg.AssetKey(["virnucpro", "merged_features"])
_CLASSIFIER = dg.AssetKey(["virnucpro", "classifier"])
TRAINED_ON_UNKNOWN = (
    "The rows that an imported model was trained on are not known; test rows may be among them, its numbers too good."
)


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The two files of VirNucPro that the section names, and the evaluation; nothing without the section."""
    settings = workspace.settings.virnucpro
    if settings is None:
        return []
    paths = {"folder": workspace.settings.root / settings.merged, "model": workspace.settings.root / settings.model}
    return [
        dg.AssetSpec(
            _MERGED,
            description="VirNucPro's `*_merged.pt`: six-frame ids and joined vectors, made elsewhere.",
            group_name=GROUP,
            kinds={"file"},
            metadata={"folder": dg.MetadataValue.path(paths["folder"]), "dna_dim": settings.dna_dim},
        ),
        dg.AssetSpec(
            _CLASSIFIER,
            description=f"VirNucPro's classifier, trained elsewhere.\n\n{TRAINED_ON_UNKNOWN}",
            group_name=GROUP,
            kinds={"pytorch"},
            metadata={"file": dg.MetadataValue.path(paths["model"]), "chunk_length": settings.chunk_length},
        ),
        _evaluation_asset(workspace, settings),
    ]


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """The check of every evaluation, where there is one."""
    return [evaluation_check(workspace, imported_variant(workspace))] if workspace.settings.virnucpro else []


def imported_variant(workspace: Workspace) -> Variant:
    """The imported classifier as a variant: its name, and the encoders that VirNucPro used.

    Raises:
        VirnucError: virnuc.toml has no section [virnucpro].
    """
    return Variant(NAME, dna="dnabert_s", protein=_section(workspace).protein_encoder)


def imported_evidence(instance: dg.DagsterInstance, workspace: Workspace) -> "VariantEvidence":
    """The imported classifier on the test rows, for a decision to show; what is absent or stale is named."""
    from virnuc_assets.classifier.checkpoint import load_classifier
    from virnuc_assets.migration.evidence import VariantEvidence

    variant, path = imported_variant(workspace), workspace.layout.whole(EVALUATION)
    absent = VariantEvidence(variant.name, variant.dna, variant.protein)
    try:
        predictions = read_table(path, evaluation_schema())
        require_content(path)
        _, description = load_classifier(workspace.layout.classifier(NAME))
        current = is_made_by(path, imported_recipe(instance, workspace))
    except VirnucError as error:  # absent or stale evidence is what the decision has to tell
        return VariantEvidence(**{**vars(absent), "problems": (f"{variant.name}: {error}",)})
    problems = () if current else (f"{EVALUATION} is stale: not of today's files, split and frames; materialize it",)
    facts = {"predictions": predictions, "description": description.model_dump(mode="json"), "problems": problems}
    return VariantEvidence(**{**vars(absent), **facts})


def imported_recipe(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, Any]:
    """What the evaluation follows from today: both of VirNucPro's files, split and frames.

    Raises:
        VirnucError: a file, the split or a shard's frames are missing or stale.
    """
    settings = _section(workspace)
    if settings.chunk_length != (today := workspace.settings.sequences.chunk_length):
        raise VirnucError(
            f"virnucpro.chunk_length is {settings.chunk_length}, sequences.chunk_length {today}: VirNucPro's model and "
            "features are of other chunks than the test rows; name those of the same length"
        )
    frames = current_frames(instance, workspace)
    return {
        "table": "evaluation",
        "columns": evaluation_schema().names,
        "origin": "VirNucPro",
        "classifier": _sha256(workspace.settings.root / settings.model),
        "merged": {path.name: _sha256(path) for path in _merged_files(workspace)},
        "encoders": {"dna_dim": settings.dna_dim, "protein": settings.protein_encoder},
        "split": content_digest(current_split(instance, workspace)),
        "frames": digest_of({shard: content_digest(path) for shard, path in frames.items()}),
    }


def _evaluation_asset(workspace: Workspace, settings: VirnucproSettings) -> dg.AssetsDefinition:
    @dg.asset(
        name=EVALUATION,
        deps=[_MERGED, _CLASSIFIER, REFERENCE.key("translated_proteins"), SPLIT],
        group_name="classifiers",
        kinds={"parquet", "mlflow"},
        owners=OWNERS,
        automation_condition=retraining_condition(workspace.settings.automation.retrain_cron),
        code_version=digest_of(["2", _states(workspace), workspace.settings.evaluation.model_dump(mode="json")]),
    )
    def virnucpro_evaluation(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """Scores of all test frames by VirNucPro's own classifier from VirNucPro's own features.

        Nothing is embedded. A test frame that the merged files lack is refused; rows of other frames are counted. What
        the model was trained on is not known: test rows may be among it, and its numbers too good.
        """
        from virnuc_assets.classifier.metrics import performance
        from virnuc_assets.classifier.virnucpro_baseline import Baseline

        inputs, frames = inputs_of(context), list(current_frames(context.instance, workspace).values())
        recipe = imported_recipe(context.instance, workspace)
        baseline = Baseline.load(
            workspace.settings.root / settings.model,
            _merged_files(workspace),
            dna_dim=settings.dna_dim,
            protein_encoder=settings.protein_encoder,
            chunk_length=settings.chunk_length,
        )
        split = read_table(current_split(context.instance, workspace))

        def batches() -> Iterator[pa.Table]:
            yield baseline.evaluation(frames, split, recipe["merged"], record_lengths(workspace))

        outcome = made_table(workspace.layout.whole(EVALUATION), recipe, batches)
        description = baseline.save(workspace.layout.classifier(NAME))
        table = read_table(workspace.layout.whole(EVALUATION), evaluation_schema())
        measured = performance(table, description.temperature, workspace.settings.evaluation)
        metrics = flat_metrics(measured)
        params = {"model_sha256": recipe["classifier"], "chunk_length": settings.chunk_length}
        facts = {
            **group_counts(measured),
            "reads": description.pair(),
            "trained_on": TRAINED_ON_UNKNOWN,
            "mlflow_run": _logged(tracking, outcome.data_version, params, metrics),
        }
        metadata = {**outcome.metadata, **metrics, **baseline.counts, **facts}
        return whole_result(inputs, outcome.data_version, metadata)

    return virnucpro_evaluation


def _logged(
    tracking: MlflowTracking, table: str, params: Mapping[str, Any], metrics: Mapping[str, float]
) -> dg.UrlMetadataValue:
    """A link to the MLflow run of an evaluation that nothing here was trained for."""
    with tracking.run(f"{NAME} evaluation", {"table.evaluation": table}, params) as run_id:
        tracking.log_epoch(0, {f"test_{name}": value for name, value in metrics.items()})
    return tracking.link(run_id)


def _states(workspace: Workspace) -> list[list[Any]]:
    """Names, sizes and times of change of VirNucPro's files: equal as long as nobody wrote to them."""
    settings = _section(workspace)
    root = workspace.settings.root
    files = [*sorted((root / settings.merged).glob("*.pt")), root / settings.model]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.is_file()]


def _section(workspace: Workspace) -> VirnucproSettings:
    if workspace.settings.virnucpro is None:
        raise VirnucError("virnuc.toml has no section [virnucpro]; it names VirNucPro's merged files and model")
    return workspace.settings.virnucpro


def _merged_files(workspace: Workspace) -> list[Path]:
    folder = workspace.settings.root / _section(workspace).merged
    if not (files := sorted(folder.glob("*.pt"))):
        raise VirnucError(f"{folder}: no *.pt found; virnucpro.merged names the folder of VirNucPro's merged files")
    return files


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise VirnucError(f"{path}: no such file; it is named in section [virnucpro] of virnuc.toml")
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
