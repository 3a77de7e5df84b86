"""VirNucPro's own classifier on VirNucPro's own features: a baseline in use, scored without embedding anything.

In the graph only if virnuc.toml has a section `[virnucpro]`. A decision shows it next to the variants;
nothing is judged by it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.defs.assets.classifiers import evaluation_check, measured
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import FRAMES, contents, current_frames, current_split, record_lengths
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import inputs_of, made_table, retrained_asset, whole_result
from virnuc_assets.defs.tracking import MlflowTracking, Table
from virnuc_assets.encoders.checkpoints import sha256_of
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.frame_rule import STOP_FREE
from virnuc_assets.settings import VirnucproSettings
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import SPLIT
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import content_digest, read_table

GROUP = "virnucpro"
NAME = "virnucpro"
EVALUATION = f"{NAME}_evaluation"
_MERGED = dg.AssetKey(["virnucpro", "merged_features"])
_CLASSIFIER = dg.AssetKey(["virnucpro", "classifier"])
TRAINED_ON_UNKNOWN = (
    "The rows that an imported model was trained on are not known; test rows may be among them, its numbers too good."
)


def build(workspace: Workspace) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The two files of VirNucPro that the section names, and the evaluation; nothing without the section."""
    settings, root = workspace.settings.virnucpro, workspace.settings.root
    if settings is None:
        return []
    return [
        dg.AssetSpec(
            _MERGED,
            description="VirNucPro's `*_merged.pt`: six-frame ids and joined vectors, made elsewhere. "
            "If virnucpro_evaluation fails for lack of them, correct `merged` in section [virnucpro] of virnuc.toml.",
            group_name=GROUP,
            kinds={"file"},
            metadata={"folder": dg.MetadataValue.path(root / settings.merged), "dna_dim": settings.dna_dim},
        ),
        dg.AssetSpec(
            _CLASSIFIER,
            description=f"VirNucPro's classifier, trained elsewhere. {TRAINED_ON_UNKNOWN}\n\n"
            "If virnucpro_evaluation fails to read it, correct `model` in section [virnucpro] of virnuc.toml.",
            group_name=GROUP,
            kinds={"pytorch"},
            metadata={"file": dg.MetadataValue.path(root / settings.model), "chunk_length": settings.chunk_length},
        ),
        _evaluation_asset(workspace, settings),
        evaluation_check(workspace, EVALUATION),
    ]


def imported_variant(workspace: Workspace) -> Variant:
    """The imported classifier as a variant: its name, and the encoders that VirNucPro used."""
    return Variant(NAME, dna="dnabert_s", protein=_section(workspace).protein_encoder)


def imported_provenance(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, Any]:
    """What the evaluation follows from today: both of VirNucPro's files, split and frames."""
    settings = _section(workspace)
    if settings.chunk_length != (today := workspace.settings.sequences.chunk_length):
        raise VirnucError(
            f"virnucpro.chunk_length is {settings.chunk_length}, sequences.chunk_length {today}: VirNucPro's model and "
            "features are of other chunks than the test rows; name those of the same length"
        )
    if (rule := workspace.frame_rule()) != STOP_FREE:
        raise VirnucError(
            f"sequences.frame_rule is {rule.name}: VirNucPro's model and features are of {STOP_FREE} frames; set "
            "frame_rule back, or remove [virnucpro]"
        )
    return {
        "table": "evaluation",
        "columns": evaluation_schema().names,
        "origin": "VirNucPro",
        "classifier": _sha256(workspace.settings.root / settings.model),
        "merged": {path.name: _sha256(path) for path in _merged_files(workspace)},
        "encoders": {"dna_dim": settings.dna_dim, "protein": settings.protein_encoder},
        "split": content_digest(current_split(instance, workspace)),
        "frames": contents(current_frames(instance, workspace)),
    }


def _evaluation_asset(workspace: Workspace, settings: VirnucproSettings) -> dg.AssetsDefinition:
    @retrained_asset(
        workspace,
        name=EVALUATION,
        deps=[_MERGED, _CLASSIFIER, REFERENCE.key(FRAMES), SPLIT],
        kinds={"parquet", "mlflow"},
        code_version=digest_of(["2", _states(workspace), workspace.settings.evaluation.model_dump(mode="json")]),
    )
    def virnucpro_evaluation(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """Scores of all test frames by VirNucPro's own classifier from VirNucPro's own features.

        Nothing is embedded. A test frame that the merged files lack is refused; rows of other frames are counted. What
        the model was trained on is not known: test rows may be among it, and its numbers too good.

        If its check fails, the split changed since: materialize it again.
        """
        from virnuc_assets.classifier.checkpoint import save_classifier
        from virnuc_assets.virnucpro.baseline import imported_classifier, imported_evaluation

        inputs, provenance = inputs_of(context), imported_provenance(context.instance, workspace)
        merged, model = _merged_files(workspace), workspace.settings.root / settings.model
        classifier = imported_classifier(model, merged[0], settings)
        counts: dict[str, int] = {}

        def batches() -> Iterator[pa.Table]:
            frames = list(current_frames(context.instance, workspace).values())
            split = read_table(current_split(context.instance, workspace))
            table, found = imported_evaluation(classifier, merged, frames, split, record_lengths(workspace))
            counts.update(found)
            yield table

        outcome = made_table(workspace.layout.whole(EVALUATION), provenance, batches)
        measures = measured(workspace, EVALUATION, classifier.description)
        params = {"model_sha256": provenance["classifier"], "chunk_length": settings.chunk_length}
        tags = {"table.evaluation": outcome.data_version}
        with tracking.run(f"{NAME} evaluation", context.run.run_id, tags, params) as run_id:
            tracking.log_epoch(0, measures.test_metrics)
            tracking.log_files(run_id, measures.files)
            tracking.log_tables(run_id, [Table(SPLIT, provenance["split"], "test")])
        description = save_classifier(workspace.layout.classifier(NAME), classifier.model, classifier.description)
        facts = {"reads": description.pair(), "trained_on": TRAINED_ON_UNKNOWN, "mlflow_run": tracking.link(run_id)}
        metadata = {**measures.metadata(), **counts, **facts, **outcome.metadata}
        return whole_result(inputs, outcome.data_version, metadata)

    return virnucpro_evaluation


def _states(workspace: Workspace) -> list[list[Any]]:
    """Names, sizes and times of change of VirNucPro's files: equal as long as nobody wrote to them."""
    settings, root = _section(workspace), workspace.settings.root
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
    return sha256_of(path)
