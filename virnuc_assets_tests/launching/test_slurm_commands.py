"""Real sbatch, squeue and scancel: what is submitted arrives to the letter, once, and what is lost is found again."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnuc_assets.defs.launchers import slurm
from virnuc_assets.defs.launchers.slurm import FORMS, ControllerAway
from virnuc_assets.errors import VirnucError
from virnuc_assets_tests.launching.slurm_cluster import Cluster
from virnuc_assets_tests.running import until

pytestmark = pytest.mark.slurm
pytest_plugins = ["virnuc_assets_tests.launching.slurm_cluster"]

HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "'\"\\",
    "--wrap=id",
    "\n#SBATCH --hold\n",
    "%j",
    "é\u2028",
    "",
]
TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


@pytest.fixture
def environment(cluster: Cluster) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "SLURM_CONF": str(cluster.conf)}


def ends(cluster: Cluster, number: str) -> dict[str, str]:
    until(lambda: slurm.Job(number, cluster.job(number)["JobState"], "", "").ended, "the job", patience=60)
    return cluster.job(number)


def test_what_a_job_executes_arrives_to_the_letter(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "a folder; with 'signs' $HOME"
    folder.mkdir()
    asked = [f"--chdir={folder}", f"--output={folder}/out", "--comment=$(touch pwned) --hold", "--gres=gpu:1"]
    given_to_it = {**environment, "HOSTILE": "$(touch pwned)\n'"}
    number = slurm.submit("dagster-1", asked, [sys.executable, "-c", TELL, *HOSTILE], given_to_it)
    job = ends(cluster, number)
    words, variables = json.loads((folder / "out").read_text())
    assert words == HOSTILE
    assert given_to_it.items() <= variables.items()
    more = {name for name in variables if name not in given_to_it and not name.startswith("SLURM")}
    assert more <= {"PWD", "TMPDIR", "HOSTNAME", "ENVIRONMENT", "SHLVL", "_", "LC_CTYPE"}
    assert (job["JobState"], job["Requeue"], job["TresPerNode"]) == ("COMPLETED", "0", "gres:gpu:1")
    assert slurm.jobs_now()["dagster-1"].number == number
    assert [path.name for path in folder.iterdir()] == ["out"]


fitting = st.fixed_dictionaries({}, optional={key: st.from_regex(form, fullmatch=True) for key, form in FORMS.items()})


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fitting)
def test_what_passes_the_forms_is_at_most_refused(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path, values: dict[str, str]
) -> None:
    """Options that cannot be are told by sbatch; none becomes something else. Nothing runs: the jobs are held."""
    asked = slurm.options(slurm.checked(values, "tag"))
    try:
        command = ["sh", "-c", "touch pwned"]
        number = slurm.submit("dagster-2", [*asked, f"--chdir={tmp_path}", "--hold"], command, environment)
    except VirnucError as error:
        assert "sbatch refused the job" in str(error)
        return
    job = cluster.job(number)
    slurm.cancel(number)
    assert job["JobName"] == "dagster-2"
    assert job["Reason"] == "JobHeldUser"
    assert job.get("TresPerNode", "(null)") in ("(null)", f"gres:{values.get('gres')}")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_lost(cluster: Cluster, environment: dict[str, str], tmp_path: Path) -> None:
    """sbatch submits, and dies before it tells: the job is found, and there is one."""
    (sbatch,) = [path for folder in os.environ["PATH"].split(":") if (path := Path(folder, "sbatch")).exists()][:1]
    lost = tmp_path / "sbatch"
    lost.write_text(f'#!/bin/sh\n{sbatch} "$@" > /dev/null\necho Socket timed out >&2\nexit 1\n')
    lost.chmod(lost.stat().st_mode | stat.S_IXUSR)
    through = {**environment, "PATH": f"{tmp_path}{os.pathsep}{environment['PATH']}"}
    number = slurm.submit("dagster-3", ["--output=/dev/null"], ["true"], through)
    assert ends(cluster, number)["JobState"] == "COMPLETED"
    names = cluster.ask("squeue", "--noheader", "--states=all", "--format=%j").splitlines()
    assert names.count("dagster-3") == 1


def test_a_controller_that_is_away(cluster: Cluster, environment: dict[str, str]) -> None:
    cluster.wait_until_saved()
    cluster.stop_controller()
    with pytest.raises(ControllerAway, match="sbatch got no answer: .*Unable to contact slurm controller"):
        slurm.submit("dagster-4", [], ["true"], environment)
    cluster.start_controller()
    until(lambda: cluster.ask("sinfo", "--noheader", "--format=%T") == "idle", "the controller", patience=30)
    assert "dagster-4" not in slurm.jobs_now()


def test_what_slurm_does_not_have(cluster: Cluster, environment: dict[str, str]) -> None:
    with pytest.raises(VirnucError, match="sbatch refused the job: .*invalid partition specified: nowhere"):
        slurm.submit("dagster-5", ["--partition=nowhere"], ["true"], environment)
    assert "dagster-5" not in slurm.jobs_now()
