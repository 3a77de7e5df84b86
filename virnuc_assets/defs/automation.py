"""Automation conditions and the sensors that evaluate them; the Automation page of the UI shows why each fired or not.

Requests cannot storm: a reason holds until it is requested and no longer, a step that fails is requested again at the
next full hour at the earliest, and many partitions at once are one backfill of runs of `partitions_per_run` each.
Conditions read Dagster's events and no table: one that was removed by hand is found by the check `tables_are_current`.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster import AutomationCondition as Condition

from virnuc_assets.defs.partitions import REFERENCE, SAMPLES

RETRY_CRON = "0 * * * *"  # of what failed after the retries of dagster.yaml; in UTC
CHECK_CRON = "0 2 * * *"
# A tick of 10,000 partitions takes 0.5 s. At 30 s, waiting was a sixth of the time of 5,000 genomes of 3 kb.
_SAMPLES_SECONDS, _REFERENCE_SECONDS = 5, 10
AnyCondition = Condition[Any]


def _inputs_changed() -> AnyCondition:
    """A dependency was materialized since the asset was, and since it was last requested.

    Since materialized: within one run dependencies come first, so what a run made by itself is no reason. Since
    requested: a step that fails is not requested again for the same reason. Two conditions, as a SINCE compares times,
    and so keeps a change that came during a run, only where both of its operands are simple.
    """
    updated = Condition.any_deps_match(Condition.newly_updated())
    return updated.since(Condition.newly_updated()) & updated.since(Condition.newly_requested())


def _code_changed() -> AnyCondition:
    """Code version changed since the last request, which may be that of the tick before: it was for the former code.

    Not since updated: a run of the former code that ends after the change must not settle it.
    """
    changed = Condition.code_version_changed()
    return changed.since(Condition.newly_requested() & ~changed)


def stage_condition(ignored: dg.AssetKey | None = None) -> AnyCondition:
    """For every asset with a partition per shard or sample.

    What is cheap comes first: the costly operands, which read all partitions, then see none in an idle evaluation.
    `ignored` is a dependency that is to be there, and whose update or run is no reason to start or to wait.
    """
    handled = Condition.newly_requested() | Condition.newly_updated()
    condition = (
        (
            _inputs_changed()  # of a new partition, too: its plan is recorded as an input
            | Condition.any_deps_match(Condition.will_be_requested())  # a whole chain goes into one run
            # What an existing project lacks; once, so that a step that fails then is not requested again.
            | (Condition.initial_evaluation() & Condition.missing()).since(handled)
            | _code_changed()
            # At the full hour only: a step that always fails costs one run an hour. Missing: a run was canceled.
            | (Condition.cron_tick_passed(RETRY_CRON) & (Condition.execution_failed() | Condition.missing()))
        )
        & ~Condition.in_progress()  # nothing is made twice at the same time; the reason waits
        & ~Condition.any_deps_in_progress()  # nor from tables that are about to be replaced
    )
    if ignored is not None:
        condition = condition.ignore(dg.AssetSelection.assets(ignored))
    present = ~Condition.any_deps_missing()  # unless the same run makes them
    return (condition & present).with_label("inputs or code changed, missing, or failed")


def plan_condition(cron: str) -> AnyCondition:
    """For the plan of the reference: at its time, and when chunk length or shard size changed.

    Never because it is missing: the first plan, which starts the embedding of everything, is a person's.
    """
    return (
        # Since requested: a tick that passes while a plan is running is kept.
        (Condition.cron_tick_passed(cron) | Condition.code_version_changed()).since(Condition.newly_requested())
        & ~Condition.in_progress()
    ).with_label("time to read the sources again")


def retraining_condition(cron: str) -> AnyCondition:
    """For split, classifiers and evaluations: at its time, if inputs changed since they were made, or they failed."""
    changed = _inputs_changed() | _code_changed() | Condition.execution_failed()
    return (
        (
            # The inner part says that there is something new; the outer keeps the tick while a dependency is made.
            (Condition.cron_tick_passed(cron) & changed).since(Condition.newly_requested())
            | Condition.any_deps_match(Condition.will_be_requested())  # an evaluation goes with its classifier
        )
        & ~Condition.in_progress()
        & ~Condition.any_deps_in_progress()
        & ~Condition.any_deps_missing()  # the first training is a person's
    ).with_label("inputs changed, and it is time")


def decision_condition() -> AnyCondition:
    """For the decision: again when evidence was made or failed to be made, so that no older verdict remains.

    Never because it is missing: the first decision belongs to the first training.
    """
    failed = Condition.any_deps_match(Condition.execution_failed().newly_true())  # newly: a failure is news once
    return (
        (_inputs_changed() | failed.since(Condition.newly_requested()))
        & ~Condition.in_progress()
        & ~Condition.any_deps_in_progress()
    ).with_label("evidence changed or failed")


def check_condition() -> AnyCondition:
    """For a check of all tables, which reads each: once a night."""
    return (Condition.cron_tick_passed(CHECK_CRON) & ~Condition.in_progress()).with_label("nightly")


def build_sensors() -> list[dg.AutomationConditionSensorDefinition]:
    """One for each part that a person may want to stop by itself.

    Retraining is off until a person turns it on: a new classifier calls all later samples.
    """
    samples, reference = (
        dg.AssetSelection.key_prefixes(shards.domain, include_sources=True) for shards in (SAMPLES, REFERENCE)
    )
    trained = dg.AssetSelection.groups("classifiers") | dg.AssetSelection.assets("reference_ledger")
    decision, on = dg.AssetSelection.assets("migration_decision"), dg.DefaultSensorStatus.RUNNING
    return [
        dg.AutomationConditionSensorDefinition(name, target=of, minimum_interval_seconds=poll, default_status=status)
        for name, of, poll, status in (
            ("sample_stages", samples, _SAMPLES_SECONDS, on),
            ("reference_stages", reference, _REFERENCE_SECONDS, on),
            ("decision", decision, _REFERENCE_SECONDS, on),
            ("retraining", trained, _REFERENCE_SECONDS, dg.DefaultSensorStatus.STOPPED),
        )
    ]
