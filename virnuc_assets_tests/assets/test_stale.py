"""Only what is missing or stale is run: nothing a second time, and after a change all that follows from it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest
from pytest import CaptureFixture
from rich.console import Console
from rich.progress import Progress

from virnuc_assets.cli.demo import Runs, run_everything
from virnuc_assets.cli.terminal import BAR
from virnuc_assets.defs import jobs
from virnuc_assets.defs.checks import plan_is_current, stale_assets, stale_partitions
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES
from virnuc_assets.defs.sensors import files_to_plan
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, SAMPLE, Finished, Project, failures, write_sample

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

LANGUAGE = ("dnabert_s", "fastesm2_650", "esm2_3b")
EMBEDDINGS = [f"{name}_embeddings" for name in LANGUAGE]
FEATURES = [f"{name}_features" for name in ("fastesm2", "esm2_3b", "kmer")]
STAGES = ["chunked_fasta", "translated_proteins", *EMBEDDINGS, *FEATURES]
DECIDED = ["ablations", "frame_rules", "migration_decision"]
TRAINED = [f"{name}_{stage}" for name in ("fastesm2", "esm2_3b", "kmer") for stage in ("classifier", "evaluation")]


class Stale(NamedTuple):
    plan: bool = False
    files: list[str] = []
    reference: dict[str, set[str]] = {}
    samples: dict[str, set[str]] = {}
    whole: set[str] = set()


def stale(project: Project) -> Stale:
    """What is missing or stale, by partition and asset."""
    instance, workspace, defs = project.instance, project.workspace, project.defs
    found = []
    for shards in (REFERENCE, SAMPLES):
        groups = stale_partitions(instance, workspace, shards)
        found.append({partition: set(assets) for assets, of in groups.items() for partition in of})
    executable = defs.resolve_job_def(jobs.DECISION_JOB).asset_layer.executable_asset_keys
    keys = [key for key in defs.resolve_asset_graph().toposorted_asset_keys if key in executable]
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    whole = {key.to_user_string() for key in stale_assets(instance, workspace, [specs[key] for key in keys])}
    return Stale(not plan_is_current(instance, workspace), list(files_to_plan(workspace)), *found, whole)


@pytest.fixture
def known(finished: Finished, tmp_path: Path) -> Project:
    """A copy of the finished project that knows what made its tables, and where its own files are."""
    project = finished.copy(tmp_path / "project", with_history=True)
    assert stale(project) == Stale(plan=True, files=[f"{SAMPLE}.fasta"])
    assert failures(project.job(PLAN_REFERENCE_JOB), project.job(jobs.PLAN_SAMPLES_JOB)) == []
    assert stale(project) == Stale()
    return project


def demo(project: Project, printed: TextIO | None = None) -> int:
    """Everything as `virnuc demo` runs it; how many runs it took."""
    with Progress(*BAR, console=Console(quiet=True)) as progress:
        run = Runs(project.defs, project.instance, progress)
        run_everything(project.workspace, run, Console(file=printed or io.StringIO()))
    return run.count


def test_a_second_time_no_run_is_started_and_no_event_written(known: Project) -> None:
    before = known.instance.event_log_storage.get_maximum_record_id(), known.instance.get_runs_count()
    assert demo(known) == 0
    assert (known.instance.event_log_storage.get_maximum_record_id(), known.instance.get_runs_count()) == before


def test_a_new_sample_is_planned_and_made_and_nothing_else(known: Project) -> None:
    write_sample(known.settings.incoming / "second.fasta", ["rabies_N"])
    assert stale(known) == Stale(files=["second.fasta"])
    assert demo(known) == 2
    others = {"esm2_3b_embeddings", "esm2_3b_features"}  # of the variant that does not serve
    assert stale(known) == Stale(samples={"second": others})
    assert (known.workspace.layout.sample_report("second") / "summary.tsv").is_file()


def test_what_is_no_sample_is_named_once_and_holds_up_no_sample(known: Project, capfd: CaptureFixture[str]) -> None:
    incoming, printed = known.settings.incoming, io.StringIO()
    write_sample(incoming / "second.fasta", ["rabies_N"])
    (incoming / "second.fasta.fai").touch()
    (incoming / "folder").mkdir()
    os.mkfifo(incoming / "pipe.fasta")
    (incoming / "dangling.fasta").symlink_to("nowhere")
    assert demo(known, printed) == 2
    assert (known.workspace.layout.sample_report("second") / "summary.tsv").is_file()
    reasons = {
        "dangling.fasta": "expected a sequence file, found a link to nothing",
        "folder": "expected a sequence file, found a folder",
        "pipe.fasta": "expected a sequence file, found a pipe",
        "second.fasta.fai": "the file is empty",
    }
    assert [line.partition(": ")[0] for line in printed.getvalue().splitlines()] == ["Not a sample"] * len(reasons)
    assert [words for words in reasons.values() if words not in printed.getvalue()] == []
    assert "Traceback" not in capfd.readouterr().err
    (incoming / "folder/inside.fasta").touch()
    assert demo(known, printed) == 0
    assert printed.getvalue().count("\n") == len(reasons)


def test_a_replaced_source_is_planned_and_its_shards_are_stale(known: Project) -> None:
    path = known.settings.genomes / "viral/HIV1.fna"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[2:]]))
    before = set(known.keys(REFERENCE))
    assert stale(known) == Stale(plan=True)
    assert failures(known.job(PLAN_REFERENCE_JOB)) == []
    (new,) = set(known.keys(REFERENCE)) - before
    lost_the_record = "viral-0001"
    follows = {"reference_ledger", "train_test_split", *TRAINED, *DECIDED}
    assert stale(known) == Stale(reference=dict.fromkeys([new, lost_the_record], set(STAGES)), whole=follows)
    assert failures(*known.run_shards(jobs.REFERENCE_JOB, REFERENCE)) == []
    assert stale(known) == Stale(whole={*follows, "encoder_benchmark"})


def test_settings_and_removed_tables_ask_for_exactly_what_follows_from_them(known: Project) -> None:
    layout, shard = known.workspace.layout, known.keys(REFERENCE)[0]
    known.configure(training={"max_epochs": 6})
    assert stale(known) == Stale(whole={*TRAINED, *DECIDED})
    known.configure(split={"seed": 3})
    assert stale(known) == Stale(whole={"train_test_split", *TRAINED, *DECIDED})
    known.configure(decision={"min_speedup": 1.5})
    assert stale(known) == Stale(whole={"migration_decision"})

    known.configure(encoding={"precision": "bf16"})
    found = stale(known)
    assert found.reference == dict.fromkeys(known.keys(REFERENCE), {*EMBEDDINGS, *FEATURES})
    of_sample = {*(f"{name}_embeddings" for name in LANGUAGE), *FEATURES[:2], "predictions", "report"}
    assert found.samples == {SAMPLE: of_sample}
    assert found.whole == {*TRAINED, *DECIDED, "encoder_benchmark"}

    known.configure(sequences={"frame_rule": "longest_orf"})
    found = stale(known)
    assert found.reference == dict.fromkeys(known.keys(REFERENCE), {*STAGES} - {"chunked_fasta", "kmer_features"})
    assert found.samples == {SAMPLE: {"translated_proteins", *of_sample}}
    of_kmers = {"kmer_classifier", "kmer_evaluation", "frame_rules"}  # whose rule is its own
    assert found.whole == {*TRAINED, *DECIDED} - of_kmers

    known.configure()
    removed = layout.table("reference", "kmer_features", shard)
    removed.unlink()
    assert stale(known) == Stale(reference={shard: {"kmer_features"}})
    of_reference, of_samples = known.check(REFERENCE.key("shards"), SAMPLES.key("shards")).values()
    assert of_samples.passed and not of_reference.passed
    (fault,) = of_reference.metadata["first_faults"].records  # type: ignore[union-attr]
    assert fault.data == {
        "where": f"partition {shard}",
        "fault": "missing or stale: materialize reference/kmer_features",
    }
    assert demo(known) == 1
    assert removed.is_file() and stale(known) == Stale()
    ledger = layout.table("samples", "ledger", known.shards(SAMPLES)[0])
    for path in (layout.whole("train_test_split"), layout.sample_report(SAMPLE) / "summary.tsv", ledger):
        path.unlink()
    of_sample = {"translated_proteins", "report"}  # frames come with their ledger
    assert stale(known) == Stale(samples={SAMPLE: of_sample}, whole={"train_test_split", *TRAINED, *DECIDED})
