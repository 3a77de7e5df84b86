"""Which runs the watched folder, the planned shards and the calendar ask for."""

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets import automation
from virnuc_assets.automation import RANGE_END, RANGE_START, contiguous_ranges
from virnuc_assets.definitions import build_defs
from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN, REFERENCE, SAMPLE_NAMES, SAMPLES, register
from virnuc_assets.settings import Settings
from virnuc_assets.storage.layout import CLASSIFIER_FILE, Layout

PREDICTIONS, REPORT = SAMPLES.key("predictions"), SAMPLES.key("report")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "data/incoming"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def defs(tmp_path: Path) -> dg.Definitions:
    return build_defs(Settings(root=tmp_path))


def look(
    defs: dg.Definitions, instance: dg.DagsterInstance, sensor: str, cursor: str | None = None
) -> tuple[list[dg.RunRequest], str | None]:
    """Run requests of one tick, and the cursor that it leaves."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs)
    result = defs.resolve_sensor_def(sensor)(context)
    if isinstance(result, dg.SensorResult):
        return list(result.run_requests or []), result.cursor
    return [request for request in result if isinstance(request, dg.RunRequest)], context.cursor


def record(instance: dg.DagsterInstance, key: dg.AssetKey, *partitions: str) -> None:
    for partition in partitions:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))


@given(st.data())
def test_ranges_hold_each_wanted_key_once_in_order(data: st.DataObject) -> None:
    partitions = [f"shard-{number:06d}" for number in range(data.draw(st.integers(0, 3 * MAX_PARTITIONS_PER_RUN)))]
    wanted = data.draw(st.sets(st.sampled_from(partitions))) if partitions else set()
    ranges = list(contiguous_ranges(partitions, sorted(wanted)))
    assert [key for keys in ranges for key in keys] == [key for key in partitions if key in wanted]
    for keys in ranges:
        first = partitions.index(keys[0])
        assert 1 <= len(keys) <= MAX_PARTITIONS_PER_RUN
        assert partitions[first : first + len(keys)] == keys


@given(st.integers(0, 3 * MAX_PARTITIONS_PER_RUN))
def test_neighbours_are_only_parted_where_a_run_is_full(count: int) -> None:
    partitions = [f"shard-{number:06d}" for number in range(count)]
    sizes = [len(keys) for keys in contiguous_ranges(partitions, partitions)]
    assert sizes[:-1] == [MAX_PARTITIONS_PER_RUN] * (len(sizes) - 1)
    assert len(sizes) == -(-count // MAX_PARTITIONS_PER_RUN)


def test_ranges_follow_the_order_of_the_partitions_and_skip_what_is_not_wanted() -> None:
    partitions = ["b-000001", "b-000002", "a-000001", "a-000002", "c-000001"]
    wanted = ["a-000001", "b-000002", "c-000001", "gone-000001"]
    assert list(contiguous_ranges(partitions, wanted)) == [["b-000002", "a-000001"], ["c-000001"]]


def test_a_file_is_planned_when_it_stayed_as_it_is_for_two_looks(
    defs: dg.Definitions, instance: dg.DagsterInstance, incoming: Path
) -> None:
    (incoming / "one.fasta").write_text(">a\nACGT\n")
    first, cursor = look(defs, instance, "incoming_samples")
    assert first == []
    second, cursor = look(defs, instance, "incoming_samples", cursor)
    assert [(request.job_name or automation.PLAN_SAMPLES_JOB) for request in second] == ["plan_samples"]
    third, _ = look(defs, instance, "incoming_samples", cursor)
    # Dagster starts one run for each run key.
    assert [request.run_key for request in third] == [second[0].run_key]


def test_a_growing_file_is_left_alone_until_it_stops(
    defs: dg.Definitions, instance: dg.DagsterInstance, incoming: Path
) -> None:
    cursor = None
    for length in (4, 8, 12):
        (incoming / "growing.fasta").write_text(">a\n" + "A" * length)
        requests, cursor = look(defs, instance, "incoming_samples", cursor)
        assert requests == []
    requests, _ = look(defs, instance, "incoming_samples", cursor)
    assert len(requests) == 1


def test_a_file_rewritten_at_equal_length_is_seen(
    defs: dg.Definitions, instance: dg.DagsterInstance, incoming: Path
) -> None:
    path = incoming / "one.fasta"
    path.write_text(">a\nACGT\n")
    _, cursor = look(defs, instance, "incoming_samples")
    before, cursor = look(defs, instance, "incoming_samples", cursor)
    path.write_text(">a\nTTTT\n")
    os.utime(path, ns=(1, 1))
    _, cursor = look(defs, instance, "incoming_samples", cursor)
    after, _ = look(defs, instance, "incoming_samples", cursor)
    assert len(before) == len(after) == 1
    assert before[0].run_key != after[0].run_key


def test_nothing_is_planned_while_a_neighbour_is_still_written(
    defs: dg.Definitions, instance: dg.DagsterInstance, incoming: Path
) -> None:
    """The requested run plans the complete file alone."""
    (incoming / "done.fasta").write_text(">a\nACGT\n")
    (incoming / "growing.fasta").write_text(">a\nAC")
    _, cursor = look(defs, instance, "incoming_samples")
    (incoming / "growing.fasta").write_text(">a\nACGTAC")
    (request,), _ = look(defs, instance, "incoming_samples", cursor)
    assert request.run_config["ops"] == {automation.PLAN_SAMPLES_OP: {"config": {"files": ["done.fasta"]}}}


def test_hidden_files_and_an_empty_folder_ask_for_nothing(
    defs: dg.Definitions, instance: dg.DagsterInstance, incoming: Path
) -> None:
    (incoming / ".gitkeep").write_text("")
    _, cursor = look(defs, instance, "incoming_samples")
    assert look(defs, instance, "incoming_samples", cursor)[0] == []


def test_a_missing_folder_asks_for_nothing(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    assert look(defs, instance, "incoming_samples")[0] == []


def ranges_of(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    return [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in requests]


def test_samples_without_predictions_are_requested(
    defs: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A run a sample; while it goes on, the request stays the same, so that nothing is launched twice."""
    write_classifier(tmp_path)
    register(instance, SAMPLES.partitions, ["s-000001", "s-000002", "s-000003", "t-000001"])
    requests, _ = look(defs, instance, "planned_samples")
    assert ranges_of(requests) == [("s-000001", "s-000003"), ("t-000001", "t-000001")]
    record(instance, PREDICTIONS, "s-000001", "t-000001")
    (again,), _ = look(defs, instance, "planned_samples")
    assert again.run_key == requests[0].run_key
    record(instance, PREDICTIONS, "s-000002", "s-000003")
    assert look(defs, instance, "planned_samples")[0] == []


def test_a_new_classifier_is_a_new_request(defs: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """So that what failed for want of a fitting classifier is tried again."""
    register(instance, SAMPLES.partitions, ["s-000001"])
    write_classifier(tmp_path, "first")
    (first,), _ = look(defs, instance, "planned_samples")
    write_classifier(tmp_path, "second")
    (second,), _ = look(defs, instance, "planned_samples")
    assert first.run_key != second.run_key


def test_before_the_first_training_nothing_is_predicted(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    register(instance, SAMPLES.partitions, ["s-000001"])
    context = dg.build_sensor_context(instance=instance, definitions=defs)
    (skipped,) = defs.resolve_sensor_def("planned_samples")(context)
    assert "no serving classifier yet" in skipped.skip_message


def write_classifier(root: Path, digest: str = "d") -> None:
    """A serving classifier's description, as far as the sensor reads it."""
    path = Layout(root / "var", "miniature").classifier("fastesm2") / CLASSIFIER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"weights_sha256": "{digest}"}}')


def test_a_sample_is_reported_when_all_of_its_shards_are_predicted(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    register(instance, SAMPLES.partitions, ["a-000001", "a-000002", "a-b-000001"])
    register(instance, SAMPLE_NAMES, ["a", "a-b"])
    record(instance, PREDICTIONS, "a-000001", "a-b-000001")
    requests, _ = look(defs, instance, "predicted_samples")
    assert [request.partition_key for request in requests] == ["a-b"]
    record(instance, PREDICTIONS, "a-000002")
    record(instance, REPORT, "a-b")
    requests, _ = look(defs, instance, "predicted_samples")
    assert [request.partition_key for request in requests] == ["a"]
    record(instance, REPORT, "a")
    assert look(defs, instance, "predicted_samples")[0] == []


def test_every_week_all_reference_shards_are_gone_over(defs: dg.Definitions, tmp_path: Path) -> None:
    instance = dg.DagsterInstance.local_temp(str(tmp_path))  # a schedule's context opens the instance by its folder
    keys = [f"r-{number:06d}" for number in range(1, MAX_PARTITIONS_PER_RUN + 3)]
    register(instance, REFERENCE.partitions, keys)
    schedule = defs.resolve_schedule_def("weekly_reembedding")
    weeks = []
    for day in (1, 8):
        context = dg.build_schedule_context(instance, dt.datetime(2026, 11, day, 3, tzinfo=dt.UTC))
        requests = list(schedule.evaluate_tick(context).run_requests or [])
        assert ranges_of(requests) == [(keys[0], keys[MAX_PARTITIONS_PER_RUN - 1]), (keys[-2], keys[-1])]
        weeks.append({request.run_key for request in requests})
    assert schedule.cron_schedule == "0 3 * * 0"
    assert schedule.job_name == automation.REFERENCE_JOB
    assert len(weeks[0] | weeks[1]) == 4


def selected(defs: dg.Definitions, job: str) -> set[str]:
    return {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}


def test_each_job_does_its_phase(defs: dg.Definitions) -> None:
    everything = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    reference = {key for key in everything if key.startswith("reference/")}
    samples = {f"samples/{name}_embeddings" for name in ("dnabert_s", "fastesm2")}
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
    assert selected(defs, automation.OTHER_BRANCH_JOB) == {"samples/esm2_3b_embeddings", "samples/esm2_3b_features"}


def test_samples_are_embedded_for_the_branch_that_serves(tmp_path: Path) -> None:
    settings = Settings.model_validate({"root": tmp_path, "serving": {"branch": "esm2_3b"}})
    found = selected(build_defs(settings), automation.SAMPLE_JOB)
    assert {"samples/esm2_3b_embeddings", "samples/esm2_3b_features"} <= found
    assert "samples/fastesm2_embeddings" not in found


def test_what_starts_runs_by_itself_is_off_until_a_person_turns_it_on(defs: dg.Definitions) -> None:
    repository = defs.get_repository_def()
    assert {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs} == {
        **dict.fromkeys(("incoming_samples", "planned_samples", "predicted_samples"), "STOPPED"),
        "decision_after_failure": "RUNNING",  # it only keeps an older verdict from standing
    }
    assert [schedule.default_status.value for schedule in repository.schedule_defs] == ["STOPPED"]
