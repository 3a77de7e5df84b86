"""Which runs planned and predicted samples ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from virnuc_assets import automation
from virnuc_assets.definitions import build_defs
from virnuc_assets.partitions import SAMPLE_NAMES, SAMPLES, register
from virnuc_assets.requests import MAX_ATTEMPTS, range_tags
from virnuc_assets.settings import Settings
from virnuc_assets_tests.watching_fakes import look, ranges_of, record, write_classifier

PREDICTIONS, REPORT = SAMPLES.key("predictions"), SAMPLES.key("report")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def defs(tmp_path: Path) -> dg.Definitions:
    return build_defs(Settings(root=tmp_path))


def test_planned_samples_share_a_run(defs: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    write_classifier(tmp_path)
    register(instance, SAMPLES.partitions, ["s-000001", "s-000002", "s-000003", "t-000001"])
    requests, _ = look(defs, instance, "planned_samples")
    assert ranges_of(requests) == [("s-000001", "t-000001")]
    record(instance, PREDICTIONS, "s-000001", "s-000002", "s-000003")
    requests, _ = look(defs, instance, "planned_samples")
    assert ranges_of(requests) == [("t-000001", "t-000001")]
    record(instance, PREDICTIONS, "t-000001")
    assert look(defs, instance, "planned_samples")[0] == []


def test_after_a_training_what_was_given_up_is_asked_for(
    defs: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """It may have failed for want of a fitting classifier."""
    register(instance, SAMPLES.partitions, ["s-000001"])
    write_classifier(tmp_path)
    tags = {**range_tags(["s-000001"]), "dagster/failure_reason": "STEP_FAILURE"}
    for _ in range(MAX_ATTEMPTS):
        instance.add_run(dg.DagsterRun(job_name=automation.SAMPLE_JOB, status=DagsterRunStatus.FAILURE, tags=tags))
    assert look(defs, instance, "planned_samples")[0] == []
    write_classifier(tmp_path)
    assert ranges_of(look(defs, instance, "planned_samples")[0]) == [("s-000001", "s-000001")]


def test_before_the_first_training_nothing_is_predicted(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    register(instance, SAMPLES.partitions, ["s-000001"])
    context = dg.build_sensor_context(instance=instance, definitions=defs)
    (skipped,) = defs.resolve_sensor_def("planned_samples")(context)
    assert "no serving classifier yet" in skipped.skip_message


def test_a_sample_is_reported_when_all_of_its_shards_are_predicted(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    register(instance, SAMPLES.partitions, ["a-000001", "a-000002", "a-b-000001", "c-000001"])
    register(instance, SAMPLE_NAMES, ["a", "a-b", "c"])
    record(instance, PREDICTIONS, "a-000001", "a-b-000001", "c-000001")
    requests, _ = look(defs, instance, "predicted_samples")
    assert ranges_of(requests) == [("a-b", "c")]
    record(instance, PREDICTIONS, "a-000002")
    record(instance, REPORT, "a-b", "c")
    requests, _ = look(defs, instance, "predicted_samples")
    assert ranges_of(requests) == [("a", "a")]
    record(instance, REPORT, "a")
    assert look(defs, instance, "predicted_samples")[0] == []
