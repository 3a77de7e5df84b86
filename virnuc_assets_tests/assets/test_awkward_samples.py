"""The awkward files as samples in the watched folder, all at once: what cannot be read is named, others are planned."""

import re
import shutil
from pathlib import Path

import pytest

from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.sequences.catalogue import source_name
from virnuc_assets.sequences.incoming import read_intake_log
from virnuc_assets_tests.assets.project import failures, new_project
from virnuc_assets_tests.sequences.test_nasty import FOLDER, REFUSED, TABLE

# Their records are those of a file before them.
SAME_AS_ANOTHER = {"gb_no_end_marker.gb", "gb_wrong_sequence_indent.gb"}

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
def test_awkward_samples_are_planned_or_named(blank: Path, tmp_path: Path) -> None:
    project = new_project(tmp_path / "project", blank)
    incoming = project.settings.incoming
    for name in TABLE:
        shutil.copyfile(FOLDER / name, incoming / name)
    refused = {name for name, cells in TABLE.items() if cells[0].startswith(REFUSED)}

    (told,) = failures(project.job(jobs.PLAN_SAMPLES_JOB))
    assert "samples that cannot be read; all others are planned:" in told
    assert f"and {len(refused) - 10} more" in told
    log = read_intake_log(project.workspace.layout)
    reasons = {entry.file: str(entry.reason) for entry in log.values() if entry.fate == "refused"}
    assert set(reasons) == refused
    for name, reason in reasons.items():
        assert reason.startswith(f"{incoming / name}: ")
        assert [word for word in re.findall("`([^`]+)`", TABLE[name][0]) if word not in reason] == []

    duplicates = {entry.file for entry in log.values() if entry.fate == "duplicate"}
    assert duplicates == SAME_AS_ANOTHER
    read = {source_name(Path(name)) for name in set(TABLE) - refused - duplicates}
    assert set(project.keys(SAMPLES)) == read
    assert {path.stem for path in project.workspace.layout.plan("samples", "x").parent.iterdir()} == read
    project.instance.dispose()
