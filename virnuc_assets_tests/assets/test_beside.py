"""A further encoder, named in the settings, is embedded, trained, evaluated and shown beside the others."""

import json
from typing import Any

import pytest

from virnuc_assets import automation
from virnuc_assets.encoders.checkpoints import fetch_checkpoint
from virnuc_assets.partitions import REFERENCE
from virnuc_assets_tests.assets.project import Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.fixture
def widened(copied: Project) -> Project:
    """The finished project with one more encoder in its settings."""
    copied.configure(decision={"beside": ["esm2_650"]})
    fetch_checkpoint(copied.workspace.encoder("esm2_650"), copied.workspace.layout.checkpoints)
    return copied


def test_esm2_650_stands_beside_the_others(widened: Project) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in widened.tables().items() if "embeddings" in name}
    results = [*widened.run_shards(automation.REFERENCE_JOB, REFERENCE), widened.job(automation.DECISION_JOB)]
    assert failures(*results) == []
    after = {name: path.stat().st_mtime_ns for name, path in widened.tables().items() if "embeddings" in name}
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"esm2_650_embeddings"}
    assert {name: after[name] for name in before} == before

    stored: dict[str, Any] = json.loads(widened.workspace.layout.whole("migration_decision", ".json").read_text())
    assert sorted(stored["branches"]) == ["baseline", "candidate", "esm2_650", "floor"]
    shown = stored["branches"]["esm2_650"]
    assert shown["protein_encoder"] == "esm2_650_miniature" and shown["problems"] == []
    rows = {role: branch["performance"]["levels"]["frame"]["rows"] for role, branch in stored["branches"].items()}
    assert len(set(rows.values())) == 1
    assert set(stored["comparisons"]) == {"baseline", "esm2_650", "floor"}
    assert set(stored["ablations"]) == {"dnabert_s", "fastesm2", "esm2_3b", "esm2_650"}
    assert "esm2_650" in stored["benchmark"]
    assert not any("esm2_650" in criterion["explanation"] for criterion in stored["criteria"])
