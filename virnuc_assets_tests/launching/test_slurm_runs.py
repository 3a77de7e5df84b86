"""Jobs and runs of a real Slurm: what they ask for arrives to the letter, and what becomes of them."""

import datetime as dt
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from virnuc_assets.defs.launchers import slurm
from virnuc_assets.defs.launchers.steps import SLURM_TAG
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets.workstation.up import end
from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.launching.platform import PATHS, Platform, events_of, framed_project, launch
from virnuc_assets_tests.launching.slurm_cluster import Cluster, becomes, device_held, job_of, on_slurm, tags_of, waits
from virnuc_assets_tests.running import until

pytestmark = pytest.mark.slurm
pytest_plugins = ["virnuc_assets_tests.assets.finished", "virnuc_assets_tests.launching.slurm_cluster"]

GENOMES = ("phiX174", "dengue1", "dengue2", "HIV1", "plasmid_pPCP1", "Buchnera")  # five shards, one for each way
NOT_PASSED_ON = {"A_SECRET": "not for jobs"}
# As the page cancels a run that has not started; it offers no other way.
FORCED = """mutation($run: String!) { terminateRun(runId: $run, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""


@pytest.fixture(scope="module")
def framed(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a project that is only copied."""
    project = framed_project(tmp_path_factory.mktemp("framed") / "project", blank, GENOMES)
    project.instance.dispose()
    return project.root


@pytest.fixture(scope="module")
def servers(framed: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    root = tmp_path_factory.mktemp("on_slurm") / "project"
    shutil.copytree(framed, root)
    with on_slurm(Project(root), cluster, NOT_PASSED_ON) as servers:
        yield servers
    servers.project.instance.dispose()


def test_five_ways_to_launch_ask_for_a_gpu_and_share_it(
    servers: Platform, cluster: Cluster, report_line: Callable[[str], None]
) -> None:
    keys = servers.project.keys(REFERENCE)
    assert len(keys) == len(PATHS)
    ways = dict(zip(PATHS, keys, strict=True))
    last = {"automation": ways.pop("automation")}
    with device_held(servers.project) as let_go:
        launched = servers.launch_by(ways)
        by_schedule = launched.pop("schedule")
        runs = {path: run() for path, run in launched.items()}
        numbers = {path: job_of(servers, run) for path, run in runs.items()}
        until(lambda: any(waits(servers, run) for run in runs.values()), "the first run")
        (first,) = [numbers.pop(path) for path, run in runs.items() if waits(servers, run)]
        for number in numbers.values():
            until(lambda number=number: cluster.job(number)["Reason"] in ("Resources", "Priority"), number)
            assert cluster.job(number)["JobState"] == "PENDING"
        (process,) = [found for found in cluster.processes(first) if "execute_run" in found.cmdline()]
        environment = process.environ()
        assert environment["DAGSTER_HOME"] == str(dagster_home(servers.project.settings))
        assert environment["OMP_WAIT_POLICY"] == "passive"
        assert not environment.keys() & NOT_PASSED_ON.keys()
        let_go()
    runs["schedule"] = by_schedule()
    runs["automation"] = servers.launch_by(last)["automation"]()
    for run in runs.values():
        becomes(servers, run, "SUCCESS")

    jobs = {path: cluster.job(job_of(servers, run)) for path, run in runs.items()}
    report_line(f"{'launch path':12} | slurm  | request")
    for path, job in jobs.items():
        report_line(f"{path:12} | job {job['JobId']:2} | {job['TresPerNode']}")
    assert {path: job["TresPerNode"] for path, job in jobs.items()} == dict.fromkeys(PATHS, "gres:gpu:1")
    until(lambda: all(span(cluster.job(job["JobId"])) for job in jobs.values()), "ends of all jobs")
    spans = sorted(span(cluster.job(job["JobId"])) for job in jobs.values())
    assert [(a, b) for a, b in zip(spans, spans[1:], strict=False) if b[0] < a[1]] == []

    log = Path(jobs["ui"]["StdOut"])
    assert f"PathMetadataValue(fspath='{log}')" in events_of(servers, runs["ui"])
    assert "Finished execution of run" in log.read_text()


def span(job: Mapping[str, str]) -> tuple[dt.datetime, dt.datetime] | tuple[()]:
    if job["JobState"] != "COMPLETED":
        return ()
    return dt.datetime.fromisoformat(job["StartTime"]), dt.datetime.fromisoformat(job["EndTime"])


def test_pending_jobs(servers: Platform, cluster: Cluster) -> None:
    """The GPU is another's: CPU runs continue; what pends is canceled, cancelled by hand, or outlives slurmctld."""
    key = servers.project.keys(REFERENCE)[:1]
    busy = cluster.ask("sbatch", "--parsable", "--gres=gpu:1", "--output=/dev/null", "--wrap=exec sleep 600")
    once = {"dagster/max_retries": "0"}
    canceled, by_launcher, by_hand, survivor = runs = [
        launch(servers, ["dnabert_s_embeddings"], key, **once) for _ in range(4)
    ]
    jobs = {run: job_of(servers, run) for run in runs}
    on_cpu = launch(servers, ["chunked_fasta"], key)
    assert cluster.job(job_of(servers, on_cpu)).get("TresPerNode", "(null)") == "(null)"

    answer = servers.ask(FORCED, run=canceled)["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer
    launcher = servers.project.instance.run_launcher
    assert launcher.terminate(by_launcher)
    assert servers.status(by_launcher) == "CANCELED"
    assert cluster.job(jobs[by_launcher])["JobState"] == "CANCELLED"
    cluster.ask("scancel", jobs[by_hand])
    until(lambda: cluster.job(jobs[canceled])["JobState"] == "CANCELLED", "the job's end")
    assert servers.status(canceled) == "CANCELED"
    becomes(servers, by_hand, "FAILURE")
    assert f"It never started: Slurm job {jobs[by_hand]} is CANCELLED" in events_of(servers, by_hand)

    becomes(servers, on_cpu, "SUCCESS")
    cluster.wait_until_saved()
    cluster.restart_controller()
    assert cluster.job(jobs[survivor])["JobState"] == "PENDING"
    assert servers.status(survivor) == "STARTING"
    cluster.ask("scancel", busy)
    becomes(servers, survivor, "SUCCESS")


def test_running_jobs(servers: Platform, cluster: Cluster) -> None:
    """Canceled, cancelled by hand, past the time limit; and one whose controller is killed and comes back."""
    key = servers.project.keys(REFERENCE)[:1]
    shutil.rmtree(servers.project.workspace.layout.results / "reference/dnabert_s_embeddings", ignore_errors=True)
    tags = {SLURM_TAG: json.dumps({"gres": None, "time": "1:00:00"}), "dagster/max_retries": "0"}
    with device_held(servers.project) as let_go:
        runs = [launch(servers, ["dnabert_s_embeddings"], key, **tags) for _ in range(4)]
        canceled, by_hand, too_long, survivor = runs
        jobs = {run: job_of(servers, run) for run in runs}
        for run in runs:
            until(lambda run=run: waits(servers, run), "a step that waits")
            assert cluster.job(jobs[run]).get("TresPerNode", "(null)") == "(null)"
            assert cluster.job(jobs[run])["TimeLimit"] == "01:00:00"

        servers.terminate(canceled)
        cluster.ask("scancel", jobs[by_hand])
        cluster.ask("scontrol", "update", f"JobId={jobs[too_long]}", "TimeLimit=0")
        becomes(servers, canceled, "CANCELED")
        becomes(servers, by_hand, "FAILURE")
        becomes(servers, too_long, "FAILURE")
        for run, state in ((by_hand, "CANCELLED"), (too_long, "TIMEOUT")):
            said = f"It was interrupted: Slurm job {jobs[run]} is {state}"
            until(lambda run=run, said=said: said in events_of(servers, run), said)
        assert cluster.job(jobs[canceled])["JobState"] == "CANCELLED"
        assert [jobs[run] for run in runs[:3] if cluster.processes(jobs[run])] == []

        cluster.wait_until_saved()
        cluster.restart_controller(down=6)
        assert servers.status(survivor) == "STARTED"
        let_go()
    becomes(servers, survivor, "SUCCESS")


def test_a_killed_job_is_retried_and_finished_shards_are_kept(servers: Platform, cluster: Cluster) -> None:
    keys = servers.project.keys(REFERENCE)
    folder = servers.project.workspace.layout.results / "reference/dnabert_s_embeddings"
    shutil.rmtree(folder, ignore_errors=True)
    run = launch(servers, ["dnabert_s_embeddings"], keys)
    number = job_of(servers, run)
    until(lambda: any(folder.glob("*.parquet")), "a first table", every=0.005)
    end(cluster.processes(number))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert 0 < len(before) < len(keys)
    assert servers.succeeds(run) == ["FAILURE", "SUCCESS"]
    assert f"Slurm job {number} is FAILED" in events_of(servers, run)
    assert "exit code 0:9; its log is /" in events_of(servers, run)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(folder.glob("*.parquet"))) == len(keys)


def test_a_run_waits_in_dagsters_queue_for_a_controller_that_is_away(servers: Platform, cluster: Cluster) -> None:
    cluster.wait_until_saved()
    cluster.stop_controller()
    run = launch(servers, ["chunked_fasta"], servers.project.keys(REFERENCE)[:1])
    until(lambda: events_of(servers, run).count("re-submitting the run into the queue") > 1, "two attempts")
    assert "sbatch got no answer" in events_of(servers, run) or "squeue got no answer" in events_of(servers, run)
    cluster.start_controller()
    becomes(servers, run, "SUCCESS")
    assert cluster.ask("squeue", "--states=all", "--noheader", "--format=%j").splitlines().count(f"dagster-{run}") == 1


ALL_JOBS = ("squeue", "--states=all", "--noheader", "--format=%i")
HOSTILE = ["gpu:1; touch pwned", "$(touch pwned)", "gpu:1 --wrap=x", "gpu\n#SBATCH"]


def test_what_slurm_refuses_is_reported_and_not_retried(servers: Platform, cluster: Cluster) -> None:
    key = servers.project.keys(REFERENCE)[:1]
    jobs = cluster.ask(*ALL_JOBS).splitlines()
    runs = {
        value: launch(servers, ["chunked_fasta"], key, **{SLURM_TAG: json.dumps({"gres": value})}) for value in HOSTILE
    }
    unknown = launch(servers, ["chunked_fasta"], key, **{SLURM_TAG: '{"wrap": "touch pwned"}'})
    nowhere = launch(servers, ["chunked_fasta"], key, **{SLURM_TAG: '{"partition": "nowhere"}'})
    for run in (*runs.values(), unknown, nowhere):
        becomes(servers, run, "FAILURE")
        until(lambda run=run: tags_of(servers, run).get("dagster/will_retry") == "false", "no retry")
    for value, run in runs.items():
        refusal = "sbatch refused the job: " if value.isprintable() else f"tag {SLURM_TAG} of run {run}"
        assert refusal in events_of(servers, run)
    assert f"tag {SLURM_TAG} of run {unknown}" in events_of(servers, unknown)
    assert "invalid partition specified: nowhere" in events_of(servers, nowhere)
    assert set(cluster.ask(*ALL_JOBS).splitlines()) <= set(jobs)
    assert list(servers.project.root.rglob("pwned")) == []


WORDS = [
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
    until(lambda: slurm.Job(number, cluster.job(number)["JobState"], "", "").ended, "the job")
    return cluster.job(number)


def test_what_a_job_executes_arrives_to_the_letter(
    cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "a folder; with 'signs' $HOME"
    folder.mkdir()
    asked = [f"--chdir={folder}", f"--output={folder}/out", "--comment=$(touch pwned) --hold", "--gres=gpu:1"]
    given_to_it = {**environment, "HOSTILE": "$(touch pwned)\n'"}
    number = slurm.submit("dagster-1", asked, [sys.executable, "-c", TELL, *WORDS], given_to_it)
    job = ends(cluster, number)
    words, variables = json.loads((folder / "out").read_text())
    assert words == WORDS
    assert given_to_it.items() <= variables.items()
    more = {name for name in variables if name not in given_to_it and not name.startswith("SLURM")}
    assert more <= {"PWD", "TMPDIR", "HOSTNAME", "ENVIRONMENT", "SHLVL", "_", "LC_CTYPE"}
    assert (job["JobState"], job["Requeue"], job["TresPerNode"]) == ("COMPLETED", "0", "gres:gpu:1")
    assert slurm.jobs_now()["dagster-1"].number == number
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_an_answer_that_is_lost(cluster: Cluster, environment: dict[str, str], tmp_path: Path) -> None:
    """sbatch submits, and dies before it answers: the job is found, and there is one."""
    (sbatch,) = [path for folder in os.environ["PATH"].split(":") if (path := Path(folder, "sbatch")).exists()][:1]
    lost = tmp_path / "sbatch"
    lost.write_text(f'#!/bin/sh\n{sbatch} "$@" > /dev/null\necho Socket timed out >&2\nexit 1\n')
    lost.chmod(lost.stat().st_mode | stat.S_IXUSR)
    through = {**environment, "PATH": f"{tmp_path}{os.pathsep}{environment['PATH']}"}
    number = slurm.submit("dagster-3", ["--output=/dev/null"], ["true"], through)
    assert ends(cluster, number)["JobState"] == "COMPLETED"
    names = cluster.ask("squeue", "--noheader", "--states=all", "--format=%j").splitlines()
    assert names.count("dagster-3") == 1
