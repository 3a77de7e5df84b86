"""`virnuc status` tells what is there, what is stale and why, and what will be asked for; it changes nothing."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from virnuc_assets import status as status_module
from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.cli import app
from virnuc_assets.partitions import REFERENCE, SAMPLES
from virnuc_assets.sequences.incoming import IncomingFile, file_states, visible_files, waiting_files, write_into_book
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]
NOTHING = {"count": 0, "newest": []}


def status(project: Project, *options: str) -> dict[str, Any]:
    """What the command tells machines, in this process."""
    result = CliRunner().invoke(app, ["status", "--json", *options, "--config", str(project.root / "virnuc.toml")])
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def shown(project: Project) -> str:
    """What it tells persons, blanks and lines of the tables taken away."""
    result = CliRunner().invoke(app, ["status", "--config", str(project.root / "virnuc.toml")], env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.replace("│", " ").split())


def asked(told: dict[str, Any], name: str) -> Any:
    (line,) = (line for line in told["automation"] if line["name"] == name)
    return line["asks_for"]


@pytest.fixture
def planned(copied: Project) -> Project:
    """A copy that knows where its own files lie; its Dagster home has no runs."""
    for name in ("plan_reference", "plan_samples"):
        assert failures(copied.job(name)) == []
    return copied


def test_of_a_finished_project_all_is_made_and_nothing_is_asked_for(planned: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in planned.tables().values()}
    told = status(planned)
    assert [told[key] for key in ("stale", "changed_sources", "watched_files")] == [[], [], []]
    counts = {domain: len(planned.keys(shards)) for domain, shards in (("reference", REFERENCE), ("samples", SAMPLES))}
    for domain, shards in told["shards"].items():
        assert (shards["planned"], shards["to_do"]) == (counts[domain], 0)
        made = {(of["made"], of["stale"], of["missing"]) for of in shards["assets"].values()}
        assert made == {(counts[domain], 0, 0)}
    assert asked(told, "weekly_reembedding") == {"shards": 0, "changed_sources": 0}
    assert asked(told, "incoming_samples") == {"files": 0}
    assert told["daemon"] is False
    assert "The daemon does not run" in shown(planned)
    assert {path: path.stat().st_mtime_ns for path in planned.tables().values()} == before


def test_what_is_stale_missing_and_waiting_is_told_with_its_reason(planned: Project) -> None:
    folder, shards = planned.workspace.layout.results / "reference", planned.keys(REFERENCE)
    (folder / f"kmer_features/{shards[0]}.parquet").unlink()
    (folder / f"kmer_features/{shards[1]}.parquet").write_bytes(b"damaged")
    config = planned.workspace.layout.checkpoints / "esm2_3b_miniature/config.json"
    config.write_text(config.read_text() + "\n")
    fasta = planned.workspace.catalogue()[0].fasta
    fasta.write_text(fasta.read_text() + ">one_more\nACGT\n")
    (planned.settings.incoming / "late\x1b[31m.fasta").write_text(">a\nACGT\n")
    (planned.settings.incoming / "....").write_text(">a\nACGT\n")

    told = status(planned, "--examples", "1")
    features = told["shards"]["reference"]["assets"]["kmer_features"]
    assert (features["made"], features["stale"], features["missing"]) == (len(shards) - 2, 1, 1)
    reasons = {line["asset"]: line for line in told["stale"]}
    assert reasons["reference/kmer_features"]["reason"] == "damaged"
    assert reasons["reference/kmer_features"]["examples"] == [shards[1]]
    embeddings = reasons["reference/esm2_3b_embeddings"]
    assert embeddings["reason"].startswith("encoder esm2_3b_miniature: weights changed (expected ")
    assert (embeddings["count"], embeddings["examples"]) == (len(shards), [shards[0]])
    assert [line["reason"] for line in told["changed_sources"]] == ["its files changed since they were planned"]
    assert [(line["reason"], line["examples"]) for line in told["watched_files"]] == [
        ("new or changed, not planned yet", [r"late\x1b[31m.fasta"])
    ]
    assert asked(told, "weekly_reembedding") == {"shards": len(shards), "changed_sources": 1}
    text = shown(planned)
    assert "\x1b" not in text and r"late\x1b[31m.fasta" in text
    assert f"{len(shards)} shards, 1 changed sources" in text


def into_book(project: Project, present: list[str], **reasons: str) -> None:
    """What a run of the plan writes there: files that were refused, and which of all lie in the folder."""
    states = file_states(visible_files(project.settings.incoming), project.settings.sequences)
    entries = [IncomingFile(name, states[name], "refused", None, None, reason) for name, reason in reasons.items()]
    write_into_book(project.workspace.layout, entries, present)


def test_a_file_that_is_booked_while_it_is_looked_at_is_told_once(
    planned: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned.settings.incoming / "late").write_text("MKV\n")

    def booked_before(*given: Any) -> dict[str, str]:
        into_book(planned, ["late"], late="no FASTA")
        return waiting_files(*given)

    def booked_after(*given: Any) -> dict[str, str]:
        found = waiting_files(*given)
        into_book(planned, ["late"], late="no FASTA")
        return found

    monkeypatch.setattr(status_module, "waiting_files", booked_after)
    assert status_module.watched_files(planned.workspace) == {"late": "new or changed, not planned yet"}
    into_book(planned, [])
    monkeypatch.setattr(status_module, "waiting_files", booked_before)
    assert status_module.watched_files(planned.workspace) == {"late": "refused: no FASTA"}


def test_a_file_that_is_taken_away_while_it_is_looked_at_is_passed_over(
    planned: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, later = (planned.settings.incoming / name for name in ("late", "later"))

    def gone_meanwhile(*given: Any) -> dict[str, str]:
        late.unlink()
        found = waiting_files(*given)
        into_book(planned, [])
        return found

    for path in (late, later):
        path.write_text("MKV\n")
    into_book(planned, ["late", "later"], later="no FASTA")
    assert status_module.watched_files(planned.workspace)["later"] == "refused: no FASTA"
    monkeypatch.setattr(status_module, "waiting_files", gone_meanwhile)
    assert status_module.watched_files(planned.workspace) == {}


@pytest.fixture
def home(blank: Path, tmp_path: Path) -> Project:
    """A project that is set up, with a Dagster home of its own and one reference source that cannot be planned."""
    project = new_project(tmp_path / "project", blank, ["phiX174"], in_memory=False)
    (project.settings.genomes / "viral").mkdir(exist_ok=True)
    project.workspace.catalogue()[0].fasta.write_text("MKVLAT\n")
    return project


def test_a_failed_run_is_told_with_its_reason_and_where_to_see_it(home: Project) -> None:
    result = home.job(PLAN_REFERENCE_JOB)
    assert not result.success
    told = status(home)
    assert told["runs"]["queued"] == told["runs"]["in_progress"] == NOTHING
    failed = told["runs"]["failed_in_the_last_day"]
    (run,) = failed["newest"]
    assert (failed["count"], run["job"]) == (1, PLAN_REFERENCE_JOB)
    assert "phiX174: " in run["reason"] and "\n" not in run["reason"]
    assert run["see"].endswith(f"/runs/{result.run_id}")
    assert run["reason"][:40] in shown(home)
    assert [(line["reason"], line["examples"]) for line in told["changed_sources"]] == [
        ("not planned yet", ["phiX174"])
    ]


def test_what_a_person_turned_off_is_off_and_what_is_on_has_a_next_tick(home: Project) -> None:
    repository = home.defs.get_repository_def()
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData

    (line,) = (line for line in status(home)["automation"] if line["name"] == "weekly_reembedding")
    assert line["on"] is True
    tick = dt.datetime.fromisoformat(line["next_tick"])
    assert (tick.weekday(), tick.hour, tick.minute) == (6, 3, 0)
    assert dt.timedelta() < tick - dt.datetime.now(dt.UTC) <= dt.timedelta(days=7)

    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("virnuc_assets"), repository.name)
    state = InstigatorState(
        origin.get_instigator_origin("weekly_reembedding"),
        InstigatorType.SCHEDULE,
        InstigatorStatus.STOPPED,
        ScheduleInstigatorData("0 3 * * 0", dt.datetime.now(dt.UTC).timestamp()),
    )
    home.instance.add_instigator_state(state)
    (line,) = (line for line in status(home)["automation"] if line["name"] == "weekly_reembedding")
    assert (line["on"], line["next_tick"]) == (False, None)


def test_without_a_home_it_says_how_to_make_one(blank: Path, tmp_path: Path) -> None:
    project = new_project(tmp_path / "project", blank)
    shutil.rmtree(dagster_home(project.settings))
    result = CliRunner().invoke(app, ["status", "--config", str(project.root / "virnuc.toml")])
    assert result.exit_code == 1
    assert "run `virnuc setup`" in " ".join(result.stderr.split())
    assert not dagster_home(project.settings).exists()


def test_it_loads_no_model_and_no_tracking_server(home: Project) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom virnuc_assets.cli import app\n"
        "result = CliRunner().invoke(app, ['status', '--json'])\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
