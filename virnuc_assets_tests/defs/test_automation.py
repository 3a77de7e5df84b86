"""What the automation conditions request, story by story: Dagster evaluates them over dummy assets that use them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.automation_tick_evaluation_context import build_run_requests
from dagster._core.events import DagsterEventType

from virnuc_assets.definitions import build_defs
from virnuc_assets.defs import automation
from virnuc_assets.defs.automation import decision_condition, plan_condition, retraining_condition, stage_condition
from virnuc_assets.settings import Settings
from virnuc_assets_tests.assets.project import quiet

PACKS, SAMPLES = (dg.DynamicPartitionsDefinition(name=name) for name in ("reference_shards", "samples"))
TUESDAY = dt.datetime(2026, 1, 6, 10, 0, 30, tzinfo=dt.UTC)
STAGES = ("chunks", "frames", *(EMBEDDING := ("vectors", "features")))
SAMPLE_STAGES = ("sample_features", "predictions", "report")
TRAINING = ("classifier", "evaluation")
CLASSIFIER = dg.AssetKey("classifier")


class Lab:
    """A small graph with an instance and a clock of its own; `meanwhile` holds what happens in a next step."""

    def __init__(self) -> None:
        self.instance, self.now = dg.DagsterInstance.ephemeral(), TUESDAY
        self.failing: set[str] = set()
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self._cursor: Any = None
        self._keys = lru_cache(self.instance.get_dynamic_partitions)  # Dagster asks hundreds of times a tick
        self.instance.get_dynamic_partitions = self._keys  # type: ignore[method-assign]
        self.use_encoder("1")

    def use_encoder(self, version: str) -> None:
        stage, training = stage_condition(), retraining_condition("0 1 * * *")
        self.assets = [
            self._asset("plan", plan_condition("0 3 * * 0"), []),
            dg.AssetSpec("shards", deps=["plan"], partitions_def=PACKS),
            self._asset("chunks", stage, ["shards"], PACKS),
            self._asset("frames", stage, ["chunks", "shards"], PACKS),
            self._asset("vectors", stage, ["frames"], PACKS, version),
            self._asset("features", stage, ["frames", "vectors"], PACKS),
            self._asset("classifier", training, ["features"]),
            self._asset("evaluation", training, ["classifier"]),
            self._asset("decision", decision_condition(), ["evaluation"]),
            dg.AssetSpec("sample_shards", partitions_def=SAMPLES),
            self._asset("sample_features", stage, ["sample_shards"], SAMPLES),
            self._asset("predictions", stage_condition(CLASSIFIER), ["sample_features", "classifier"], SAMPLES),
            self._asset("report", stage, ["predictions"], SAMPLES),
        ]
        self.defs = dg.Definitions(self.assets)

    def _asset(self, name: str, condition: Any, deps: list[str], shards: Any = None, version: str = "1") -> Any:
        @dg.asset(name=name, deps=deps, automation_condition=condition, partitions_def=shards, code_version=version)
        def dummy() -> None:
            self.meanwhile.pop(name, lambda: None)()
            assert name not in self.failing

        return dummy

    def tick(self, now: dt.datetime | None = None) -> set[str]:
        """What one tick requests, half a minute after the last or at a time; of partitioned assets with partition."""
        self.now = now or self.now + dt.timedelta(seconds=30)
        found = dg.evaluate_automation_conditions(self.defs, self.instance, None, self.now, self._cursor)
        self._cursor = found.cursor
        keys = [result.key for result in found.results]
        return {f"{key.path[0]} {of or ''}".strip() for key in keys for of in found.get_requested_partitions(key)}

    def ticks(self, number: int) -> list[set[str]]:
        """Requests of so many ticks, those without any left out."""
        return [found for found in (self.tick() for _ in range(number)) if found]

    def at(self, hour: int, days: int = 0) -> set[str]:
        """Requests of a tick just after a full hour, of this or a later day."""
        return self.tick((self.now + dt.timedelta(days=days)).replace(hour=hour, minute=0, second=10))

    def plan(self, partition: str) -> None:
        """As a run of a plan does for a partition whose records are new or changed."""
        shards, planned = (PACKS, "shards") if partition.startswith("pack") else (SAMPLES, "sample_shards")
        self.instance.add_dynamic_partitions(str(shards.name), [partition])
        self._keys.cache_clear()
        self.instance.report_runless_asset_event(dg.AssetMaterialization(planned, partition=partition))

    def run(self, *names: str, of: str | None = None) -> bool:
        """One run of some assets, for a partition of those that have any; whether it succeeded."""
        chosen: dict[str, Any] = {"selection": list(names), "partition_key": of}
        return dg.materialize(self.assets, instance=self.instance, raise_on_error=False, **chosen).success

    def requests_once(self, requested: set[str]) -> None:
        """A tick requests these, a run for each partition makes them, and then all is well."""
        assert self.tick() == requested
        parts = [part.partition(" ")[::2] for part in requested]
        for partition in {partition for _, partition in parts}:
            assert self.run(*(name for name, of in parts if of == partition), of=partition or None)
        assert self.ticks(2) == []

    def begin(self, *names: str, of: str | None = None) -> dg.DagsterRun:
        """A run that is STARTED, and does nothing yet."""
        keys = {dg.AssetKey(name) for name in names}
        job = self.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
        tags = {"dagster/partition": of} if of else {}
        run = self.instance.create_run_for_job(job, tags=tags, asset_selection=frozenset(keys))
        self.instance.report_dagster_event(dg.DagsterEvent(DagsterEventType.RUN_START.value, job.name), run.run_id)
        return run


def chain(*partitions: str, stages: tuple[str, ...] = STAGES) -> set[str]:
    return {f"{stage} {partition}" for stage in stages for partition in partitions}


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    with quiet(), lab.instance:
        yield lab


@pytest.fixture
def settled(lab: Lab) -> Lab:
    """Two packs with all that is made of them, of which the conditions know."""
    lab.plan("pack1")
    lab.plan("pack2")
    lab.requests_once(chain("pack1", "pack2"))
    return lab


def test_a_new_partition_is_its_whole_chain_in_one_tick_and_once_and_nothing_changed_is_nothing(lab: Lab) -> None:
    assert lab.tick() == set()
    lab.plan("pack1")
    assert lab.tick() == chain("pack1")
    assert lab.tick() == set()
    assert lab.run(*STAGES, of="pack1")
    assert lab.ticks(5) == []
    assert lab.at(11) == set()


def test_of_a_changed_source_the_packs_that_changed_are_requested(settled: Lab) -> None:
    """One that holds changed records, and one for the new ones."""
    settled.plan("pack1")
    settled.plan("pack3")
    settled.requests_once(chain("pack1", "pack3"))


def test_a_replaced_file_is_reported_again_and_a_broken_one_not(lab: Lab) -> None:
    assert lab.run("classifier")
    lab.plan("one")
    lab.plan("two")
    lab.requests_once(chain("one", "two", stages=SAMPLE_STAGES))
    lab.plan("one")
    lab.instance.delete_dynamic_partition("samples", "two")  # it was replaced by a broken file
    lab.requests_once(chain("one", stages=SAMPLE_STAGES))
    assert lab.at(11) == set()


def test_another_encoder_is_requested_for_all_partitions_once(settled: Lab) -> None:
    settled.use_encoder("2")
    settled.requests_once(chain("pack1", "pack2", stages=EMBEDDING))


def test_a_run_by_the_former_encoder_does_not_settle_its_change(settled: Lab) -> None:
    def change() -> None:
        settled.use_encoder("2")
        assert settled.tick() == chain("pack2", stages=EMBEDDING)

    settled.plan("pack1")
    assert settled.tick() == chain("pack1")
    settled.meanwhile["vectors"] = change
    assert settled.run(*STAGES, of="pack1")
    settled.requests_once(chain("pack1", stages=EMBEDDING))


def test_a_step_that_always_fails_is_requested_once_an_hour(lab: Lab) -> None:
    lab.plan("pack1")
    lab.failing = {"vectors"}
    assert lab.tick() == chain("pack1")
    assert not lab.run(*STAGES, of="pack1")
    assert lab.tick() == chain("pack1", stages=EMBEDDING)  # its frames are newer than the request
    assert not lab.run(*EMBEDDING, of="pack1")
    assert lab.ticks(5) == []
    for hour in (11, 12):
        assert lab.at(hour) == chain("pack1", stages=EMBEDDING)
        assert not lab.run(*EMBEDDING, of="pack1")
        assert lab.ticks(3) == []
    lab.failing.clear()
    lab.use_encoder("2")
    lab.requests_once(chain("pack1", stages=EMBEDDING))  # a repair is no retry
    assert lab.at(13) == set()


@pytest.mark.parametrize("end", ["report_run_failed", "report_run_canceled"])
def test_a_killed_run_blocks_nothing_when_it_is_known_to_be_dead(lab: Lab, end: str) -> None:
    lab.plan("pack1")
    assert lab.tick() == chain("pack1")
    run = lab.begin(*STAGES, of="pack1")
    assert [lab.tick(), lab.at(11)] == [set(), set()]
    getattr(lab.instance, end)(run)
    assert lab.ticks(5) == []  # a retry of the run is Dagster's
    assert lab.at(12) == chain("pack1")


def test_a_change_that_comes_too_late_for_a_run_is_requested_after_it_and_once(settled: Lab) -> None:
    """What changes while it is read, is read again by the step itself."""
    for stage, requested in (("chunks", set()), ("frames", chain("pack1"))):
        settled.plan("pack1")
        assert settled.tick() == chain("pack1")
        settled.meanwhile[stage] = lambda: settled.plan("pack1")
        assert settled.run(*STAGES, of="pack1")
        settled.requests_once(requested)


def test_the_first_tick_of_an_existing_project_requests_what_is_missing(lab: Lab) -> None:
    for pack in ("pack1", "pack2", "pack3"):
        lab.plan(pack)
    assert lab.run(*STAGES, of="pack1")
    assert lab.run("chunks", "frames", of="pack2")
    assert lab.tick() == chain("pack2", stages=EMBEDDING) | chain("pack3")
    assert lab.tick() == set()


def test_predictions_need_a_classifier_and_wait_for_none(lab: Lab) -> None:
    lab.plan("one")
    lab.requests_once(chain("one", stages=SAMPLE_STAGES[:1]))
    assert lab.run("classifier")
    assert lab.at(11) == chain("one", stages=SAMPLE_STAGES[1:])
    assert lab.run(*SAMPLE_STAGES[1:], of="one")
    assert lab.run("classifier")
    assert lab.ticks(2) == []  # what was called stays called
    lab.begin("classifier")
    lab.plan("two")
    lab.requests_once(chain("two", stages=SAMPLE_STAGES))


def test_the_reference_is_planned_at_its_time_and_not_because_the_plan_is_missing(lab: Lab) -> None:
    assert lab.at(3, days=4) == set()
    assert lab.at(3, days=1) == {"plan"}
    assert lab.ticks(2) == []


def test_a_training_waits_for_its_night_and_for_changed_inputs_and_a_decision_follows_at_once(settled: Lab) -> None:
    assert settled.run(*TRAINING, "decision")
    assert settled.ticks(2) == []
    assert settled.at(1, days=1) == set()
    settled.plan("pack3")
    assert settled.tick() == chain("pack3")
    run = settled.begin(*STAGES, of="pack3")
    assert settled.at(1, days=1) == set()  # an input is missing
    assert settled.run(*STAGES, of="pack3")
    settled.instance.report_run_canceled(run)
    assert settled.at(0, days=1) == set()
    assert settled.at(1) == {*TRAINING}
    settled.failing = {"evaluation"}
    assert not settled.run(*TRAINING)
    settled.requests_once({"decision"})
    assert settled.at(1, days=1) == {"evaluation"}
    settled.failing.clear()
    assert settled.run("evaluation")
    settled.requests_once({"decision"})
    assert settled.at(1, days=1) == set()


def test_every_asset_of_the_graph_has_the_condition_of_its_part(tmp_path: Path) -> None:
    settings = Settings.model_validate({"root": tmp_path, "serving": {"variant": "fastesm2"}})
    specs = build_defs(settings).resolve_all_asset_specs()
    found = {spec.key.to_user_string(): spec.automation_condition for spec in specs}
    stage, training = stage_condition(), retraining_condition(settings.automation.retrain_cron)
    on_demand = ("samples/esm2_3b_embeddings", "samples/esm2_3b_features", "encoder_benchmark")
    assert found == {
        **{key: stage if "/" in key else training for key in found},
        **dict.fromkeys(("samples/shard_plan", "reference/shards", "samples/shards", *on_demand)),
        "reference/shard_plan": plan_condition(settings.automation.reembed_cron),
        "samples/predictions": stage_condition(dg.AssetKey("fastesm2_classifier")),
        "migration_decision": decision_condition(),
    }


def test_many_missing_partitions_are_one_request() -> None:
    @dg.asset(partitions_def=PACKS, automation_condition=stage_condition())
    def chunks() -> None: ...

    @dg.asset(deps=[chunks], partitions_def=PACKS, automation_condition=stage_condition())
    def frames() -> None: ...

    defs = dg.Definitions([chunks, frames])
    assert {sensor.emit_backfills for sensor in automation.build_sensors()} == {True}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("reference_shards", [f"pack{number:04d}" for number in range(1000)])
        found = dg.evaluate_automation_conditions(defs, instance)
        subsets = [each.true_subset for each in found.results]
        (request,) = build_run_requests(subsets, defs.resolve_asset_graph(), {}, emit_backfills=True)
        assert request.requires_backfill_daemon()
        assert request.asset_graph_subset.num_partitions_and_non_partitioned_assets == 2000
        assert dg.evaluate_automation_conditions(defs, instance, cursor=found.cursor).total_requested == 0
