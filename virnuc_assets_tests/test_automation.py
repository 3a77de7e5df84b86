"""The jobs, each over its phase, and what starts by itself."""

from pathlib import Path

import dagster as dg
import pytest

from virnuc_assets import automation
from virnuc_assets.definitions import build_defs
from virnuc_assets.settings import Settings


@pytest.fixture(scope="module")
def defs(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_defs(Settings(root=tmp_path_factory.mktemp("project")))


def selected(defs: dg.Definitions, job: str) -> set[str]:
    return {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}


def test_each_job_does_its_phase(defs: dg.Definitions) -> None:
    everything = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    reference = {key for key in everything if key.startswith("reference/")}
    samples = {f"samples/{name}_embeddings" for name in ("dnabert_s", "fastesm2_650")}
    samples |= {
        f"samples/{name}" for name in ("chunked_fasta", "translated_proteins", "fastesm2_features", "predictions")
    }
    assert {job: selected(defs, job) for job in ("plan_reference", "plan_samples", "report_samples")} == {
        "plan_reference": {"reference/shard_plan"},
        "plan_samples": {"samples/shard_plan"},
        "report_samples": {"samples/report"},
    }
    assert selected(defs, automation.REFERENCE_JOB) == reference - {"reference/shard_plan"}
    assert selected(defs, automation.DECISION_JOB) == {key for key in everything if "/" not in key}
    assert selected(defs, automation.SAMPLE_JOB) == samples
    assert selected(defs, automation.OTHER_VARIANT_JOB) == {"samples/esm2_3b_embeddings", "samples/esm2_3b_features"}


def test_samples_are_embedded_for_the_variant_that_serves(tmp_path: Path) -> None:
    settings = Settings.model_validate({"root": tmp_path, "serving": {"variant": "esm2_3b"}})
    found = selected(build_defs(settings), automation.SAMPLE_JOB)
    assert {"samples/esm2_3b_embeddings", "samples/esm2_3b_features"} <= found
    assert "samples/fastesm2_650_embeddings" not in found


def test_one_encoder_can_be_done_anew(defs: dg.Definitions) -> None:
    assert selected(defs, "embed_reference_by_dnabert_s") == {
        "reference/dnabert_s_embeddings",
        "reference/fastesm2_features",
        "reference/esm2_3b_features",
    }
    assert selected(defs, "embed_reference_by_esm2_3b") == {
        "reference/esm2_3b_embeddings",
        "reference/esm2_3b_features",
    }


def test_all_that_starts_by_itself_is_on_but_the_training(defs: dg.Definitions) -> None:
    """A new classifier calls all later samples: that is a person's choice."""
    repository = defs.get_repository_def()
    assert {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs} == {
        **dict.fromkeys(("incoming_samples", "planned_samples", "predicted_samples", "stale_reference"), "RUNNING"),
        "changed_reference": "STOPPED",
        "decision_after_failure": "RUNNING",
        "lost_runs": "RUNNING",
    }
    assert [schedule.default_status.value for schedule in repository.schedule_defs] == ["RUNNING"]
