"""A further encoder, named in the settings, is embedded, trained, evaluated and shown beside the others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.encoders.miniature import write_miniature
from virnuc_assets_tests.assets.judging import judged, named
from virnuc_assets_tests.assets.project import Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def widened(copied: Project) -> Project:
    """The finished project with one more encoder in its settings."""
    copied.configure(decision={"beside": ["esm2_650"]})
    write_miniature(copied.workspace.encoder("esm2_650"), copied.workspace.layout.checkpoints)
    return copied


def test_it_is_judged_beside_the_others_and_costs_its_own_tables_alone(widened: Project) -> None:
    """Without the other encoders' benchmark, the ablations and the pages, which the slow test makes."""
    before = {name: path.stat().st_mtime_ns for name, path in widened.tables().items()}
    names = [REFERENCE.key("esm2_650_embeddings"), REFERENCE.key("esm2_650_features")]
    made = widened.materialize(*names, partition=REFERENCE)
    assert failures(made, widened.materialize("esm2_650_classifier", "esm2_650_evaluation")) == []
    after = {name: path.stat().st_mtime_ns for name, path in widened.tables().items()}
    assert {Path(name).parent.name for name in after.keys() - before.keys()} == {
        *("esm2_650_embeddings", "esm2_650_features", "esm2_650_evaluation")
    }
    assert {name: after[name] for name in before} == before

    decision = judged(widened)
    assert sorted(decision["variants"]) == ["baseline", "candidate", "esm2_650", "floor"]
    shown = decision["variants"]["esm2_650"]
    assert shown["protein_encoder"] == "esm2_650_miniature" and shown["problems"] == []
    rows = {role: variant["performance"]["levels"]["frame"]["rows"] for role, variant in decision["variants"].items()}
    assert len(set(rows.values())) == 1
    assert set(decision["comparisons"]) == {"baseline", "esm2_650", "floor"}
    assert named(decision, "encoder_benchmark is stale", "esm2_650")
    told = [criterion["explanation"] for criterion in decision["criteria"] if criterion["outcome"] != "missing"]
    assert told and not any("esm2_650" in explanation for explanation in told)


@pytest.mark.slow
def test_esm2_650_stands_beside_the_others(widened: Project) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in widened.tables().items() if "embeddings" in name}
    results = [*widened.run_shards(jobs.REFERENCE_JOB, REFERENCE), widened.job(jobs.DECISION_JOB)]
    assert failures(*results) == []
    after = {name: path.stat().st_mtime_ns for name, path in widened.tables().items() if "embeddings" in name}
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"esm2_650_embeddings"}
    assert {name: after[name] for name in before} == before

    stored: dict[str, Any] = json.loads(widened.workspace.layout.whole("migration_decision", ".json").read_text())
    assert sorted(stored["variants"]) == ["baseline", "candidate", "esm2_650", "floor"]
    shown = stored["variants"]["esm2_650"]
    assert shown["protein_encoder"] == "esm2_650_miniature" and shown["problems"] == []
    rows = {role: variant["performance"]["levels"]["frame"]["rows"] for role, variant in stored["variants"].items()}
    assert len(set(rows.values())) == 1
    assert set(stored["comparisons"]) == {"baseline", "esm2_650", "floor"}
    assert set(stored["ablations"]) == {"dnabert_s", "fastesm2_650", "esm2_3b", "esm2_650"}
    assert "esm2_650" in stored["benchmark"]
    assert [c["explanation"] for c in stored["criteria"] if re.search(r"\besm2_650", c["explanation"])] == []
