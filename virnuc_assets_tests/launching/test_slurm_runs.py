"""Runs launched through a real Slurm: what they ask for, and what becomes of them whoever ends them."""

import contextlib
import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.encoders.device_lock import device_names
from virnuc_assets.launch import SLURM_TAG
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.processes import end
from virnuc_assets.requests import RANGE_END, RANGE_START
from virnuc_assets.slurm import JOB_TAG
from virnuc_assets.storage.held_files import hold, release
from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.launching.platform import LAUNCH_RUN, REPOSITORY, Platform, framed_project, platform
from virnuc_assets_tests.launching.slurm_cluster import KILL_WAIT_SECONDS, Cluster
from virnuc_assets_tests.running import CHECKOUT, Running, running, until

pytestmark = pytest.mark.slurm
pytest_plugins = ["virnuc_assets_tests.assets.finished", "virnuc_assets_tests.launching.slurm_cluster"]

GENOMES = ("phiX174", "dengue1", "dengue2", "HIV1", "plasmid_pPCP1")
PATHS = ("ui", "backfill", "sensor", "schedule", "automation")
DEPLOYED = CHECKOUT / "deploy/slurm/dagster.yaml"
NOT_PASSED_ON = {"A_SECRET": "not for jobs"}
SECONDS = 180.0  # some machines do much else
# As the page cancels a run that has not begun; it offers no other way.
FORCED = """mutation($run: String!) { terminateRun(runId: $run, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""


def quick(deployed: Path) -> str:
    """A deployment's dagster.yaml for a small node and tests that do not like to wait."""
    settings = yaml.safe_load(deployed.read_text(encoding="utf-8"))
    config = {"resources": {"cpus_per_task": 1}, "environment": ["PYTHONPATH", "OMP_WAIT_POLICY"]}
    settings["run_launcher"]["config"] = config
    settings["run_coordinator"]["config"]["dequeue_interval_seconds"] = 1
    settings["run_monitoring"]["poll_interval_seconds"] = 1
    return yaml.safe_dump(settings)


@pytest.fixture(scope="module")
def framed(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a project that is only copied."""
    project = framed_project(tmp_path_factory.mktemp("framed") / "project", blank, GENOMES, quick(DEPLOYED))
    project.instance.dispose()
    return project.root


@pytest.fixture(scope="module")
def servers(framed: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    root = tmp_path_factory.mktemp("on_slurm") / "project"
    shutil.copytree(framed, root)
    with platform(Project(root), {"OMP_WAIT_POLICY": "passive", **NOT_PASSED_ON}) as servers:
        yield servers
        cluster.clear()
    servers.project.instance.dispose()


@contextlib.contextmanager
def device_held(project: Project) -> Iterator[Callable[[], None]]:
    """Runs that embed wait in their step as long as this process holds the device; gives what lets it go."""
    path = project.workspace.layout.locks / f"{device_names(project.settings.encoding.device)[0]}.lock"
    until(lambda: hold(path), "the device", patience=SECONDS)  # a run that has succeeded holds it until its end
    with contextlib.ExitStack() as holding:
        holding.callback(release, path)
        yield holding.close


def launch(servers: Running, asset: str, keys: list[str], **tags: str) -> str:
    selection = [{"path": list(REFERENCE.key(asset).path)}]
    selector = {**REPOSITORY, "jobName": "__ASSET_JOB", "assetSelection": selection, "assetCheckSelection": []}
    tags |= {"dagster/partition": keys[0]} if len(keys) == 1 else {RANGE_START: keys[0], RANGE_END: keys[-1]}
    metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": metadata}
    answer = servers.ask(LAUNCH_RUN, params=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def tags_of(servers: Running, run_id: str) -> Mapping[str, str]:
    run = servers.project.instance.get_run_by_id(run_id)
    assert run is not None
    return run.tags


def job_of(servers: Running, run_id: str) -> str:
    """Number of a run's job, as soon as it is submitted."""
    until(lambda: JOB_TAG in tags_of(servers, run_id), "a job", patience=SECONDS)
    return tags_of(servers, run_id)[JOB_TAG]


def told(servers: Running, run_id: str) -> str:
    """All that the UI shows of a run's events, errors included."""
    entries = servers.project.instance.all_logs(run_id)
    return "\n".join(f"{entry.user_message} {entry.dagster_event}" for entry in entries)


def waits(servers: Running, run_id: str) -> bool:
    return "waiting for" in told(servers, run_id)


def becomes(servers: Running, run_id: str, status: str, patience: float = SECONDS) -> None:
    until(lambda: servers.status(run_id) == status, f"{status} of {run_id}", patience=patience, every=0.3)


def embeddings(project: Project) -> dict[str, bytes]:
    folder = project.workspace.layout.results / "reference/dnabert_s_embeddings"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_five_ways_to_launch_ask_for_a_gpu_and_share_it(
    servers: Platform, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = servers.project.keys(REFERENCE)
    assert len(keys) == len(PATHS)
    ways = list(zip(PATHS, keys, strict=True))
    with device_held(servers.project) as let_go:
        runs = {path: servers.launch_by(path, key) for path, key in ways[:3]}
        first, *others = (job_of(servers, run) for run in runs.values())
        until(lambda: waits(servers, runs["ui"]), "the first run", patience=SECONDS)
        for number in others:
            until(lambda number=number: cluster.job(number)["Reason"] in ("Resources", "Priority"), number, patience=20)
            assert cluster.job(number)["JobState"] == "PENDING"
        (process,) = [found for found in cluster.processes(first) if "execute_run" in found.cmdline()]
        environment = process.environ()
        assert environment["DAGSTER_HOME"] == str(dagster_home(servers.project.settings))
        assert environment["OMP_WAIT_POLICY"] == "passive"
        assert not environment.keys() & NOT_PASSED_ON.keys()
        let_go()
    runs |= {path: servers.launch_by(path, key) for path, key in ways[3:]}
    for run in runs.values():
        becomes(servers, run, "SUCCESS")

    jobs = {path: cluster.job(job_of(servers, run)) for path, run in runs.items()}
    with capsys.disabled():
        print("\nlaunch path | slurm | gres")  # noqa: T201
        for path, job in jobs.items():
            print(f"{path} | job {job['JobId']} | {job['TresPerNode']}")  # noqa: T201
    assert {path: job["TresPerNode"] for path, job in jobs.items()} == dict.fromkeys(PATHS, "gres:gpu:1")
    until(lambda: all(span(cluster.job(job["JobId"])) for job in jobs.values()), "ends of all jobs", patience=20)
    spans = sorted(span(cluster.job(job["JobId"])) for job in jobs.values())
    assert [(a, b) for a, b in zip(spans, spans[1:], strict=False) if b[0] < a[1]] == []

    log = Path(jobs["ui"]["StdOut"])
    assert f"PathMetadataValue(fspath='{log}')" in told(servers, runs["ui"])
    assert "Finished execution of step" in log.read_text()


def span(job: Mapping[str, str]) -> tuple[dt.datetime, dt.datetime] | tuple[()]:
    if job["JobState"] != "COMPLETED":
        return ()
    return dt.datetime.fromisoformat(job["StartTime"]), dt.datetime.fromisoformat(job["EndTime"])


def test_tables_are_those_of_the_default_launcher(servers: Platform, framed: Path, tmp_path: Path) -> None:
    on_slurm = embeddings(servers.project)
    assert len(on_slurm) == len(PATHS)
    shutil.copytree(framed, tmp_path / "project")
    project = Project(tmp_path / "project")
    shutil.copyfile(CHECKOUT / "virnuc_assets/dagster.yaml", dagster_home(project.settings) / "dagster.yaml")
    with platform(project) as by_default:
        run = launch(by_default, "dnabert_s_embeddings", project.keys(REFERENCE))
        becomes(by_default, run, "SUCCESS")
    assert JOB_TAG not in tags_of(by_default, run)
    assert embeddings(project) == on_slurm
    project.instance.dispose()


def test_pending_jobs(servers: Platform, cluster: Cluster) -> None:
    """The GPU is another's: CPU runs go on; what pends is canceled, cancelled by hand, or survives the controller."""
    key = servers.project.keys(REFERENCE)[:1]
    busy = cluster.ask("sbatch", "--parsable", "--gres=gpu:1", "--output=/dev/null", "--wrap=exec sleep 600")
    once = {"dagster/max_retries": "0"}
    canceled, by_launcher, by_hand, survivor = runs = [
        launch(servers, "dnabert_s_embeddings", key, **once) for _ in range(4)
    ]
    jobs = {run: job_of(servers, run) for run in runs}
    on_cpu = launch(servers, "chunked_fasta", key)
    assert cluster.job(job_of(servers, on_cpu)).get("TresPerNode", "(null)") == "(null)"

    answer = servers.ask(FORCED, run=canceled)["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer
    launcher = servers.project.instance.run_launcher
    assert launcher.terminate(by_launcher)
    assert servers.status(by_launcher) == "CANCELED"
    assert cluster.job(jobs[by_launcher])["JobState"] == "CANCELLED"
    cluster.ask("scancel", jobs[by_hand])
    until(lambda: cluster.job(jobs[canceled])["JobState"] == "CANCELLED", "the job's end", patience=SECONDS)
    assert servers.status(canceled) == "CANCELED"
    becomes(servers, by_hand, "FAILURE")
    assert f"It never began: Slurm job {jobs[by_hand]} is CANCELLED" in told(servers, by_hand)

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
        runs = [launch(servers, "dnabert_s_embeddings", key, **tags) for _ in range(4)]
        canceled, by_hand, too_long, survivor = runs
        jobs = {run: job_of(servers, run) for run in runs}
        for run in runs:
            until(lambda run=run: waits(servers, run), "a step that waits", patience=SECONDS)
            assert cluster.job(jobs[run]).get("TresPerNode", "(null)") == "(null)"
            assert cluster.job(jobs[run])["TimeLimit"] == "01:00:00"

        servers.terminate(canceled)
        cluster.ask("scancel", jobs[by_hand])
        cluster.ask("scontrol", "update", f"JobId={jobs[too_long]}", "TimeLimit=0")
        becomes(servers, canceled, "CANCELED", patience=KILL_WAIT_SECONDS + 20)
        becomes(servers, by_hand, "FAILURE", patience=KILL_WAIT_SECONDS + 20)
        becomes(servers, too_long, "FAILURE")
        for run, state in ((by_hand, "CANCELLED"), (too_long, "TIMEOUT")):
            said = f"It was interrupted: Slurm job {jobs[run]} is {state}"
            until(lambda run=run, said=said: said in told(servers, run), said, patience=SECONDS)
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
    run = launch(servers, "dnabert_s_embeddings", keys)
    number = job_of(servers, run)
    until(lambda: any(folder.glob("*.parquet")), "a first table", patience=SECONDS, every=0.005)
    end(cluster.processes(number))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert 0 < len(before) < len(keys)
    assert servers.succeeds(run) == ["FAILURE", "SUCCESS"]
    assert f"Slurm job {number} is FAILED" in told(servers, run)
    assert "exit code 0:9; its log is /" in told(servers, run)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(folder.glob("*.parquet"))) == len(keys)


ALL_JOBS = ("squeue", "--states=all", "--noheader", "--format=%i")
HOSTILE = [
    "gpu:1; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "gpu:1 --wrap=x",
    "-Jx",
    "gpu\n#SBATCH",
    "gpu\0",
    "'",
    "é",
]


def test_what_slurm_refuses_is_told_and_not_tried_again(servers: Platform, cluster: Cluster) -> None:
    key = servers.project.keys(REFERENCE)[:1]
    jobs = cluster.ask(*ALL_JOBS).splitlines()
    runs = {
        value: launch(servers, "chunked_fasta", key, **{SLURM_TAG: json.dumps({"gres": value})}) for value in HOSTILE
    }
    unknown = launch(servers, "chunked_fasta", key, **{SLURM_TAG: '{"wrap": "touch pwned"}'})
    nowhere = launch(servers, "chunked_fasta", key, **{SLURM_TAG: '{"partition": "nowhere"}'})
    for run in (*runs.values(), unknown, nowhere):
        becomes(servers, run, "FAILURE")
        until(lambda run=run: tags_of(servers, run).get("dagster/will_retry") == "false", "no retry", patience=SECONDS)
    for run in (*runs.values(), unknown):
        assert f"tag {SLURM_TAG} of run {run}" in told(servers, run)
    assert "invalid partition specified: nowhere" in told(servers, nowhere)
    assert set(cluster.ask(*ALL_JOBS).splitlines()) <= set(jobs)
    assert list(servers.project.root.rglob("pwned")) == []


def test_virnuc_up_leaves_jobs_alone(
    framed: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(framed, tmp_path / "project")
    project = Project(tmp_path / "project")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with running(project) as up, device_held(project):
        until(lambda: bool(up.ask("{ version }")), "the web server")
        run = launch(up, "dnabert_s_embeddings", project.keys(REFERENCE)[:1])
        until(lambda: waits(up, run), "a step that waits", patience=SECONDS)
        assert up.stop() == 0
        assert "Runs are left to SlurmRunLauncher" in up.said
    becomes(up, run, "SUCCESS")
    project.instance.dispose()
