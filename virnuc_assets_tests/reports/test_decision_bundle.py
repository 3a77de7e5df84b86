"""A stored decision is computed again to the byte; whatever was altered in its folder is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from virnuc_assets.cli.main import app
from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.reports.decision_bundle import Bundle, recompute, write_bundle
from virnuc_assets_tests.migration.evidence_fakes import (
    EVALUATION,
    SETTINGS,
    description,
    evidence,
    frame_rules_table,
    replaced,
    right,
    rows,
    variant,
)

pytestmark = pytest.mark.xdist_group("bundle")  # one process makes `written`

LINKS = (("MLflow run", "http://127.0.0.1:5000/#/experiments/1/runs/abc"),)


def given() -> Evidence:
    """Four variants, ablations, frame rules, one problem: all that evidence can hold."""
    good = rows(right(50), right(50))
    return evidence(
        also_compared=(variant("esm2_650", rows(right(50, wrong=5), right(50))),),
        ablations={"dnabert_s": rows(right(50, wrong=20), right(50)), "fastesm2": good},
        frame_rules=frame_rules_table(),
        benchmark_problems=("encoder_benchmark is stale",),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decided") / "migration_decision"
    write_bundle(path, Bundle(given(), SETTINGS, EVALUATION, LINKS))
    return path


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "migration_decision"))


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Alter a table as a person would: its metadata stays, its rows do not."""
    table = pq.read_table(path)
    changed = change(table)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def test_a_decision_is_computed_again_to_the_byte(folder: Path, tmp_path: Path) -> None:
    decision, faults = recompute(folder)
    assert faults == []
    assert decision == Bundle(given(), SETTINGS, EVALUATION, LINKS).pages()[0]
    moved = tmp_path / "sent by mail"
    shutil.move(folder, moved)
    assert recompute(moved)[1] == []
    assert sorted(path.name for path in moved.rglob("*") if path.is_file()) == [
        *("dnabert_s.parquet", "esm2_3b.parquet", "esm2_650.parquet", "evidence.json", "fastesm2.parquet"),
        *("fastesm2.parquet", "frame_rules.parquet", "kmer.parquet"),
        *("migration_decision.html", "migration_decision.json", "migration_decision.md"),
    ]


def test_evidence_without_tables_is_computed_again_as_well(tmp_path: Path) -> None:
    bare = evidence(baseline=variant("esm2_3b", None, description=None, problems=("gone",)), benchmark=None)
    decision = write_bundle(tmp_path / "bare", Bundle(bare, SETTINGS, EVALUATION))
    assert decision.outcome == "NO DECISION"
    assert recompute(tmp_path / "bare") == (decision, [])


def test_the_order_of_what_was_given_decides_nothing(tmp_path: Path) -> None:
    """Descriptions come from models, and are read back from JSON that sorts its keys."""
    facts = description("esm2_3b", training={"seed": 1, "hidden": 4, "batch_rows": 32}, zebra=1, ape={"b": 1, "a": 2})
    other = evidence(baseline=variant("esm2_3b", rows(right(50), right(50)), description=facts))
    write_bundle(tmp_path / "decision", Bundle(other, SETTINGS, EVALUATION))
    assert recompute(tmp_path / "decision")[1] == []


def test_one_altered_score_is_named_with_its_table_and_row(folder: Path) -> None:
    path = folder / "predictions/fastesm2.parquet"
    rewrite(path, lambda table: replaced(table, "score_virus", {3: 0.8999}))
    _, faults = recompute(folder)
    assert faults[0] == f"{path}: 1 of 100 rows were altered: viral0_chunk_4F1"
    named = "\n".join(faults)
    assert f"{folder / 'migration_decision.html'}: not what the evidence gives" in named
    assert "variants.candidate.performance.levels.frame.brier: stored " in named


def test_rows_that_went_or_moved_are_named(folder: Path) -> None:
    rewrite(folder / "frame_rules.parquet", lambda table: replaced(table, "probability", {0: 0.1}))
    gone, moved = (folder / f"predictions/{variant}.parquet" for variant in ("kmer", "esm2_650"))
    rewrite(gone, lambda table: table.slice(1))
    rewrite(moved, lambda table: table.take(list(range(99, -1, -1))))
    faults = recompute(folder)[1]
    assert f"{folder / 'frame_rules.parquet'}: 1 of 8 rows were altered: v1_chunk_0" in faults
    named = [fault for fault in faults if "rows were added, removed or moved" in fault]
    assert {fault.partition(":")[0] for fault in named} == {str(gone), str(moved)} and len(named) == 2


def test_altered_evidence_and_pages_are_named(folder: Path) -> None:
    page = folder / "migration_decision.html"
    page.write_text(page.read_text().replace("NO DECISION", "GO"))
    assert recompute(folder)[1] == [f"{page}: not what the evidence gives"]
    stored = json.loads((folder / "evidence.json").read_text())
    stored["settings"]["max_accuracy_drop"] = 0.5
    stored["environment"]["version.matplotlib"] = "1.0"
    (folder / "evidence.json").write_text(json.dumps(stored))
    faults = recompute(folder)[1]
    named = "\n".join(faults)
    assert "settings.max_accuracy_drop: stored 0.05, computed 0.5" in named and "settings_digest" in named
    assert faults[-1].startswith("version.matplotlib was 1.0, is ")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "evidence.json").unlink(), "evidence.json: not found; expected the folder of a"),
        (lambda folder: (folder / "evidence.json").write_text("{}"), "not the evidence of a decision: KeyError"),
        (lambda folder: (folder / "evidence.json").write_text("[1"), "not the evidence of a decision: JSONDecode"),
        (lambda folder: (folder / "predictions/kmer.parquet").unlink(), "kmer.parquet: the table does not exist"),
        (lambda folder: (folder / "predictions/kmer.parquet").write_text("PAR1"), "kmer.parquet: damaged, or not a"),
    ],
)
def test_a_folder_that_is_not_a_decision_is_refused(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(VirnucError, match=message):
        recompute(folder)


def test_a_new_decision_replaces_the_folder_and_a_failed_one_does_not(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    bad = Bundle(given(), SETTINGS, EVALUATION, (("run", "javascript:alert(1)"),))
    with pytest.raises(Exception, match="javascript"):
        write_bundle(folder, bad)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    write_bundle(folder, Bundle(evidence(), SETTINGS, EVALUATION))
    assert not (folder / "ablations").exists()
    assert recompute(folder)[1] == []
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_command_prints_the_verdict_and_what_is_not_reproduced(folder: Path) -> None:
    found = CliRunner().invoke(app, ["decide", "--from", str(folder)])
    assert found.exit_code == 0
    assert "NO DECISION" in found.stdout and "Reproduced, byte for byte" in found.stdout
    rewrite(folder / "predictions/esm2_3b.parquet", lambda table: replaced(table, "cluster", {0: "elsewhere"}))
    found = CliRunner().invoke(app, ["decide", "--from", str(folder)])
    assert found.exit_code == 1
    assert "not reproduced" in found.stderr and "rows were altered: viral0_chunk_1F1" in found.stderr
